#include "core/passes/plan_memory.h"

#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/passes/plan_beside.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// One output of as many bytes as its attribute says, from any inputs.
const OpDef kMake = {
    "Make",
    [](const OpView& op) -> absl::StatusOr<std::vector<ValueType>> {
      return std::vector<ValueType>{
          {DType::kU8, {Static(op.attrs.Int("bytes"))}}};
    },
    nullptr, nullptr};

ValueId Make(GraphBuilder& b, std::vector<ValueId> inputs, int64_t bytes) {
  return b.Add1(kMake, inputs, {{"bytes", bytes}});
}

TEST(PlanMemoryTest, AChainNeedsRoomForTwoNeighbours) {
  GraphBuilder b;
  ValueId x = Make(b, {}, 640);
  for (int i = 0; i < 9; ++i) x = Make(b, {x}, 640);
  b.Output("last", x);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const MemoryPlan plan = PlanMemory(*graph);

  EXPECT_EQ(plan.num_values, 10);
  EXPECT_EQ(plan.unshared_bytes, 6400);
  EXPECT_EQ(plan.lower_bound_bytes, 1280);
  EXPECT_EQ(plan.arena_bytes, 1280);
  EXPECT_EQ(PlanMemory(*graph, /*reuse=*/false).arena_bytes, 6400);
}

// x is read beside y, which must not lie where x does.
TEST(PlanMemoryTest, OperandsLiveUntilWhatReadsThemBesideIsWaitedFor) {
  GraphBuilder b;
  const ValueId x = Make(b, {}, 64);      // Node 0.
  const ValueId sent = Make(b, {x}, 64);  // 1, beside
  const ValueId y = Make(b, {}, 64);      // 2,
  const ValueId z = Make(b, {sent}, 64);  // and waited for by 3.
  b.Output("y", y);
  b.Output("z", z);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  BesidePlan beside;
  beside.steps.resize(4);
  beside.steps[1].beside = true;
  beside.steps[3].waits_for = {1};

  EXPECT_EQ(PlanMemory(*graph).offset[x], PlanMemory(*graph).offset[y]);
  const MemoryPlan plan = PlanMemory(*graph, /*reuse=*/true, beside);
  EXPECT_NE(plan.offset[x], plan.offset[y]);
  EXPECT_NE(plan.offset[x], plan.offset[z]);
}

// As many results of nodes that begin at once are there as there are nodes, and
// none lies where one of them still reads.
TEST(PlanMemoryTest, WhatNodesThatBeginAtOnceTouchIsApart) {
  GraphBuilder b;
  const ValueId x = Make(b, {}, 64);    // Node 0.
  const ValueId y = Make(b, {}, 64);    // 1; then at once
  const ValueId dx = Make(b, {x}, 64);  // 2, the last that reads x,
  const ValueId dy = Make(b, {y}, 64);  // and 3.
  const ValueId z = Make(b, {}, 64);    // 4.
  b.Output("z", z);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  BesidePlan plan_of_two;
  plan_of_two.together = {{2, 4}};

  EXPECT_EQ(PlanMemory(*graph).offset[dy], PlanMemory(*graph).offset[x]);
  const MemoryPlan plan = PlanMemory(*graph, /*reuse=*/true, plan_of_two);
  const std::set<int64_t> offsets = {plan.offset[x], plan.offset[y],
                                     plan.offset[dx], plan.offset[dy]};
  EXPECT_EQ(offsets.size(), 4);
  EXPECT_EQ(plan.lower_bound_bytes, 4 * 64);
  EXPECT_EQ(plan.arena_bytes, 4 * 64);  // z lies where one of them lay.
}

TEST(PlanMemoryTest, OutputsOutliveTheirLastReader) {
  GraphBuilder b;
  const ValueId kept = Make(b, {}, 64);
  const ValueId x = Make(b, {kept}, 64);
  const ValueId y = Make(b, {x}, 64);
  b.Output("kept", kept);
  b.Output("y", y);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const MemoryPlan plan = PlanMemory(*graph);

  EXPECT_NE(plan.offset[kept], plan.offset[y]);
}

