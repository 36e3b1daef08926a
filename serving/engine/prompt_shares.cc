#include "serving/engine/prompt_shares.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "absl/types/span.h"

namespace strata {

std::vector<int64_t> SharePrompts(absl::Span<const PromptDemand> prompts,
                                  int64_t budget) {
  std::vector<int64_t> share(prompts.size(), 0);
  if (prompts.empty() || budget <= 0) return share;
  int64_t all = 0;
  for (const PromptDemand& prompt : prompts) all += prompt.wanted;
  if (all <= budget) {
    for (size_t i = 0; i < prompts.size(); ++i) share[i] = prompts[i].wanted;
    return share;
  }

  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto key = [&](size_t i) {
      return std::make_tuple(-prompts[i].priority, prompts[i].due,
                             prompts[i].id);
    };
    return key(a) < key(b);
  });
  int64_t left = budget;
  bool one_ends = false;
  const auto give = [&](size_t i, int64_t most) {
    const int64_t given = std::min({left, most, prompts[i].wanted - share[i]});
    share[i] += given;
    left -= given;
    one_ends = one_ends || share[i] == prompts[i].wanted;
  };
  size_t oldest = prompts.size();
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (!prompts[i].late || prompts[i].priority < prompts[order[0]].priority) {
      continue;
    }
    if (oldest == prompts.size() || prompts[i].id < prompts[oldest].id) {
      oldest = i;
    }
  }
  if (oldest < prompts.size()) give(oldest, std::max<int64_t>(1, budget / 8));
  for (const size_t i : order) {
    if (left == 0 || (one_ends && prompts[i].wanted - share[i] > left)) break;
    give(i, left);
  }
  return share;
}

}  // namespace strata
