// A chat template as tokens: text, and what is between {{ }}, {% %}.
//
// As transformers sets Jinja up: the first newline behind a block is dropped
// (trim_blocks), as is white space before a block that begins its line
// (lstrip_blocks) and the last newline of the template.

#ifndef CORE_TOKENIZER_TEMPLATE_LEXER_H_
#define CORE_TOKENIZER_TEMPLATE_LEXER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

struct TemplateToken {
  enum class Kind {
    kText,
    kOutputBegin,  // {{
    kOutputEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,  // The last one, always.
  };

  Kind kind = Kind::kEnd;
  int line = 1;
  std::string text;  // Of a string its content, escapes resolved.
  int64_t integer = 0;
  double number = 0;
};

// INVALID_ARGUMENT with the line in front.
absl::Status TemplateError(int line, absl::string_view message);

// `source` is valid UTF-8.
//
// Returns INVALID_ARGUMENT, with the line, for what is no token and what is
// opened and not closed.
absl::StatusOr<std::vector<TemplateToken>> LexTemplate(
    absl::string_view source);

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_LEXER_H_
