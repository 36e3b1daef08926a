#include "sim/workload/sweep.h"

#include <string>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(SweepTest, FindsTheFastestLayoutThatFits) {
  Scenario scenario;
  scenario.model =
      "layers=4 hidden=1024 heads=8 vocab=8000 experts=8 top_k=2 "
      "expert_ffn=1024";
  scenario.cluster = "h100";
  scenario.layout = "gbs16,seq1024";
  Simulator simulator;

  const absl::StatusOr<Sweep> sweep = SweepLayouts(scenario, simulator);

  ASSERT_THAT(sweep, IsOk());
  ASSERT_FALSE(sweep->points.empty());
  EXPECT_EQ(sweep->tried, static_cast<int64_t>(sweep->points.size()) +
                              sweep->not_dividing + sweep->out_of_memory);
  for (size_t i = 1; i < sweep->points.size(); ++i) {
    EXPECT_LE(sweep->points[i - 1].seconds, sweep->points[i].seconds);
  }
  // Each is what its own layout takes.
  scenario.layout = sweep->points[0].layout;
  scenario.schedule = sweep->points[0].schedule;
  const absl::StatusOr<StepResult> again = simulator.Run(scenario);
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->seconds, sweep->points[0].seconds);
  EXPECT_THAT(ToCsv(*sweep), StartsWith("layout,schedule,seconds"));
  EXPECT_THAT(ToCsv(*sweep), HasSubstr(sweep->points[0].layout));
}

TEST(SweepTest, RejectsALayoutThatIsNone) {
  Scenario scenario;
  scenario.model = "demo";
  scenario.cluster = "h100";
  scenario.layout = "zz";
  Simulator simulator;
  EXPECT_FALSE(SweepLayouts(scenario, simulator).ok());
}

}  // namespace
}  // namespace strata::sim
