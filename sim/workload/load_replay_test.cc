#include "sim/workload/load_replay.h"

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

class LoadReplayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Scenario scenario;
    scenario.model =
        "layers=2 hidden=256 heads=4 vocab=1000 experts=16 top_k=2 "
        "expert_ffn=256";
    scenario.cluster = "h100";
    scenario.layout = "ep8,gbs8,seq512";
    absl::StatusOr<StepInputs> inputs = simulator_.Inputs(scenario);
    ASSERT_THAT(inputs, IsOk());
    inputs_ = *std::move(inputs);
  }

  // `count` windows whose experts' loads are the same up to a few per cent.
  static std::vector<LoadWindow> SteadySkew(int count) {
    Random random(5, 0);
    std::vector<LoadWindow> windows(count);
    for (int w = 0; w < count; ++w) {
      windows[w].first_step = w;
      windows[w].last_step = w;
      for (int gate = 0; gate < 2; ++gate) {
        std::vector<double> load;
        for (int e = 0; e < 16; ++e) {
          load.push_back(1000.0 / (1 + e) * (1 + 0.02 * random.Uniform()));
        }
        windows[w].load.push_back(load);
        windows[w].tokens.push_back(2000);
      }
    }
    return windows;
  }

  Simulator simulator_;
  StepInputs inputs_;
};

TEST_F(LoadReplayTest, PlacingAnewEvensWhatTheLastWindowShowed) {
  ReplayOptions options;
  options.redundant_per_rank = 1;

  const absl::StatusOr<std::vector<BalancePoint>> points =
      ReplayLoads(inputs_, SteadySkew(4), "test", options);

  ASSERT_THAT(points, IsOk());
  ASSERT_EQ(points->size(), 4u);
  // Nothing is known before the first window.
  EXPECT_EQ((*points)[0].spread_balanced, (*points)[0].spread_static);
  for (int w = 1; w < 4; ++w) {
    const BalancePoint& p = (*points)[w];
    EXPECT_LT(p.spread_balanced, p.spread_static / 2);
    EXPECT_GT(p.utilisation_balanced, p.utilisation_static);
    EXPECT_LT(p.seconds_balanced, p.seconds_static);
  }
}

TEST_F(LoadReplayTest, EvenLoadsHaveNoSpread) {
  std::vector<LoadWindow> windows = SteadySkew(1);
  for (std::vector<double>& load : windows[0].load) load.assign(16, 10);
  ReplayOptions options;
  options.time_steps = false;

  const absl::StatusOr<std::vector<BalancePoint>> points =
      ReplayLoads(inputs_, windows, "test", options);

  ASSERT_THAT(points, IsOk());
  EXPECT_NEAR((*points)[0].spread_static, 0, 1e-7);
  EXPECT_NEAR((*points)[0].utilisation_static, 1, 1e-12);
}

}  // namespace
}  // namespace strata::sim
