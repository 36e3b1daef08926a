#include "core/passes/plan_beside.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective.h"
#include "core/ops/elementwise.h"
#include "core/ops/optimizer.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Sums of the states "s0", "s1" ... and nodes that read or change them.
class PlanBesideTest : public ::testing::Test {
 protected:
  void SetUp() override {
    keep_ = b_.Input("keep", DType::kF32, {});
    x_ = b_.Input("x", DType::kF32, {Static(3)});
    for (ValueId& state : states_) {
      state =
          b_.State(absl::StrCat("s", next_name_++), DType::kF32, {Static(3)});
    }
  }

  void Sum(int state, absl::string_view group = "dp") {
    AllReduce(b_, {states_[state]}, group, /*beside=*/true);
  }
  void Change(int state) { Accumulate(b_, states_[state], x_, keep_); }
  void Elsewhere() { Scale(b_, x_, 2.0); }

  // Of AllReduce; "none" cannot.
  BesidePlan Plan() {
    auto graph = b_.Finish();
    EXPECT_THAT(graph, IsOk());
    return PlanBeside(*graph, [](const Node& node) {
      return node.op == &kAllReduce && node.attrs.String("group") != "none";
    });
  }

  GraphBuilder b_;
  int next_name_ = 0;
  ValueId keep_ = kNone, x_ = kNone;
  ValueId states_[3] = {};
};

TEST_F(PlanBesideTest, RunsBesideWhatFollowsUpToWhatWantsIt) {
  Sum(0);       // 0
  Elsewhere();  // 1
  Sum(1);       // 2
  Elsewhere();  // 3
  Change(0);    // 4: waits for the first alone.
  Elsewhere();  // 5

  const BesidePlan plan = Plan();

  EXPECT_TRUE(plan.steps[0].beside);
  EXPECT_TRUE(plan.steps[2].beside);
  EXPECT_FALSE(plan.steps[4].beside);
  EXPECT_THAT(plan.steps[4].waits_for, ElementsAre(0));
  for (const int other : {1, 2, 3, 5}) {
    EXPECT_THAT(plan.steps[other].waits_for, IsEmpty()) << other;
  }
  EXPECT_THAT(plan.until_end, ElementsAre(2));
}

TEST_F(PlanBesideTest, WhatItsGroupBeganBeforeIsDoneToo) {
  Sum(0);        // 0
  Sum(1, "ep");  // 1: of another lane.
  Sum(2);        // 2
  Elsewhere();   // 3
  Change(2);     // 4

  const BesidePlan plan = Plan();

  EXPECT_THAT(plan.steps[4].waits_for, ElementsAre(0, 2));
  EXPECT_THAT(plan.until_end, ElementsAre(1));
}

// The group's calls keep the order of the graph.
TEST_F(PlanBesideTest, ACallOfItsGroupInItsOwnPlaceWaitsForIt) {
  Sum(0);                                // 0
  Elsewhere();                           // 1
  AllGather(b_, x_, /*ranks=*/2, "ep");  // 2
  AllGather(b_, x_, /*ranks=*/2, "dp");  // 3

  const BesidePlan plan = Plan();

  EXPECT_TRUE(plan.steps[0].beside);
  EXPECT_THAT(plan.steps[2].waits_for, IsEmpty());
  EXPECT_THAT(plan.steps[3].waits_for, ElementsAre(0));
}

TEST_F(PlanBesideTest, WithoutTheAttributeNodesRunInTheirPlace) {
  AllReduce(b_, {states_[0]}, "dp");
  Elsewhere();

  const BesidePlan plan = Plan();

  EXPECT_FALSE(plan.steps[0].beside);
  EXPECT_THAT(plan.until_end, IsEmpty());
}

TEST_F(PlanBesideTest, WhatIsWaitedForAtOnceRunsInItsPlace) {
  Sum(0);          // 0
  Change(0);       // 1
  Sum(1, "none");  // 2
  Elsewhere();     // 3
  Sum(2);          // 4: the last.

  const BesidePlan plan = Plan();

  for (const BesidePlan::Step& step : plan.steps) {
    EXPECT_FALSE(step.beside);
    EXPECT_THAT(step.waits_for, IsEmpty());
  }
  EXPECT_THAT(plan.until_end, IsEmpty());
}

// Where the end does not wait, other programs run beside the last node.
TEST_F(PlanBesideTest, TheLastRunsBesideWhatComesAfterTheGraph) {
  Elsewhere();  // 0
  Sum(0);       // 1

  const auto graph = b_.Finish();
  ASSERT_THAT(graph, IsOk());
  const BesidePlan plan = PlanBeside(
      *graph, [](const Node& node) { return true; },
      /*waits_at_end=*/false);

  EXPECT_TRUE(plan.steps[1].beside);
  EXPECT_THAT(plan.until_end, ElementsAre(1));
}

}  // namespace
}  // namespace strata
