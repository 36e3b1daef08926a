#include "sim/network/max_min.h"

#include <algorithm>
#include <vector>

#include "core/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

TEST(MaxMinTest, GivesWhatOneCannotUseToTheOthers) {
  // Link 1 limits flow 0 to 2 (shared with flow 2); link 0 has 10 - 2 left for
  // flow 1.
  const std::vector<double> capacity = {10, 4};
  const std::vector<double> weight = {1, 1, 1};
  const std::vector<int> begin = {0, 2, 3, 4};
  const std::vector<int> route = {0, 1, 0, 1};
  std::vector<double> rate;

  MaxMinSolver().Solve({capacity, weight, begin, route}, rate);

  EXPECT_THAT(rate, ElementsAre(2, 8, 2));
}

TEST(MaxMinTest, CountsAFlowAsOftenAsItWeighs) {
  const std::vector<double> capacity = {12};
  const std::vector<double> weight = {3, 1};
  const std::vector<int> begin = {0, 1, 2};
  const std::vector<int> route = {0, 0};
  std::vector<double> rate;

  MaxMinSolver().Solve({capacity, weight, begin, route}, rate);

  EXPECT_THAT(rate, ElementsAre(3, 3));
}

// The definition: no link above its capacity, and each flow has a link that is
// full and on which no flow is faster.
TEST(MaxMinTest, EveryFlowHasABottleneck) {
  MaxMinSolver solver;
  for (int seed = 0; seed < 50; ++seed) {
    Random random(seed, /*stream=*/0);
    const int num_links = 1 + random.UniformInt(20);
    const int num_flows = 1 + random.UniformInt(60);
    std::vector<double> capacity, weight, rate;
    std::vector<int> begin = {0}, route;
    for (int l = 0; l < num_links; ++l) {
      capacity.push_back(0.1 + random.Uniform());
    }
    for (int f = 0; f < num_flows; ++f) {
      weight.push_back(1 + random.UniformInt(3));
      const int first = random.UniformInt(num_links);
      const int length = 1 + random.UniformInt(std::min(5, num_links));
      for (int i = 0; i < length; ++i) route.push_back((first + i) % num_links);
      begin.push_back(route.size());
    }

    solver.Solve({capacity, weight, begin, route}, rate);

    std::vector<double> used(num_links, 0), top(num_links, 0);
    for (int f = 0; f < num_flows; ++f) {
      for (int i = begin[f]; i < begin[f + 1]; ++i) {
        used[route[i]] += rate[f] * weight[f];
        top[route[i]] = std::max(top[route[i]], rate[f]);
      }
    }
    // Sums of at most 60 terms around 1: 1e-12 is far above their roundings.
    for (int l = 0; l < num_links; ++l) EXPECT_LE(used[l], capacity[l] + 1e-12);
    for (int f = 0; f < num_flows; ++f) {
      bool has_bottleneck = false;
      for (int i = begin[f]; i < begin[f + 1]; ++i) {
        const int l = route[i];
        has_bottleneck |=
            used[l] >= capacity[l] - 1e-12 && rate[f] >= top[l] - 1e-12;
      }
      EXPECT_TRUE(has_bottleneck) << "seed " << seed << " flow " << f;
    }
  }
}

}  // namespace
}  // namespace strata::sim
