// --set: one field of a config by its path.
//
//   num_layers=4   moe.hierarchical.tau=0.8   tie_embeddings=false
//   moe.flat.score=SIGMOID   moe.hierarchical.tier_experts=8,8,16
//
// Setting a field of a oneof's other member switches to that member, whose
// other fields are then at their defaults.

#ifndef CORE_MODEL_SET_FIELD_H_
#define CORE_MODEL_SET_FIELD_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace strata {

// Sets the field that "path=value" names; a repeated field gets the whole
// comma-separated list. On error `message` is as it was.
//
// Returns INVALID_ARGUMENT if there is no '=', no such field (the message lists
// those at that level), or the value is not of the field's type.
absl::Status SetField(google::protobuf::Message& message,
                      absl::string_view key_equals_value);

// The paths SetField takes, in the proto's order.
std::vector<std::string> FieldPaths(
    const google::protobuf::Descriptor& descriptor);

}  // namespace strata

#endif  // CORE_MODEL_SET_FIELD_H_
