// Rows of the local experts of a mixture-of-experts layer, from loads or from a
// distribution.

#ifndef SIM_COMPUTE_EXPERT_ROWS_H_
#define SIM_COMPUTE_EXPERT_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "sim/compute/kernel_shape.h"

namespace strata {

// Of experts with these rows; negative ones count as 0.
ExpertRows RowsOf(absl::Span<const int64_t> rows_per_expert);

// Every expert as many rows as any other: rows / experts of each, rounded up
// in whole rows where there are fewer rows than experts.
ExpertRows EvenRows(double rows, int64_t experts);

// The layer whose loads are drawn. Positive numbers; top_k <= experts, and
// expert_parallel divides experts. Rank 0 holds the first experts.
struct LoadShape {
  int64_t tokens = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t expert_parallel = 1;
};

// Loads of rank 0, and how many tokens chose one of its experts.
struct LocalLoads {
  std::vector<int64_t> rows;  // [local experts]
  int64_t tokens = 0;
};

// Token t chooses the experts t, t + stride, t + 2 stride, ... with a stride of
// experts / top_k; fewer tokens than a stride spread over it.
LocalLoads BalancedLoads(const LoadShape& shape);

// Who gets the choices that are left over when loads are rounded to whole
// tokens: nearly all of them where tokens are few. Benchmarks differ.
enum class Leftover {
  kFewestOfEachRank,  // a rank after the other, its expert with the fewest
  kFewest,            // one each from the expert with the fewest on; of equal
                      // ones the last first, which fills the last ranks
  kMost,              // one each from the expert with the most on; of equal
                      // ones the first first, which fills the first ranks
};

// Expert loads drawn from a power law of exponent `alpha` between 1 and 0.8
// tokens (0.01 and 2 where there are at most as many choices as experts),
// scaled to tokens * top_k, none above tokens. Rank 0 is the rank with the
// most. The same for the same seed on every machine.
LocalLoads PowerLawLoads(const LoadShape& shape, double alpha, uint64_t seed,
                         Leftover leftover = Leftover::kFewestOfEachRank);

}  // namespace strata

#endif  // SIM_COMPUTE_EXPERT_ROWS_H_
