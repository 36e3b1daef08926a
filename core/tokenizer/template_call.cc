#include "core/tokenizer/template_call.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_value.h"

namespace strata::template_call {

absl::Status Error(absl::string_view message) {
  return absl::InvalidArgumentError(message);
}

absl::Status IsUndefined(const Value& value) {
  return Error(absl::StrCat("\"", value.undefined_name(), "\" is undefined"));
}

absl::Status Call::Unfit(absl::string_view want) const {
  if (input.is_undefined()) return IsUndefined(input);
  return Error(absl::StrCat("the ", kind, " ", name, " takes a ", want,
                            ", not a ", input.TypeName()));
}

absl::StatusOr<std::vector<Value>> Call::Bind(
    const std::vector<absl::string_view>& names) const {
  if (args.positional.size() > names.size()) {
    return Error(absl::StrCat("the ", kind, " ", name, " takes at most ",
                              names.size(), " arguments, not ",
                              args.positional.size()));
  }
  std::vector<Value> values = args.positional;
  values.resize(names.size());
  for (const auto& [key, value] : args.named) {
    const auto it = std::find(names.begin(), names.end(), key);
    if (it == names.end()) {
      return Error(absl::StrCat("the ", kind, " ", name, " has no argument \"",
                                key, "\""));
    }
    values[it - names.begin()] = value;
  }
  return values;
}

absl::StatusOr<std::string> Call::Text() const {
  if (input.is_undefined()) return IsUndefined(input);
  RETURN_IF_ERROR(budget.Spend(input.Weight()));
  std::string text = input.ToString();
  RETURN_IF_ERROR(budget.SpendBytes(text.size()));
  return text;
}

absl::StatusOr<int64_t> Integer(const Value& value, int64_t fallback,
                                absl::string_view what) {
  if (value.is_undefined() || value.is_none()) return fallback;
  if (value.is_int() || value.is_bool()) return value.integer();
  return Error(absl::StrCat(what, " is a ", value.TypeName(), "; want an int"));
}

absl::StatusOr<std::string> String(const Value& value,
                                   absl::string_view fallback,
                                   absl::string_view what) {
  if (value.is_undefined() || value.is_none()) return std::string(fallback);
  if (value.is_string()) return value.string();
  return Error(
      absl::StrCat(what, " is a ", value.TypeName(), "; want a string"));
}

}  // namespace strata::template_call
