// Fields of a JSON request, read with messages that name the field:
// "temperature is \"hot\"; want a number".

#ifndef SERVING_API_FIELDS_H_
#define SERVING_API_FIELDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

// Parses a body that must be an object. INVALID_ARGUMENT if it is not JSON in
// UTF-8, not an object, or nested deeper than 32.
absl::StatusOr<nlohmann::ordered_json> ParseBody(absl::string_view body);

// Reads an object field by field. The first error sticks; a field that is not
// there, or null, leaves the default. Not for objects that go away.
class Fields {
 public:
  explicit Fields(const nlohmann::ordered_json& object) : object_(object) {}

  bool Bool(absl::string_view name, bool otherwise);
  int64_t Int(absl::string_view name, int64_t otherwise, int64_t min,
              int64_t max);
  double Number(absl::string_view name, double otherwise);
  std::string String(absl::string_view name, absl::string_view otherwise);

  // The field as it is; null if it is not there.
  const nlohmann::ordered_json& Any(absl::string_view name);
  // A field that means nothing here.
  void Ignore(absl::string_view name) { Any(name); }

  void Fail(std::string message);
  // The first error, or else one that names a field that nobody asked for.
  absl::Status Finish();

 private:
  void WrongType(absl::string_view name, absl::string_view wanted);

  const nlohmann::ordered_json& object_;
  absl::flat_hash_set<std::string> known_;
  absl::Status status_;
};

// A value for a message, cut short.
std::string Shown(const nlohmann::ordered_json& value);

}  // namespace strata

#endif  // SERVING_API_FIELDS_H_
