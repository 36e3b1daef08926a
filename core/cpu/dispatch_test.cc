#include "core/cpu/dispatch.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/dispatch.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<float> RandomFloats(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& x : values) x = normal(rng);
  return values;
}

// Choices of k out of `num_experts`; skewed to the low ones; some are -1.
std::vector<int32_t> RandomChoice(int64_t slots, int num_experts, int seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> expert(slots);
  for (int32_t& e : expert) {
    e = rng() % 4 == 0 ? -1 : rng() % (rng() % num_experts + 1);
  }
  return expert;
}

// --- DispatchPlan ---

struct Plan {
  std::vector<int32_t> row_slot, slot_row, offset, rows;
};

// Plans `t` of `max_t` rows of choices.
absl::Status RunPlan(int64_t max_t, int32_t t, int64_t k, int64_t num_experts,
                     const std::vector<int32_t>& expert, int num_threads,
                     Plan& plan) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId count = b.Input("t", DType::kI32, {});
        const DispatchPlanResult result = DispatchPlan(
            b,
            b.Input("expert", DType::kI32, {Ragged(max_t, count), Static(k)}),
            num_experts);
        b.Output("row_slot", result.row_slot);
        b.Output("slot_row", result.slot_row);
        b.Output("offset", result.offset);
        b.Output("rows", result.rows);
      },
      {RegisterDispatchKernels}, {DType::kF32, num_threads});
  run.Set<int32_t>("t", {t});
  run.Set("expert", expert);
  const absl::Status status = run.Run();
  if (status.ok()) {
    plan = {run.Get<int32_t>("row_slot"), run.Get<int32_t>("slot_row"),
            run.Get<int32_t>("offset"), run.Get<int32_t>("rows")};
  }
  return status;
}

TEST(DispatchPlanTest, GroupsSlotsByExpertInTheirOrder) {
  // Two tokens of two slots over four experts: 2 and 0, then 2 and none.
  Plan plan;
  ASSERT_THAT(RunPlan(3, 2, 2, 4, {2, 0, 2, -1, 9, 9}, 2, plan), IsOk());

  EXPECT_THAT(plan.rows, ElementsAre(3));
  EXPECT_THAT(plan.offset, ElementsAre(0, 1, 1, 3, 3));
  EXPECT_THAT(plan.row_slot, ElementsAre(1, 0, 2));
  EXPECT_THAT(plan.slot_row, ElementsAre(1, 0, 2, -1));
}

TEST(DispatchPlanTest, PlansNoTokensAndNoChoices) {
  Plan plan;
  ASSERT_THAT(RunPlan(2, 0, 2, 2, {}, 2, plan), IsOk());
  EXPECT_THAT(plan.row_slot, IsEmpty());
  EXPECT_THAT(plan.offset, ElementsAre(0, 0, 0));

  ASSERT_THAT(RunPlan(2, 1, 2, 2, {-1, -1}, 2, plan), IsOk());
  EXPECT_THAT(plan.rows, ElementsAre(0));
  EXPECT_THAT(plan.slot_row, ElementsAre(-1, -1));
}

TEST(DispatchPlanTest, RejectsAnExpertThatIsNot) {
  Plan plan;
  EXPECT_THAT(RunPlan(2, 2, 2, 3, {0, 1, 3, 2}, 2, plan),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("slot 2 names expert 3; want -1 to 2")));
  EXPECT_THAT(RunPlan(1, 1, 1, 3, {-2}, 2, plan),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("names expert -2")));
}

