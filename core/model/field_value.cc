#include "core/model/field_value.h"

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"

namespace strata {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::EnumValueDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

// Chars shown of a text of unknown origin.
constexpr size_t kMaxQuoted = 40;

struct Setter {
  Message* message;
  const FieldDescriptor* field;
  const Reflection* reflection;

  void operator()(int64_t x) const {
    field->is_repeated() ? reflection->AddInt64(message, field, x)
                         : reflection->SetInt64(message, field, x);
  }
  void operator()(uint64_t x) const {
    field->is_repeated() ? reflection->AddUInt64(message, field, x)
                         : reflection->SetUInt64(message, field, x);
  }
  void operator()(double x) const {
    field->is_repeated() ? reflection->AddDouble(message, field, x)
                         : reflection->SetDouble(message, field, x);
  }
  void operator()(bool x) const {
    field->is_repeated() ? reflection->AddBool(message, field, x)
                         : reflection->SetBool(message, field, x);
  }
  void operator()(const std::string& x) const {
    field->is_repeated() ? reflection->AddString(message, field, x)
                         : reflection->SetString(message, field, x);
  }
  void operator()(const EnumValueDescriptor* x) const {
    field->is_repeated() ? reflection->AddEnum(message, field, x)
                         : reflection->SetEnum(message, field, x);
  }
};

}  // namespace

void SetOrAdd(Message& message, const FieldDescriptor& field,
              const FieldValue& value) {
  std::visit(Setter{&message, &field, message.GetReflection()}, value);
}

std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return "an integer";
    case FieldDescriptor::CPPTYPE_UINT64:
      return "an integer of at least 0";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "a text";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return absl::StrCat("a group of ", FieldNames(*field.message_type()));
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::vector<std::string> names;
      for (int i = 0; i < field.enum_type()->value_count(); ++i) {
        names.push_back(field.enum_type()->value(i)->name());
      }
      return absl::StrCat("one of ", absl::StrJoin(names, ", "));
    }
    default:
      CHECK(false) << field.full_name() << " has a type no config has";
  }
  return "";
}

std::string FieldNames(const Descriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    names.push_back(descriptor.field(i)->name());
  }
  return absl::StrJoin(names, ", ");
}

std::string Quoted(absl::string_view text) {
  const std::string shown = absl::CHexEscape(text.substr(0, kMaxQuoted));
  return absl::StrCat("\"", shown, text.size() > kMaxQuoted ? "...\"" : "\"");
}

}  // namespace strata
