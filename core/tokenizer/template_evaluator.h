// Runs a chat template's tree.

#ifndef CORE_TOKENIZER_TEMPLATE_EVALUATOR_H_
#define CORE_TOKENIZER_TEMPLATE_EVALUATOR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/tokenizer/template_parser.h"
#include "core/tokenizer/template_value.h"

namespace strata {

// The text that the template makes of `variables`. `now` is for strftime_now,
// which is undefined without it.
//
// Returns INVALID_ARGUMENT with the line for what the template does wrong or
// refuses (raise_exception), RESOURCE_EXHAUSTED with the line if it takes too
// many steps, makes too long a text, or calls itself too deep.
absl::StatusOr<std::string> EvaluateTemplate(
    const TemplateTree& tree,
    std::vector<std::pair<std::string, TemplateValue>> variables,
    const std::optional<absl::Time>& now, int64_t max_steps);

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_EVALUATOR_H_
