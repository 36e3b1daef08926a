// Experts of tokens for benchmarks of layers of experts: choices [tokens, k],
// those of a token apart from each other. k divides the experts' number or not;
// k <= experts.

#ifndef CUDA_TESTING_EXPERT_CHOICES_H_
#define CUDA_TESTING_EXPERT_CHOICES_H_

#include <cstdint>
#include <vector>

namespace strata::gpu {

struct ChoiceShape {
  int64_t tokens = 0, experts = 0, k = 0;
};

// Every expert as often as any other, in random order.
std::vector<int32_t> BalancedChoices(const ChoiceShape& shape, int seed);

// Loads drawn from a power law of exponent `alpha`
// (sim/compute/expert_rows.h), which experts have the most is random too.
std::vector<int32_t> PowerLawChoices(const ChoiceShape& shape, double alpha,
                                     int seed);

// How many experts have a row.
int64_t NumChosen(const std::vector<int32_t>& choices);

}  // namespace strata::gpu

#endif  // CUDA_TESTING_EXPERT_CHOICES_H_
