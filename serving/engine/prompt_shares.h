// How the prompts of a step share the tokens that decoding leaves.
//
//   wanted   1200   40   300     in order of arrival; 512 tokens are left
//     |
//     v
//   share     128   40   300     whoever comes to the end of its prompt goes
//                                first, the shortest of them before all; of the
//                                others the oldest gets a quarter
//
// Short prompts do not wait for long ones, and long ones never stand still. A
// step in which a prompt ends is not filled up beyond that quarter: those who
// wait for its end wait for the whole step. Where none would end, the shortest
// gets what is left, so that one ends soon.

#ifndef SERVING_ENGINE_PROMPT_SHARES_H_
#define SERVING_ENGINE_PROMPT_SHARES_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace strata {

struct PromptDemand {
  int64_t id = 0;      // Unique; the lower is older.
  int priority = 0;    // The higher goes before all of lower ones.
  int64_t wanted = 0;  // Tokens to the end of the prompt, at least 1.
};

// Tokens of each, in all at most `budget`. With budget > 0 the oldest of the
// highest priority gets at least one.
std::vector<int64_t> SharePrompts(absl::Span<const PromptDemand> prompts,
                                  int64_t budget);

}  // namespace strata

#endif  // SERVING_ENGINE_PROMPT_SHARES_H_