TEST(DispatchPlanTest, AgreesWithAStableSort) {
  struct Case {
    int t, k, num_experts;
  };
  // Chunks have 1024 slots, or 4 E if that is more.
  for (const Case& c :
       {Case{1, 1, 1}, Case{511, 2, 8}, Case{512, 2, 8}, Case{513, 2, 8},
        Case{1400, 3, 300}, Case{4096, 4, 64}}) {
    const std::vector<int32_t> expert =
        RandomChoice(c.t * c.k, c.num_experts, c.t);
    std::vector<int32_t> want;
    for (int32_t s = 0; s < c.t * c.k; ++s) {
      if (expert[s] >= 0) want.push_back(s);
    }
    std::stable_sort(want.begin(), want.end(), [&](int32_t a, int32_t b) {
      return expert[a] < expert[b];
    });

    Plan plan;
    ASSERT_THAT(RunPlan(c.t, c.t, c.k, c.num_experts, expert, 2, plan), IsOk());

    ASSERT_EQ(plan.row_slot, want);
    for (size_t r = 0; r < want.size(); ++r) {
      ASSERT_EQ(plan.slot_row[want[r]], static_cast<int32_t>(r));
      ASSERT_LE(plan.offset[expert[want[r]]], static_cast<int32_t>(r));
      ASSERT_GT(plan.offset[expert[want[r]] + 1], static_cast<int32_t>(r));
    }
    EXPECT_EQ(std::count(plan.slot_row.begin(), plan.slot_row.end(), -1),
              static_cast<int64_t>(expert.size() - want.size()));
    for (const int num_threads : {1, 3}) {
      Plan again;
      ASSERT_THAT(
          RunPlan(c.t, c.t, c.k, c.num_experts, expert, num_threads, again),
          IsOk());
      EXPECT_EQ(again.row_slot, plan.row_slot);
      EXPECT_EQ(again.slot_row, plan.slot_row);
    }
  }
}

// --- DispatchRows, CombineRows, RowDot ---

// What one run of the three over the same plan gives.
struct Moved {
  std::vector<int32_t> row_slot;
  std::vector<float> dispatched, combined, dot;
};

Moved RunMoves(int64_t t, int64_t k, int64_t d, bool weighted,
               const std::vector<int32_t>& expert, const std::vector<float>& x,
               const std::vector<float>& weight, int num_threads = 2) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const DispatchPlanResult plan = DispatchPlan(
            b, b.Input("expert", DType::kI32, {Static(t), Static(k)}), 5);
        const ValueId in = b.Input("x", DType::kF32, {Static(t), Static(d)});
        const ValueId w =
            b.Input("weight", DType::kF32, {Static(t), Static(k)});
        const ValueId optional = weighted ? w : kNone;
        const ValueId rows = DispatchRows(b, in, plan, optional);
        b.Output("row_slot", plan.row_slot);
        b.Output("dispatched", rows);
        b.Output("combined", CombineRows(b, rows, plan, optional));
        b.Output("dot", b.Add1(kRowDot, {in, rows, plan.slot_row}));
      },
      {RegisterDispatchKernels}, {DType::kF32, num_threads});
  run.Set("expert", expert);
  run.Set("x", x);
  run.Set("weight", weight);
  EXPECT_THAT(run.Run(), IsOk());
  return {run.Get<int32_t>("row_slot"), run.Get<float>("dispatched"),
          run.Get<float>("combined"), run.Get<float>("dot")};
}

TEST(DispatchRowsTest, CopiesRowsExpertByExpertAndBack) {
  // Token 0 goes to experts 1 and 0, token 1 to expert 0, token 2 to none.
  const Moved moved = RunMoves(3, 2, 2, /*weighted=*/false,
                               {1, 0, 0, -1, -1, -1}, {1, 2, 3, 4, 5, 6}, {});

  EXPECT_THAT(moved.row_slot, ElementsAre(1, 2, 0));
  EXPECT_THAT(moved.dispatched, ElementsAre(1, 2, 3, 4, 1, 2));
  EXPECT_THAT(moved.combined, ElementsAre(2, 4, 3, 4, 0, 0));
  EXPECT_THAT(moved.dot, ElementsAre(5, 5, 25, 0, 0, 0));
}

TEST(DispatchRowsTest, WeighsOnTheWayOutAndBack) {
  // Weights 2, 3 and -1: rows of slots 1, 2, 0; squares on the way back.
  const Moved moved =
      RunMoves(3, 2, 2, /*weighted=*/true, {1, 0, 0, -1, -1, -1},
               {1, 2, 3, 4, 5, 6}, {2, 3, -1, 9, 9, 9});

  EXPECT_THAT(moved.dispatched, ElementsAre(3, 6, -3, -4, 2, 4));
  EXPECT_THAT(moved.combined, ElementsAre(4 + 9, 8 + 18, 3, 4, 0, 0));
}

