// The attributes of a Chakra node or file, whatever numeric type their writer
// chose: generators disagree (is_cpu_op is a bool or an int32, comm_size an
// int64 or a uint64), so each is read as the value that it stands for.

#ifndef SIM_CHAKRA_ATTRIBUTES_H_
#define SIM_CHAKRA_ATTRIBUTES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {

// The first attribute of that name, or null. Belongs to `node`.
const ChakraProtoMsg::AttributeProto* FindAttribute(
    const ChakraProtoMsg::Node& node, absl::string_view name);

// The attribute's value, or nullopt if the node has none of that name.
//
// Unsigned and Bool accept any numeric type; Unsigned also numbers with a
// fraction of zero. Each returns INVALID_ARGUMENT, naming the attribute, if the
// value is of another kind or does not fit (a negative size, 3e30).
absl::StatusOr<std::optional<uint64_t>> UnsignedAttribute(
    const ChakraProtoMsg::Node& node, absl::string_view name);
absl::StatusOr<std::optional<bool>> BoolAttribute(
    const ChakraProtoMsg::Node& node, absl::string_view name);
absl::StatusOr<std::optional<std::string>> StringAttribute(
    const ChakraProtoMsg::Node& node, absl::string_view name);
absl::StatusOr<std::optional<std::vector<bool>>> BoolListAttribute(
    const ChakraProtoMsg::Node& node, absl::string_view name);

// Appends an attribute with the type that the field's generators write.
void AddBool(ChakraProtoMsg::Node& node, absl::string_view name, bool value);
void AddInt32(ChakraProtoMsg::Node& node, absl::string_view name,
              int32_t value);
void AddInt64(ChakraProtoMsg::Node& node, absl::string_view name,
              int64_t value);
void AddUint64(ChakraProtoMsg::Node& node, absl::string_view name,
               uint64_t value);
void AddString(ChakraProtoMsg::Node& node, absl::string_view name,
               absl::string_view value);

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_ATTRIBUTES_H_
