#include "sim/chakra/attributes.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {
namespace {

using ::ChakraProtoMsg::AttributeProto;
using ::ChakraProtoMsg::Node;

// monostate: no number.
using Number = std::variant<std::monostate, int64_t, uint64_t, double>;

Number ToNumber(const AttributeProto& attribute) {
  switch (attribute.value_case()) {
    case AttributeProto::kDoubleVal:
      return attribute.double_val();
    case AttributeProto::kFloatVal:
      return double{attribute.float_val()};
    case AttributeProto::kInt32Val:
      return int64_t{attribute.int32_val()};
    case AttributeProto::kInt64Val:
      return int64_t{attribute.int64_val()};
    case AttributeProto::kUint32Val:
      return uint64_t{attribute.uint32_val()};
    case AttributeProto::kUint64Val:
      return uint64_t{attribute.uint64_val()};
    case AttributeProto::kSint32Val:
      return int64_t{attribute.sint32_val()};
    case AttributeProto::kSint64Val:
      return int64_t{attribute.sint64_val()};
    case AttributeProto::kFixed32Val:
      return uint64_t{attribute.fixed32_val()};
    case AttributeProto::kFixed64Val:
      return uint64_t{attribute.fixed64_val()};
    case AttributeProto::kSfixed32Val:
      return int64_t{attribute.sfixed32_val()};
    case AttributeProto::kSfixed64Val:
      return int64_t{attribute.sfixed64_val()};
    case AttributeProto::kBoolVal:
      return uint64_t{attribute.bool_val()};
    default:
      return std::monostate();
  }
}

absl::Status WrongKind(absl::string_view name, absl::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrCat("attribute ", name, " is not ", want));
}

AttributeProto* Add(Node& node, absl::string_view name) {
  AttributeProto* const attribute = node.add_attr();
  attribute->set_name(std::string(name));
  return attribute;
}

}  // namespace

const AttributeProto* FindAttribute(const Node& node, absl::string_view name) {
  for (const AttributeProto& attribute : node.attr()) {
    if (attribute.name() == name) return &attribute;
  }
  return nullptr;
}

absl::StatusOr<std::optional<uint64_t>> UnsignedAttribute(
    const Node& node, absl::string_view name) {
  const AttributeProto* const attribute = FindAttribute(node, name);
  if (attribute == nullptr) return std::nullopt;
  const Number number = ToNumber(*attribute);
  if (const auto* value = std::get_if<uint64_t>(&number)) return *value;
  if (const auto* value = std::get_if<int64_t>(&number)) {
    if (*value >= 0) return static_cast<uint64_t>(*value);
    return absl::InvalidArgumentError(absl::StrCat(
        "attribute ", name, " is ", *value, "; want a number from 0 on"));
  }
  if (const auto* value = std::get_if<double>(&number)) {
    // 2^64 is a double; the largest uint64 is not.
    if (*value >= 0 && *value < 0x1p64 && std::trunc(*value) == *value) {
      return static_cast<uint64_t>(*value);
    }
    return absl::InvalidArgumentError(
        absl::StrCat("attribute ", name, " is ", *value,
                     "; want a whole number from 0 to 2^64"));
  }
  return WrongKind(name, "a number");
}

absl::StatusOr<std::optional<bool>> BoolAttribute(const Node& node,
                                                  absl::string_view name) {
  const AttributeProto* const attribute = FindAttribute(node, name);
  if (attribute == nullptr) return std::nullopt;
  const Number number = ToNumber(*attribute);
  if (const auto* value = std::get_if<uint64_t>(&number)) return *value != 0;
  if (const auto* value = std::get_if<int64_t>(&number)) return *value != 0;
  if (const auto* value = std::get_if<double>(&number)) return *value != 0;
  return WrongKind(name, "a truth value or a number");
}

absl::StatusOr<std::optional<std::string>> StringAttribute(
    const Node& node, absl::string_view name) {
  const AttributeProto* const attribute = FindAttribute(node, name);
  if (attribute == nullptr) return std::nullopt;
  switch (attribute->value_case()) {
    case AttributeProto::kStringVal:
      return attribute->string_val();
    case AttributeProto::kBytesVal:
      return attribute->bytes_val();
    default:
      break;
  }
  // A process group's name is a number that some write as one.
  absl::StatusOr<std::optional<uint64_t>> number =
      UnsignedAttribute(node, name);
  if (!number.ok()) return WrongKind(name, "a string");
  return absl::StrCat(**number);
}

absl::StatusOr<std::optional<std::vector<bool>>> BoolListAttribute(
    const Node& node, absl::string_view name) {
  const AttributeProto* const attribute = FindAttribute(node, name);
  if (attribute == nullptr) return std::nullopt;
  if (!attribute->has_bool_list()) return WrongKind(name, "a list of bools");
  const auto& values = attribute->bool_list().values();
  return std::vector<bool>(values.begin(), values.end());
}

void AddBool(Node& node, absl::string_view name, bool value) {
  Add(node, name)->set_bool_val(value);
}

void AddInt32(Node& node, absl::string_view name, int32_t value) {
  Add(node, name)->set_int32_val(value);
}

void AddInt64(Node& node, absl::string_view name, int64_t value) {
  Add(node, name)->set_int64_val(value);
}

void AddUint64(Node& node, absl::string_view name, uint64_t value) {
  Add(node, name)->set_uint64_val(value);
}

void AddString(Node& node, absl::string_view name, absl::string_view value) {
  Add(node, name)->set_string_val(std::string(value));
}

}  // namespace strata::chakra
