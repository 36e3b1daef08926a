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

  const int64_t of_oldest = std::max<int64_t>(1, budget / 4);
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto key = [&](size_t i) {
      return std::make_tuple(-prompts[i].priority, prompts[i].wanted,
                             prompts[i].id);
    };
    return key(a) < key(b);
  });
  int64_t left = budget;
  size_t ended = 0;
  while (ended < order.size() &&
         prompts[order[ended]].wanted <= left - of_oldest) {
    share[order[ended]] = prompts[order[ended]].wanted;
    left -= prompts[order[ended]].wanted;
    ++ended;
  }
  // Not all end, so there is one that is cut.
  const size_t oldest = *std::min_element(
      order.begin() + static_cast<std::ptrdiff_t>(ended), order.end(),
      [&](size_t a, size_t b) {
        return std::make_tuple(-prompts[a].priority, prompts[a].id) <
               std::make_tuple(-prompts[b].priority, prompts[b].id);
      });
  share[oldest] = std::min(of_oldest, prompts[oldest].wanted);
  if (ended > 0) return share;
  left -= share[oldest];
  const size_t shortest = order[0];
  share[shortest] += std::min(left, prompts[shortest].wanted - share[shortest]);
  return share;
}

}  // namespace strata
