#include "core/quant/bit_budget.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace strata {

absl::Status SpendBytes(int64_t budget, int64_t least,
                        std::vector<BitChoice>& choices) {
  if (budget < least) {
    return absl::InvalidArgumentError(
        absl::StrCat("a budget of ", budget,
                     " bytes cannot be met; the smallest possible is ", least));
  }
  std::vector<BitChoice*> order;
  for (BitChoice& choice : choices) order.push_back(&choice);
  // Ties by position, so that a choice is the same everywhere.
  std::stable_sort(order.begin(), order.end(),
                   [](const BitChoice* a, const BitChoice* b) {
                     return a->gain * static_cast<double>(b->extra_bytes) >
                            b->gain * static_cast<double>(a->extra_bytes);
                   });
  int64_t left = budget - least;
  for (BitChoice* const choice : order) {
    if (choice->extra_bytes > left) continue;
    choice->wide = true;
    left -= choice->extra_bytes;
  }
  return absl::OkStatus();
}

}  // namespace strata
