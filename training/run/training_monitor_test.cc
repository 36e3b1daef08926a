#include "training/run/training_monitor.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/gradient_flow.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/metrics.h"

namespace strata {
namespace {

// A gate of 16 experts; the first gets `first` rows, each other one 10.
GateUse Gate(double first) {
  GateUse gate;
  gate.tokens = 100;
  gate.load.assign(16, 10);
  gate.load[0] = first;
  return gate;
}

StepMetrics Step(double loss, std::vector<double> norms) {
  StepMetrics metrics;
  metrics.loss = loss;
  metrics.layer_grad_norms.assign(norms.begin(), norms.end());
  metrics.seconds = 1;
  return metrics;
}

class TrainingMonitorTest : public ::testing::Test {
 protected:
  // Rules that were raised or cleared, and rebalancings, of one step.
  std::vector<std::string> Observe(TrainingMonitor& monitor,
                                   const StepMetrics& metrics,
                                   const GateUse& gate) {
    figures_ = monitor.Observe(metrics, {gate}, absl::FromUnixSeconds(++time_));
    std::vector<std::string> told;
    for (const nlohmann::ordered_json& event : monitor.TakeEvents()) {
      told.push_back(event.contains("alarm")
                         ? event["alarm"].get<std::string>() + " " +
                               event["state"].get<std::string>()
                         : "rebalance " +
                               event["rebalance"].get<std::string>());
    }
    return told;
  }

  nlohmann::json figures_;
  int64_t time_ = 0;
};

using Told = std::vector<std::string>;

TEST_F(TrainingMonitorTest, SaysHowTiersRanksAndLayersAre) {
  TrainingMonitor monitor({16}, /*ranks=*/1);

  Observe(monitor, Step(2, {4, 0.04, 0}), Gate(10));

  EXPECT_EQ(figures_["tier_activation"], nlohmann::json({0.1}));
  EXPECT_EQ(figures_["vanishing_index"],
            nlohmann::json({0.0, 2.0, kNoGradientIndex}));
  EXPECT_EQ(figures_["expert_load_drift"], 0);
  EXPECT_LT(figures_["rank_utilisation_spread"], kMaxUtilisationSpread);
}

TEST_F(TrainingMonitorTest, UnevenVirtualRanksAreRebalancedAndTheAlarmClears) {
  TrainingMonitor monitor({16}, /*ranks=*/1);
  const StepMetrics step = Step(2, {1, 1});

  Observe(monitor, step, Gate(60));
  EXPECT_GT(figures_["rank_utilisation_spread"], kMaxUtilisationSpread);
  Observe(monitor, step, Gate(60));
  EXPECT_EQ(Observe(monitor, step, Gate(60)),
            (Told{"rank_utilisation_spread raised", "rebalance done"}));
  Observe(monitor, step, Gate(60));
  EXPECT_LT(figures_["rank_utilisation_spread"], kMaxUtilisationSpread);
  Observe(monitor, step, Gate(60));
  EXPECT_EQ(Observe(monitor, step, Gate(60)),
            Told{"rank_utilisation_spread cleared"});
}

TEST_F(TrainingMonitorTest, RealRanksKeepTheirExperts) {
  TrainingMonitor monitor({16}, /*ranks=*/4);
  const StepMetrics step = Step(2, {1, 1});

  for (int i = 0; i < 2; ++i) Observe(monitor, step, Gate(200));
  EXPECT_EQ(Observe(monitor, step, Gate(200)),
            Told{"rank_utilisation_spread raised"});
  const double spread = figures_["rank_utilisation_spread"];
  Observe(monitor, step, Gate(200));
  EXPECT_EQ(figures_["rank_utilisation_spread"], spread);
  EXPECT_EQ(monitor.watch().num_rebalances(), 0);
}

TEST_F(TrainingMonitorTest, TellsWhenGradientsVanishAndWhenTheyAreBack) {
  TrainingMonitor monitor({16}, /*ranks=*/1);

  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Observe(monitor, Step(2, {1, 9e-4}), Gate(10)), Told{});
  }
  EXPECT_EQ(Observe(monitor, Step(2, {1, 9e-4}), Gate(10)),
            Told{"gradients_vanish raised"});
  for (int i = 0; i < 2; ++i) Observe(monitor, Step(2, {1, 2e-3}), Gate(10));
  EXPECT_EQ(Observe(monitor, Step(2, {1, 2e-3}), Gate(10)),
            Told{"gradients_vanish cleared"});
}

TEST_F(TrainingMonitorTest, ALossThatFallsIsFineAndOneThatRisesIsTold) {
  TrainingMonitor monitor({16}, /*ranks=*/1);

  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Observe(monitor, Step(5 - 0.03 * i, {1}), Gate(10)), Told{});
  }
  Told told;
  for (int i = 0; i < 20 && told.empty(); ++i) {
    told = Observe(monitor, Step(5, {1}), Gate(10));
  }
  EXPECT_EQ(told, Told{"loss_rises raised"});
}

TEST_F(TrainingMonitorTest, AModelWithoutGatesHasNoFiguresOfThem) {
  TrainingMonitor monitor({}, /*ranks=*/1);

  figures_ = monitor.Observe(Step(2, {1, 1}), {}, absl::FromUnixSeconds(1));

  EXPECT_TRUE(figures_["tier_activation"].empty());
  EXPECT_EQ(figures_["vanishing_index"], nlohmann::json({0.0, 0.0}));
}

}  // namespace
}  // namespace strata