TEST(DispatchRowsTest, IsBitEqualForAnyNumberOfThreadsAndAgreesWithLoops) {
  // A chunk has 16384 elements.
  for (const int64_t d : {1, 3, 64, 257}) {
    const int64_t t = 2 * 16384 / d / 3 + 5, k = 3;
    const std::vector<int32_t> expert = RandomChoice(t * k, 5, d);
    const std::vector<float> x = RandomFloats(t * d, 1);
    const std::vector<float> weight = RandomFloats(t * k, 2);

    const Moved moved = RunMoves(t, k, d, true, expert, x, weight);

    for (int64_t i = 0; i < t; ++i) {
      for (int64_t c = 0; c < d; ++c) {
        double sum = 0;
        for (int64_t s = i * k; s < (i + 1) * k; ++s) {
          if (expert[s] >= 0) sum += double{weight[s]} * weight[s];
        }
        // Some roundings of terms of size |x| w^2, w at most 5.
        ASSERT_NEAR(moved.combined[i * d + c], sum * x[i * d + c],
                    1e-5 * (1 + sum));
      }
    }
    for (const int num_threads : {1, 3}) {
      const Moved again =
          RunMoves(t, k, d, true, expert, x, weight, num_threads);
      EXPECT_EQ(again.dispatched, moved.dispatched);
      EXPECT_EQ(again.combined, moved.combined);
      EXPECT_EQ(again.dot, moved.dot);
    }
  }
}

bool FillExperts(const std::string& name, const TensorView& view) {
  if (name != "expert") return false;
  const std::vector<int32_t> expert = {2, 0, 1, -1, -1, -1, 0, 2};
  std::copy(expert.begin(), expert.end(), view.as<int32_t>());
  return true;
}

TEST(DispatchRowsTest, GradientsAgreeWithDifferences) {
  GradCheckOptions options;
  options.fill = FillExperts;
  for (const bool weighted : {false, true}) {
    EXPECT_THAT(
        CheckGradients(
            [&](GraphBuilder& b) -> std::vector<ValueId> {
              const DispatchPlanResult plan = DispatchPlan(
                  b, b.Input("expert", DType::kI32, {Static(4), Static(2)}), 3);
              const ValueId x =
                  b.Input("x", DType::kF64, {Static(4), Static(3)});
              const ValueId in =
                  weighted ? b.Input("in", DType::kF64, {Static(4), Static(2)})
                           : kNone;
              const ValueId out =
                  weighted ? b.Input("out", DType::kF64, {Static(4), Static(2)})
                           : kNone;
              return {CombineRows(b, DispatchRows(b, x, plan, in), plan, out)};
            },
            {RegisterDispatchKernels}, options),
        IsOk());
  }
}

// --- CompactRows, GatherRows, AddRows ---

TEST(CompactRowsTest, KeepsTheTokensThatStayInOrderAndThenAgain) {
  GraphRun run(
      [](GraphBuilder& b) {
        const Compacted first =
            CompactRows(b, kNone, b.Input("stay", DType::kU8, {Static(5)}));
        const ValueId stay_on =
            b.Input("stay_on", DType::kU8, {Ragged(5, first.count)});
        const Compacted second = CompactRows(b, first.index, stay_on);
        b.Output("first", first.index);
        b.Output("second", second.index);
        b.Output("count", second.count);
      },
      {RegisterDispatchKernels});
  run.Set<uint8_t>("stay", {1, 0, 1, 1, 0});
  run.Set<uint8_t>("stay_on", {0, 1, 1});

  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<int32_t>("first"), ElementsAre(0, 2, 3));
  EXPECT_THAT(run.Get<int32_t>("second"), ElementsAre(2, 3));
  EXPECT_THAT(run.Get<int32_t>("count"), ElementsAre(2));

  run.Set<uint8_t>("stay", {0, 0, 0, 0, 0});
  ASSERT_THAT(run.Run(), IsOk());
  EXPECT_THAT(run.Get<int32_t>("second"), IsEmpty());
}

