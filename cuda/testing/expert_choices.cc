#include "cuda/testing/expert_choices.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "sim/compute/expert_rows.h"

namespace strata::gpu {

std::vector<int32_t> BalancedChoices(const ChoiceShape& shape, int seed) {
  const int64_t k = shape.k;
  std::vector<int32_t> order(shape.experts);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 rng(seed);
  std::vector<int32_t> expert;
  while (static_cast<int64_t>(expert.size()) < shape.tokens * k) {
    std::shuffle(order.begin(), order.end(), rng);
    for (int64_t i = 0; i + k <= shape.experts; i += k) {
      expert.insert(expert.end(), order.begin() + i, order.begin() + i + k);
    }
  }
  expert.resize(shape.tokens * k);
  return expert;
}

std::vector<int32_t> PowerLawChoices(const ChoiceShape& shape, double alpha,
                                     int seed) {
  const std::vector<int64_t> rows =
      PowerLawLoads({shape.tokens, shape.experts, shape.k}, alpha, seed).rows;
  std::mt19937 rng(seed);
  std::vector<int32_t> name(shape.experts), place(shape.tokens);
  std::iota(name.begin(), name.end(), 0);
  std::iota(place.begin(), place.end(), 0);
  std::shuffle(name.begin(), name.end(), rng);
  std::shuffle(place.begin(), place.end(), rng);
  // Rows are dealt to tokens in turn. No expert has more than there are tokens,
  // so none meets a token twice; all together fill every token's k places.
  std::vector<int32_t> expert(shape.tokens * shape.k);
  int64_t dealt = 0;
  for (int64_t e = 0; e < shape.experts; ++e) {
    for (int64_t row = 0; row < rows[e]; ++row, ++dealt) {
      const int64_t token = place[dealt % shape.tokens];
      expert[token * shape.k + dealt / shape.tokens] = name[e];
    }
  }
  return expert;
}

int64_t NumChosen(const std::vector<int32_t>& choices) {
  return static_cast<int64_t>(
      std::set<int32_t>(choices.begin(), choices.end()).size());
}

}  // namespace strata::gpu
