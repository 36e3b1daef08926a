// How the prompts of a step share the tokens that decoding leaves.
//
//   wanted   1200   40   300     in order of arrival; 512 tokens are left
//   due         9    2     4     when the first token should be out
//     |
//     v
//   share       0   40   300     in the order of due times
//
// A step in which a prompt ends is not filled up with parts of others: those
// who wait for its end wait for the whole step. Where none would end, the first
// gets all of it. Of those that are late, the oldest gets an eighth of the step
// before all others, so that nobody stands still for ever.

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
  double due = 0;
  bool late = false;  // It will miss the times at which it was due at first.
};

// Tokens of each, in all at most `budget`. With budget > 0 the first of the
// highest priority gets at least one, and the oldest late one of it at least
// an eighth of the budget.
std::vector<int64_t> SharePrompts(absl::Span<const PromptDemand> prompts,
                                  int64_t budget);

}  // namespace strata

#endif  // SERVING_ENGINE_PROMPT_SHARES_H_
