#include "core/monitor/rank_balance.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/monitor/alarm_board.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Utilisations 1, 0.5, 0.5, 0: mean 0.5, variance (0.25 + 0 + 0 + 0.25) / 4.
TEST(UtilisationSpreadTest, IsTheDeviationOfLoadsOverTheLargest) {
  EXPECT_DOUBLE_EQ(UtilisationSpread({8, 4, 4, 0}), std::sqrt(0.125));
  EXPECT_EQ(UtilisationSpread({3, 3, 3}), 0);
  EXPECT_EQ(UtilisationSpread({0, 0}), 0);
  EXPECT_EQ(UtilisationSpread({}), 0);
}

TEST(RankBalanceTest, BeginsWithEveryExpertOnARank) {
  for (const int experts : {1, 7, 8, 9, 16, 30}) {
    EXPECT_THAT(RankBalance::Create({experts}, {}), IsOk()) << experts;
  }
  EXPECT_THAT(RankBalance::Create({4, 0}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
  EXPECT_THAT(
      RankBalance::Create({4}, {/*num_ranks=*/0}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 ranks")));
}

// Loads as a router without balance makes them: a few experts are liked, others
// hardly, another few in each gate; noise from window to window.
std::vector<std::vector<double>> SkewedLoads(int gates, int experts,
                                             std::mt19937& rng) {
  std::vector<std::vector<double>> load(gates);
  std::normal_distribution<double> normal;
  for (int gate = 0; gate < gates; ++gate) {
    for (int e = 0; e < experts; ++e) {
      const int rank = (e * 7 + gate * 3) % experts;
      load[gate].push_back(
          std::round(4000 / (1.0 + rank) * std::exp(0.1 * normal(rng))));
    }
  }
  return load;
}

// The whole loop of the specification: the spread stands above 0.15 until the
// rule's alarm calls the balancer, then below, and the alarm ends.
TEST(RankBalanceTest, TheAlarmCallsTheBalancerAndTheSpreadComesDown) {
  std::mt19937 rng(1);
  auto balance = RankBalance::Create({32, 32, 32}, {});
  ASSERT_THAT(balance, IsOk());
  AlarmBoard board({UtilisationSpreadRule()});
  int rebalanced_at = -1, cleared_at = -1;
  double before = 0, after = 0;
  for (int window = 0; window < 20; ++window) {
    const double spread = balance->Observe(SkewedLoads(3, 32, rng));
    (rebalanced_at < 0 ? before : after) = spread;
    if (rebalanced_at < 0) {
      EXPECT_GT(spread, kMaxUtilisationSpread) << window;
    } else {
      EXPECT_LT(spread, kMaxUtilisationSpread) << window;
    }
    const absl::Time now = absl::UnixEpoch() + absl::Seconds(window);
    for (const Alarm& alarm :
         board.Observe("rank_utilisation_spread", spread, now)) {
      if (!alarm.raised) {
        cleared_at = window;
        continue;
      }
      const auto result = balance->Rebalance();
      ASSERT_THAT(result, IsOk());
      EXPECT_GT(result->slots_changed, 0);
      EXPECT_LT(result->spread_after, result->spread_before);
      rebalanced_at = window;
    }
  }
  EXPECT_EQ(rebalanced_at, 2) << "the third window above";
  EXPECT_EQ(cleared_at, 5);
  EXPECT_LT(after, before / 2);
}

TEST(RankBalanceTest, LoadsThatAreEvenMoveNothing) {
  auto balance = RankBalance::Create({16}, {/*num_ranks=*/4, 0});
  ASSERT_THAT(balance, IsOk());
  EXPECT_EQ(balance->Observe({std::vector<double>(16, 5)}), 0);
  const auto result = balance->Rebalance();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->slots_changed, 0);
}

TEST(RankBalanceTest, IsToldWhereExpertsAre) {
  auto balance = RankBalance::Create({4}, {/*num_ranks=*/2, 0});
  ASSERT_THAT(balance, IsOk());
  EXPECT_DOUBLE_EQ(balance->Observe({{4, 4, 0, 0}}), 0.5);
  balance->SetPlacements({{{0, 2, 1, 3}}});
  EXPECT_EQ(balance->Observe({{4, 4, 0, 0}}), 0);
  EXPECT_THAT(balance->loads(), ElementsAre(ElementsAre(4, 4, 0, 0)));
}

TEST(RankBalanceTest, GatesWithoutLoadSayNothing) {
  auto balance = RankBalance::Create({4, 4}, {/*num_ranks=*/2, 0});
  ASSERT_THAT(balance, IsOk());
  // Ranks 0-1 and 2-3: loads 8 and 0, utilisations 1 and 0.
  EXPECT_DOUBLE_EQ(balance->Observe({{4, 4, 0, 0}, {0, 0, 0, 0}}), 0.5);
  EXPECT_DOUBLE_EQ(balance->max_over_mean(), 2);
}

}  // namespace
}  // namespace strata