void BuildGatherAndAdd(GraphBuilder& b, int64_t t, int64_t d) {
  const ValueId n = b.Input("n", DType::kI32, {});
  const ValueId x = b.Input("x", DType::kF32, {Static(t), Static(d)});
  const ValueId index = b.Input("index", DType::kI32, {Ragged(t, n)});
  const ValueId gathered = GatherRows(b, x, index);
  b.Output("gathered", gathered);
  b.Output("added", AddRows(b, x, gathered, index));
  b.Output("scattered", b.Add1(kScatterRows, {gathered, index, x}));
}

TEST(GatherRowsTest, PicksRowsAndAddRowsPutsThemBack) {
  GraphRun run([](GraphBuilder& b) { BuildGatherAndAdd(b, 3, 2); },
               {RegisterDispatchKernels});
  run.Set<float>("x", {1, 2, 3, 4, 5, 6});
  run.Set<int32_t>("index", {2, 0});
  run.Set<int32_t>("n", {2});

  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<float>("gathered"), ElementsAre(5, 6, 1, 2));
  EXPECT_THAT(run.Get<float>("added"), ElementsAre(2, 4, 3, 4, 10, 12));
  EXPECT_THAT(run.Get<float>("scattered"), ElementsAre(1, 2, 0, 0, 5, 6));

  run.Set<int32_t>("n", {0});
  ASSERT_THAT(run.Run(), IsOk());
  EXPECT_THAT(run.Get<float>("added"), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(run.Get<float>("scattered"), ElementsAre(0, 0, 0, 0, 0, 0));
}

TEST(GatherRowsTest, RejectsARowThatIsNot) {
  for (const int32_t row : {-1, 3}) {
    GraphRun run([](GraphBuilder& b) { BuildGatherAndAdd(b, 3, 2); },
                 {RegisterDispatchKernels});
    run.Set<int32_t>("index", {0, row});
    run.Set<int32_t>("n", {2});

    EXPECT_THAT(run.Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                                    HasSubstr("want 0 to 2")));
  }
}

TEST(GatherRowsTest, IsBitEqualForAnyNumberOfThreads) {
  const int64_t t = 300, d = 130;  // Three chunks of rows.
  std::vector<int32_t> index;
  for (int32_t i = 0; i < t; i += 2) index.push_back(t - 1 - i);
  std::vector<float> want;
  for (const int num_threads : {1, 2, 3}) {
    GraphRun run([&](GraphBuilder& b) { BuildGatherAndAdd(b, t, d); },
                 {RegisterDispatchKernels}, {DType::kF32, num_threads});
    run.Set("x", RandomFloats(t * d, 1));
    run.Set("index", index);
    run.Set<int32_t>("n", {static_cast<int32_t>(index.size())});
    ASSERT_THAT(run.Run(), IsOk());
    const std::vector<float> got = run.Get<float>("added");
    if (want.empty()) want = got;
    EXPECT_EQ(got, want);
  }
}

bool FillIndex(const std::string& name, const TensorView& view) {
  if (name == "n") {
    *view.as<int32_t>() = 3;
    return true;
  }
  if (name == "index") {
    const std::vector<int32_t> index = {4, 0, 2};
    std::copy(index.begin(), index.end(), view.as<int32_t>());
    return true;
  }
  return false;
}

TEST(GatherRowsTest, GradientsAgreeWithDifferences) {
  GradCheckOptions options;
  options.fill = FillIndex;
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const ValueId n = b.Input("n", DType::kI32, {});
            const ValueId index = b.Input("index", DType::kI32, {Ragged(4, n)});
            const ValueId x = b.Input("x", DType::kF64, {Static(5), Static(2)});
            const ValueId y = b.Input("y", DType::kF64, {Static(5), Static(2)});
            const ValueId picked = GatherRows(b, x, index);
            return {picked, AddRows(b, y, picked, index),
                    b.Add1(kScatterRows, {picked, index, x})};
          },
          {RegisterDispatchKernels, RegisterElementwiseKernels}, options),
      IsOk());
}

}  // namespace
}  // namespace strata
