// What the filters, methods and functions of chat templates have in common: a
// call with its input and arguments, and how they are read.

#ifndef CORE_TOKENIZER_TEMPLATE_CALL_H_
#define CORE_TOKENIZER_TEMPLATE_CALL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_value.h"

namespace strata::template_call {

using Value = TemplateValue;
using ValueOr = absl::StatusOr<TemplateValue>;
using Args = TemplateArguments;

absl::Status Error(absl::string_view message);
absl::Status IsUndefined(const Value& value);

// A callee at work: what it is called, and on what.
struct Call {
  absl::string_view kind;  // "filter", "method", ...
  absl::string_view name;
  const Value& input;
  const Args& args;
  TemplateBudget& budget;

  // The error that the input is not what is wanted.
  absl::Status Unfit(absl::string_view want) const;

  // The arguments by their names; undefined where there is none.
  absl::StatusOr<std::vector<Value>> Bind(
      const std::vector<absl::string_view>& names) const;

  // The input as text.
  absl::StatusOr<std::string> Text() const;
};

// An argument, or `fallback` if it is undefined or none; `what` names it in an
// error.
absl::StatusOr<int64_t> Integer(const Value& value, int64_t fallback,
                                absl::string_view what);
absl::StatusOr<std::string> String(const Value& value,
                                   absl::string_view fallback,
                                   absl::string_view what);

}  // namespace strata::template_call

#endif  // CORE_TOKENIZER_TEMPLATE_CALL_H_
