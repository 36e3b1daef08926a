#include "core/tokenizer/json_node.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {

absl::StatusOr<nlohmann::json> ParseJsonFile(absl::string_view text) {
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    absl::string_view what = error.what();
    const size_t bracket = what.find("] ");
    if (bracket != absl::string_view::npos) what.remove_prefix(bracket + 2);
    return absl::InvalidArgumentError(absl::StrCat("is no JSON: ", what));
  }
}

bool JsonNode::Has(absl::string_view key) const {
  if (!json_->is_object()) return false;
  const auto it = json_->find(std::string(key));
  return it != json_->end() && !it->is_null();
}

std::string JsonNode::Describe(absl::string_view message) const {
  return path_.empty() ? std::string(message)
                       : absl::StrCat(path_, ": ", message);
}

absl::Status JsonNode::Error(absl::string_view message) const {
  return absl::InvalidArgumentError(Describe(message));
}

absl::Status JsonNode::Unsupported(absl::string_view message) const {
  return absl::UnimplementedError(Describe(message));
}

absl::StatusOr<JsonNode> JsonNode::Field(absl::string_view key,
                                         absl::string_view want) const {
  if (!json_->is_object()) {
    return Error(absl::StrCat("is ", json_->type_name(), "; want an object"));
  }
  const auto it = json_->find(std::string(key));
  if (it == json_->end()) {
    return Error(absl::StrCat("there is no \"", key, "\"; want ", want));
  }
  return JsonNode(
      *it, path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key));
}

namespace {

absl::Status WrongType(const JsonNode& node, absl::string_view want) {
  return node.Error(
      absl::StrCat("is ", node.json().type_name(), "; want ", want));
}

}  // namespace

absl::StatusOr<JsonNode> JsonNode::Object(absl::string_view key) const {
  ASSIGN_OR_RETURN(JsonNode node, Field(key, "an object"));
  if (!node.json().is_object()) return WrongType(node, "an object");
  return node;
}

absl::StatusOr<std::vector<JsonNode>> JsonNode::Array(
    absl::string_view key) const {
  ASSIGN_OR_RETURN(const JsonNode node, Field(key, "an array"));
  if (!node.json().is_array()) return WrongType(node, "an array");
  std::vector<JsonNode> items;
  items.reserve(node.json().size());
  for (const nlohmann::json& item : node.json()) {
    items.emplace_back(item, absl::StrCat(node.path(), "[", items.size(), "]"));
  }
  return items;
}

absl::StatusOr<std::string> JsonNode::String(absl::string_view key) const {
  ASSIGN_OR_RETURN(const JsonNode node, Field(key, "a string"));
  if (!node.json().is_string()) return WrongType(node, "a string");
  return node.json().get_ref<const std::string&>();
}

absl::StatusOr<int64_t> JsonNode::Integer(absl::string_view key) const {
  ASSIGN_OR_RETURN(const JsonNode node, Field(key, "an integer"));
  if (!node.json().is_number_integer()) return WrongType(node, "an integer");
  if (node.json().is_number_unsigned() &&
      node.json().get<uint64_t>() >
          static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return node.Error("is above 2^63");
  }
  return node.json().get<int64_t>();
}

absl::StatusOr<bool> JsonNode::Bool(absl::string_view key) const {
  ASSIGN_OR_RETURN(const JsonNode node, Field(key, "true or false"));
  if (!node.json().is_boolean()) return WrongType(node, "true or false");
  return node.json().get<bool>();
}

absl::StatusOr<std::string> JsonNode::StringOr(
    absl::string_view key, absl::string_view fallback) const {
  if (!Has(key)) return std::string(fallback);
  return String(key);
}

absl::StatusOr<bool> JsonNode::BoolOr(absl::string_view key,
                                      bool fallback) const {
  if (!Has(key)) return fallback;
  return Bool(key);
}

}  // namespace strata