// The first output of a node may lie where a named input lay.
ValueId MakeInPlace(GraphBuilder& b, std::vector<ValueId> inputs, int64_t bytes,
                    int64_t in_place) {
  return b.Add1(kMake, inputs, {{"bytes", bytes}, {"in_place", in_place}});
}

TEST(PlanMemoryTest, AResultTakesThePlaceOfWhatNobodyReadsAnyMore) {
  GraphBuilder b;
  const ValueId h = Make(b, {}, 640);
  const ValueId x = Make(b, {h}, 128);
  const ValueId second = MakeInPlace(b, {x, h}, 640, /*in_place=*/1);
  const ValueId third = MakeInPlace(b, {second}, 640, /*in_place=*/0);
  const ValueId other = Make(b, {third}, 640);
  b.Output("y", Make(b, {third, other}, 64));
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const MemoryPlan plan = PlanMemory(*graph);

  EXPECT_EQ(plan.offset[second], plan.offset[h]);
  EXPECT_EQ(plan.offset[third], plan.offset[h]);
  // One life from h to third: what comes beside it lies elsewhere.
  EXPECT_NE(plan.offset[other], plan.offset[h]);
  EXPECT_EQ(plan.num_values, 6);
  EXPECT_EQ(plan.lower_bound_bytes, 640 + 640 + 64);
  const MemoryPlan apart = PlanMemory(*graph, /*reuse=*/false);
  EXPECT_NE(apart.offset[second], apart.offset[h]);
}

TEST(PlanMemoryTest, AResultTakesNoPlaceThatIsStillWanted) {
  GraphBuilder b;
  const ValueId read_later = Make(b, {}, 640);
  const ValueId a = MakeInPlace(b, {read_later}, 640, /*in_place=*/0);
  const ValueId output = Make(b, {a, read_later}, 640);
  const ValueId c = MakeInPlace(b, {output}, 640, /*in_place=*/0);
  const ValueId smaller = MakeInPlace(b, {c}, 320, /*in_place=*/0);
  b.Output("output", output);
  b.Output("y", smaller);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const MemoryPlan plan = PlanMemory(*graph);

  EXPECT_NE(plan.offset[a], plan.offset[read_later]);
  EXPECT_NE(plan.offset[c], plan.offset[output]);
  EXPECT_NE(plan.offset[smaller], plan.offset[c]);
}

// Against the definition, on random graphs: no two values that live at the same
// time overlap, and the arena is between the lower bound and no reuse.
TEST(PlanMemoryTest, ValuesThatLiveTogetherNeverOverlap) {
  std::mt19937 rng(7);
  for (int round = 0; round < 50; ++round) {
    GraphBuilder b;
    std::vector<ValueId> values;
    for (int i = 0; i < 60; ++i) {
      std::vector<ValueId> inputs;
      for (int k = 0; k < 2 && !values.empty(); ++k) {
        inputs.push_back(values[rng() % values.size()]);
      }
      values.push_back(Make(b, inputs, 1 + rng() % 5000));
    }
    const auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());

    const MemoryPlan plan = PlanMemory(*graph);

    std::vector<int> last(graph->values().size());
    for (int n = 0; n < static_cast<int>(graph->nodes().size()); ++n) {
      for (const ValueId id : graph->node(n).inputs) last[id] = n;
      for (const ValueId id : graph->node(n).outputs) last[id] = n;
    }
    for (const ValueId a : values) {
      for (const ValueId c : values) {
        if (a >= c) continue;
        const int a_first = graph->value(a).producer;
        const int c_first = graph->value(c).producer;
        if (last[a] < c_first || last[c] < a_first) continue;
        const int64_t a_end = plan.offset[a] + graph->value(a).type.max_bytes();
        const int64_t c_end = plan.offset[c] + graph->value(c).type.max_bytes();
        EXPECT_TRUE(a_end <= plan.offset[c] || c_end <= plan.offset[a])
            << "values " << a << " and " << c << " of round " << round;
      }
    }
    EXPECT_GE(plan.arena_bytes, plan.lower_bound_bytes);
    EXPECT_LE(plan.arena_bytes, plan.unshared_bytes);
  }
}

}  // namespace
}  // namespace strata
