// A value inside a JSON file with its path, so that an error says where:
//
//   pre_tokenizer.pretokenizers[1].pattern: is a number; want an object
//
// Points into the parsed file, which must outlive it.

#ifndef CORE_TOKENIZER_JSON_NODE_H_
#define CORE_TOKENIZER_JSON_NODE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

// Parses the content of a JSON file.
//
// Returns INVALID_ARGUMENT with the place and the cause if it is none.
absl::StatusOr<nlohmann::json> ParseJsonFile(absl::string_view text);

class JsonNode {
 public:
  explicit JsonNode(const nlohmann::json& json, std::string path = "")
      : json_(&json), path_(std::move(path)) {}

  const nlohmann::json& json() const { return *json_; }
  const std::string& path() const { return path_; }

  // A field that is there and not null.
  bool Has(absl::string_view key) const;

  // Fields. INVALID_ARGUMENT if it is missing (those without a default), null
  // or of another type.
  absl::StatusOr<JsonNode> Object(absl::string_view key) const;
  absl::StatusOr<std::vector<JsonNode>> Array(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  absl::StatusOr<int64_t> Integer(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<std::string> StringOr(absl::string_view key,
                                       absl::string_view fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;

  // INVALID_ARGUMENT, or UNIMPLEMENTED, about this value.
  absl::Status Error(absl::string_view message) const;
  absl::Status Unsupported(absl::string_view message) const;

 private:
  absl::StatusOr<JsonNode> Field(absl::string_view key,
                                 absl::string_view want) const;
  std::string Describe(absl::string_view message) const;

  const nlohmann::json* json_;
  std::string path_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_JSON_NODE_H_
