// One value of a proto field, by reflection: what the JSON reader and --set
// have in common.

#ifndef CORE_MODEL_FIELD_VALUE_H_
#define CORE_MODEL_FIELD_VALUE_H_

#include <cstdint>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace strata {

// Config protos have no other scalars; the type must be the field's.
using FieldValue = std::variant<int64_t, uint64_t, double, bool, std::string,
                                const google::protobuf::EnumValueDescriptor*>;

// Sets `field`, or appends to it if it is repeated.
void SetOrAdd(google::protobuf::Message& message,
              const google::protobuf::FieldDescriptor& field,
              const FieldValue& value);

// What one value of the field may be: "an integer", "one of SOFTMAX, SIGMOID".
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);

// "a, b, c": the message's fields in their order.
std::string FieldNames(const google::protobuf::Descriptor& descriptor);

// Text of unknown origin for a message of one line: quoted, escaped, cut.
std::string Quoted(absl::string_view text);

}  // namespace strata

#endif  // CORE_MODEL_FIELD_VALUE_H_
