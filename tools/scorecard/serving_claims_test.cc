#include <algorithm>
#include <string>

#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/c3_c4.h"
#include "tools/scorecard/c5_latency.h"
#include "tools/scorecard/claim.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

TEST(FusedOperatorsTest, TwelveBecomeThree) {
  const auto claim = FusedOperators();
  ASSERT_THAT(claim, IsOk());
  const Measure& promised = claim->measures[0];
  EXPECT_EQ(promised.want, Measure::Want::kAtMost);
  EXPECT_EQ(promised.baseline.mean, 12);
  EXPECT_EQ(promised.ours.mean, 3);
  for (const Measure& measure : claim->measures) {
    EXPECT_LT(measure.ratio.mean, 0.5) << measure.what;
  }
  for (const std::string& note : claim->notes) {
    EXPECT_THAT(note, ::testing::Not(HasSubstr("same FLOPs: no")));
  }
}

// The ratio is of what is allocated, so a promise that is not kept is told.
TEST(MemoryReuseTest, ComparesOneArenaWithABufferForEachValue) {
  const auto claim = MemoryReuse();
  ASSERT_THAT(claim, IsOk());
  for (size_t i = 0; i + 2 < claim->measures.size(); i += 3) {
    const Measure& all = claim->measures[i];
    EXPECT_EQ(all.promised, 0.65);
    EXPECT_LT(all.ratio.mean, 0.65) << all.what;
    // The parts multiply to the whole.
    EXPECT_NEAR(
        all.ratio.mean,
        claim->measures[i + 1].ratio.mean * claim->measures[i + 2].ratio.mean,
        1e-9);
  }
}

// How fast is for the scorecard to say; here, that all sides were run.
TEST(TradingLatencyTest, RunsAllSides) {
  C5Options options;
  options.ticks = 150;
  options.rounds = 2;
  const auto claim = TradingLatency(options);
  ASSERT_THAT(claim, IsOk());
  EXPECT_EQ(std::count_if(claim->measures.begin(), claim->measures.end(),
                          [](const Measure& m) { return m.promised > 0; }),
            2);
  for (const Measure& measure : claim->measures) {
    EXPECT_GT(measure.baseline.mean, 0) << measure.what;
    EXPECT_GT(measure.ours.mean, 0) << measure.what;
    EXPECT_GT(measure.ratio.mean, 0) << measure.what;
  }
}

}  // namespace
}  // namespace strata
