#include "core/model/set_field.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/field_value.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace strata {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;

std::optional<FieldValue> ParseValue(const FieldDescriptor& field,
                                     absl::string_view text) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t x;
      if (!absl::SimpleAtoi(text, &x)) return std::nullopt;
      return x;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t x;
      if (!absl::SimpleAtoi(text, &x)) return std::nullopt;
      return x;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double x;
      if (!absl::SimpleAtod(text, &x) || !std::isfinite(x)) return std::nullopt;
      return x;
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return std::nullopt;
      return text == "true";
    case FieldDescriptor::CPPTYPE_STRING:
      return std::string(text);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* named = field.enum_type()->FindValueByName(std::string(text));
      if (named == nullptr) return std::nullopt;
      return named;
    }
    default:
      CHECK(false) << field.full_name() << " has a type no config has";
  }
  return std::nullopt;
}

absl::Status SetLeaf(Message& message, const FieldDescriptor& field,
                     absl::string_view path, absl::string_view text) {
  message.GetReflection()->ClearField(&message, &field);
  std::vector<absl::string_view> values = {text};
  if (field.is_repeated()) {
    values = absl::StrSplit(text, ',');
    if (text.empty()) values.clear();
  }
  for (const absl::string_view value : values) {
    const std::optional<FieldValue> parsed = ParseValue(field, value);
    if (!parsed.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is ", Quoted(value), "; want ", ExpectedValue(field),
          field.is_repeated() ? ", or several with commas between" : ""));
    }
    SetOrAdd(message, field, *parsed);
  }
  return absl::OkStatus();
}

void AddPaths(const Descriptor& descriptor, const std::string& prefix,
              std::vector<std::string>& paths) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      AddPaths(*field.message_type(), absl::StrCat(prefix, field.name(), "."),
               paths);
    } else {
      paths.push_back(absl::StrCat(prefix, field.name()));
    }
  }
}

}  // namespace

absl::Status SetField(Message& message, absl::string_view key_equals_value) {
  const size_t equals = key_equals_value.find('=');
  if (equals == absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(key_equals_value), " has no '='; want field=value"));
  }
  const absl::string_view path = key_equals_value.substr(0, equals);
  const absl::string_view value = key_equals_value.substr(equals + 1);

  const std::unique_ptr<Message> changed(message.New());
  changed->CopyFrom(message);
  Message* level = changed.get();
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const Descriptor& descriptor = *level->GetDescriptor();
    const FieldDescriptor* field = descriptor.FindFieldByName(names[i]);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("no field ", Quoted(path), ": ", descriptor.name(),
                       " has ", FieldNames(descriptor)));
    }
    const bool is_group = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    const bool is_last = i + 1 == names.size();
    if (is_group && is_last) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(path), " is ", ExpectedValue(*field),
                       "; want one of them after a '.'"));
    }
    if (!is_group && !is_last) {
      return absl::InvalidArgumentError(
          absl::StrCat("no field ", Quoted(path), ": ", field->name(), " is ",
                       ExpectedValue(*field), " and has no fields"));
    }
    if (is_group) {
      level = level->GetReflection()->MutableMessage(level, field);
    } else {
      RETURN_IF_ERROR(SetLeaf(*level, *field, path, value));
    }
  }
  message.GetReflection()->Swap(&message, changed.get());
  return absl::OkStatus();
}

std::vector<std::string> FieldPaths(const Descriptor& descriptor) {
  std::vector<std::string> paths;
  AddPaths(descriptor, "", paths);
  return paths;
}

}  // namespace strata
