// Config protos as JSON: proto field names, numbers as numbers.
//
// (protobuf's own JSON writes 64-bit integers as strings, which nobody who
// edits a config.json expects.)
//
//   message       JSON
//   ------------  ---------------------------------------------
//   int64         integer
//   double        number; an integer will do
//   enum          the value's name
//   message       object; absent if not set
//   repeated      array
//
// Reading takes any bytes: what does not fit is an error that names the field.

#ifndef CORE_MODEL_PROTO_JSON_H_
#define CORE_MODEL_PROTO_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "nlohmann/json_fwd.hpp"

namespace strata {

// Every scalar field, defaults too, in the proto's order.
nlohmann::ordered_json MessageToJson(const google::protobuf::Message& message);

// As text, indented by 2, ending with a newline. Bytes that are not UTF-8
// become U+FFFD.
std::string JsonText(const nlohmann::ordered_json& json);

// Returns INVALID_ARGUMENT with line and column if `text` is not JSON, and with
// the key if an object has it twice.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text);

// Replaces `message` by what the object `json` says; a field that is absent
// has its default. On error `message` is as it was.
//
// Returns INVALID_ARGUMENT if `json` or a field in it has the wrong type, if a
// field is unknown, or if two members of a oneof are given.
absl::Status MessageFromJson(const nlohmann::json& json,
                             google::protobuf::Message& message);

}  // namespace strata

#endif  // CORE_MODEL_PROTO_JSON_H_
