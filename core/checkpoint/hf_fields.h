// The keys of a JSON object of unknown origin, read one by one.
//
// The first error sticks, and is what status() returns; later reads give their
// defaults. A key that is null counts as absent.

#ifndef CORE_CHECKPOINT_HF_FIELDS_H_
#define CORE_CHECKPOINT_HF_FIELDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

// Text of unknown origin for a message of one line: quoted, escaped, cut.
std::string Shown(absl::string_view text);

class HfFields {
 public:
  // `json`, which must be an object, must outlive this. `path` goes in front of
  // keys in messages: "", or "rope_scaling.".
  HfFields(const nlohmann::json& json, std::string path)
      : json_(&json), path_(std::move(path)) {}

  // Whether the key is there, null or not.
  bool Has(absl::string_view key) const {
    return json_->contains(std::string(key));
  }
  bool empty() const { return json_->empty(); }

  // An integer, or a number without a fraction.
  int64_t Int(absl::string_view key, int64_t absent);
  int64_t Required(absl::string_view key);
  double Number(absl::string_view key, double absent);
  bool Bool(absl::string_view key, bool absent);
  std::string String(absl::string_view key, absl::string_view absent);
  // An object; empty if absent.
  HfFields Object(absl::string_view key);
  // A list of integers; empty if absent.
  absl::StatusOr<std::vector<int64_t>> Ints(absl::string_view key);
  // The one string of a list of one.
  absl::StatusOr<std::string> OneName(absl::string_view key) const;

  const absl::Status& status() const { return status_; }

 private:
  // The value; null if absent.
  const nlohmann::json* Find(absl::string_view key) const;
  void Fail(absl::string_view key, absl::string_view wanted);

  const nlohmann::json* json_;
  std::string path_;
  absl::Status status_;
};

}  // namespace strata

#endif  // CORE_CHECKPOINT_HF_FIELDS_H_
