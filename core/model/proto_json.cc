#include "core/model/proto_json.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/field_value.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::OneofDescriptor;
using ::google::protobuf::Reflection;
using ::nlohmann::json;
using ::nlohmann::ordered_json;

ordered_json ValueToJson(const Message& message, const FieldDescriptor& field) {
  const Reflection& r = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return r.GetInt64(message, &field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return r.GetUInt64(message, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return r.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return r.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_STRING:
      return r.GetString(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return r.GetEnum(message, &field)->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(r.GetMessage(message, &field));
    default:
      CHECK(false) << field.full_name() << " has a type no config has";
  }
  return nullptr;
}

ordered_json ElementToJson(const Message& message, const FieldDescriptor& field,
                           int i) {
  const Reflection& r = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return r.GetRepeatedInt64(message, &field, i);
    case FieldDescriptor::CPPTYPE_UINT64:
      return r.GetRepeatedUInt64(message, &field, i);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return r.GetRepeatedDouble(message, &field, i);
    case FieldDescriptor::CPPTYPE_BOOL:
      return r.GetRepeatedBool(message, &field, i);
    case FieldDescriptor::CPPTYPE_STRING:
      return r.GetRepeatedString(message, &field, i);
    case FieldDescriptor::CPPTYPE_ENUM:
      return r.GetRepeatedEnum(message, &field, i)->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(r.GetRepeatedMessage(message, &field, i));
    default:
      CHECK(false) << field.full_name() << " has a type no config has";
  }
  return nullptr;
}

// What a JSON value is, for a message. Never prints nested values: they may be
// deeper than the stack.
std::string Describe(const json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return value.dump();
}

absl::Status WrongType(absl::string_view path, const json& value,
                       const FieldDescriptor& field) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, " is ", Describe(value), "; want ", ExpectedValue(field)));
}

absl::Status ReadObject(const json& object, absl::string_view path,
                        Message& message);

// One value of `field`, which for repeated fields is one element.
absl::Status ReadValue(const json& value, absl::string_view path,
                       const FieldDescriptor& field, Message& message) {
  const Reflection& r = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      // An integer beyond 64 bits was read as a float, hence is refused too.
      if (!value.is_number_integer() ||
          (value.is_number_unsigned() &&
           value.get<uint64_t>() > uint64_t{INT64_MAX})) {
        return WrongType(path, value, field);
      }
      SetOrAdd(message, field, value.get<int64_t>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_UINT64:
      if (!value.is_number_unsigned()) return WrongType(path, value, field);
      SetOrAdd(message, field, value.get<uint64_t>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!value.is_number()) return WrongType(path, value, field);
      SetOrAdd(message, field, value.get<double>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.is_boolean()) return WrongType(path, value, field);
      SetOrAdd(message, field, value.get<bool>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_STRING:
      if (!value.is_string()) return WrongType(path, value, field);
      SetOrAdd(message, field, value.get<std::string>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      if (!value.is_string()) return WrongType(path, value, field);
      const auto* named = field.enum_type()->FindValueByName(
          value.get_ref<const std::string&>());
      if (named == nullptr) return WrongType(path, value, field);
      SetOrAdd(message, field, named);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (!value.is_object()) return WrongType(path, value, field);
      return ReadObject(value, path,
                        field.is_repeated()
                            ? *r.AddMessage(&message, &field)
                            : *r.MutableMessage(&message, &field));
    default:
      CHECK(false) << field.full_name() << " has a type no config has";
  }
  return absl::OkStatus();
}

absl::Status ReadObject(const json& object, absl::string_view path,
                        Message& message) {
  const Reflection& r = *message.GetReflection();
  for (const auto& [name, value] : object.items()) {
    const FieldDescriptor* field =
        message.GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown field ", Quoted(name),
                       path.empty() ? "" : absl::StrCat(" in ", path),
                       "; want ", FieldNames(*message.GetDescriptor())));
    }
    const std::string field_path =
        path.empty() ? name : absl::StrCat(path, ".", name);

    if (const OneofDescriptor* oneof = field->containing_oneof();
        oneof != nullptr && r.HasOneof(message, oneof)) {
      return absl::InvalidArgumentError(absl::StrCat(
          field_path, " cannot stand beside ",
          r.GetOneofFieldDescriptor(message, oneof)->name(), "; want one"));
    }
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(ReadValue(value, field_path, *field, message));
      continue;
    }
    if (!value.is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(field_path, " is ", Describe(value),
                       "; want an array, each ", ExpectedValue(*field)));
    }
    for (size_t i = 0; i < value.size(); ++i) {
      RETURN_IF_ERROR(ReadValue(value[i], absl::StrCat(field_path, "[", i, "]"),
                                *field, message));
    }
  }
  return absl::OkStatus();
}

// "line 3, column 7" of the byte at `offset`.
std::string Position(absl::string_view text, size_t offset) {
  const absl::string_view before = text.substr(0, offset);
  const size_t line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t last = before.rfind('\n');
  const size_t column =
      1 + before.size() - (last == absl::string_view::npos ? 0 : last + 1);
  return absl::StrCat("line ", line, ", column ", column);
}

}  // namespace

ordered_json MessageToJson(const Message& message) {
  const Reflection& r = *message.GetReflection();
  ordered_json object = ordered_json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.is_repeated()) {
      ordered_json array = ordered_json::array();
      for (int j = 0; j < r.FieldSize(message, &field); ++j) {
        array.push_back(ElementToJson(message, field, j));
      }
      object[field.name()] = std::move(array);
    } else if (!field.has_presence() || r.HasField(message, &field)) {
      object[field.name()] = ValueToJson(message, field);
    }
  }
  return object;
}

std::string JsonText(const ordered_json& json) {
  return json.dump(/*indent=*/2, /*indent_char=*/' ', /*ensure_ascii=*/false,
                   ordered_json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<json> ParseJson(absl::string_view text) {
  // The keys of the objects that are open, to find one that comes twice: the
  // parser would keep the last without a word.
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  bool has_duplicate = false;
  const auto note = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && !has_duplicate) {
        has_duplicate = true;
        duplicate = key;
      }
    }
    return true;
  };

  json parsed;
  try {
    parsed = json::parse(text.begin(), text.end(), note);
  } catch (const json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "not JSON at ", Position(text, error.byte == 0 ? 0 : error.byte - 1)));
  } catch (const json::exception&) {  // A number beyond the range of double.
    return absl::InvalidArgumentError("not JSON: a number is out of range");
  }
  if (has_duplicate) {
    return absl::InvalidArgumentError(
        absl::StrCat("key ", Quoted(duplicate), " is there twice; want once"));
  }
  return parsed;
}

absl::Status MessageFromJson(const json& json, Message& message) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the JSON is ", Describe(json), "; want an object of ",
                     FieldNames(*message.GetDescriptor())));
  }
  const std::unique_ptr<Message> read(message.New());
  RETURN_IF_ERROR(ReadObject(json, /*path=*/"", *read));
  message.GetReflection()->Swap(&message, read.get());
  return absl::OkStatus();
}

}  // namespace strata
