#include "core/ops/gate.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/biased_score.h"
#include "core/ops/dispatch.h"
#include "core/ops/gate_loss.h"
#include "core/ops/gate_select.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// The block of experts: gate_select, gate, gate_loss, dispatch.

namespace strata::gpu {
namespace {

using ::testing::_;

struct Experts {
  int64_t tokens, experts, k;
};
std::string ExpertsName(const testing::TestParamInfo<Experts>& info) {
  return absl::StrCat(info.index, "_tokens", info.param.tokens, "_experts",
                      info.param.experts, "_k", info.param.k);
}

class ExpertsTest : public DeviceTest<Experts> {
 protected:
  // Scores with ties, masks, and choices of which some are none.
  FillFn Inputs() const {
    const Experts p = GetParam();
    return WithRows(
        p.tokens, [p](const std::string& name, const TensorView& view) {
          if (name == "mask" || name == "stay") {
            FillMask(view, 3);
            return true;
          }
          if (name == "p" || name == "score") {
            FillCoarse(view, 4);
            return true;
          }
          if (name == "tau") {
            *view.as<float>() = 0.6f;
            return true;
          }
          if (name == "seq_start") {
            const auto n = static_cast<int32_t>(p.tokens);
            return FillInts(view, {0, n / 3, n / 3, n});
          }
          return name == "expert" &&
                 FillInts(view, RandomInts(view.num_elements(), -1,
                                           static_cast<int>(p.experts - 1), 5));
        });
  }
};

TEST_P(ExpertsTest, SelectsWhatTheCpuSelects) {
  const auto [tokens, experts, k] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [tokens = tokens, experts = experts, k = k](GraphBuilder& b) {
            const Dim t = RaggedRows(b, tokens);
            const ValueId score = FloatInput(b, "score", t, experts);
            const ValueId bias =
                b.State("bias", DType::kF32, {Static(experts)});
            b.Output("kept", CoarseFilter(b, score, bias, (experts + 1) / 2));
            b.Output("kept_unbiased", CoarseFilter(b, score, kNone, 1));
            AdaptiveSelectOptions options;
            options.k_max = k;
            options.exit_threshold = 0.5;
            const ValueId mask =
                b.Input("mask", DType::kU8, {t, Static(experts)});
            const Selection masked =
                AdaptiveSelect(b, score, mask, bias, options);
            b.Output("expert", masked.expert);
            b.Output("stay", masked.stay);
            options.tau_value = b.Input("tau", DType::kF32, {});
            options.exit_threshold = 0;
            b.Output("open",
                     AdaptiveSelect(b, score, kNone, kNone, options).expert);
            TopKOptions top;
            top.k = k;
            b.Output("top", TopKSelect(b, score, bias, top));
            if (experts % 4 == 0 && k <= experts / 4) {
              top.num_groups = 4;
              top.top_groups = 2;
              b.Output("grouped", TopKSelect(b, score, kNone, top));
              top.group_max = true;
              b.Output("by_max", TopKSelect(b, score, bias, top));
            }
            b.Output("choice", ExpertChoice(b, score, k));
            b.Output("balanced", BalancedSelect(b, score, k));
            return std::vector<ValueId>{};
          },
          {/*roundings=*/1, Inputs()}),
      IsOk());
}

// Of a vocabulary, which is more than a gate's experts: by a kernel of its own.
TEST(ChoiceTest, TheBestOfManyColumns) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const int64_t columns : {513, 1000, 32000}) {
    EXPECT_THAT(
        CompareBackends(
            [columns](GraphBuilder& b) {
              const Dim t = RaggedRows(b, 3);
              TopKOptions best;
              best.k = 1;
              const ValueId score = FloatInput(b, "score", t, columns);
              const ValueId bias =
                  b.Input("bias", DType::kF32, {Static(columns)});
              b.Output("best", TopKSelect(b, score, kNone, best));
              b.Output("biased", TopKSelect(b, score, bias, best));
              return std::vector<ValueId>{};
            },
            {/*roundings=*/1,
             WithRows(3,
                      [](const std::string& name, const TensorView& view) {
                        if (name != "score") return false;
                        FillCoarse(view, /*seed=*/1);  // Ties.
                        return true;
                      })}),
        IsOk());
  }
}

TEST_P(ExpertsTest, WeightsAndLosses) {
  const auto [tokens, experts, k] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [tokens = tokens, experts = experts, k = k](GraphBuilder& b) {
            const Dim t = RaggedRows(b, tokens);
            const ValueId p = FloatInput(b, "p", t, experts);
            const ValueId c = FloatInput(b, "c", t, experts);
            const ValueId expert =
                b.Input("expert", DType::kI32, {t, Static(k)});
            const ValueId mask =
                b.Input("mask", DType::kU8, {t, Static(experts)});
            const ValueId seq_start =
                b.Input("seq_start", DType::kI32, {Static(4)});
            WeightOptions options;
            options.normalize = true;
            options.floor = 0.9;
            options.scale = 1.5;
            const Carried first =
                CarryWeight(b, SelectedWeight(b, p, expert, options), kNone);
            const Carried second = CarryWeight(
                b, SelectedWeight(b, p, expert, WeightOptions()), first.carry);
            return std::vector<ValueId>{
                first.weight,
                second.weight,
                second.carry,
                CoarseDistill(b, c, p, mask),
                ExpectedCost(b, p, mask),
                BalanceLoss(b, p, expert, seq_start),
                BalanceLoss(b, p, expert, kNone),
                ZLoss(b, c),
                BiasedScore(b, c, b.Parameter("bias", {Static(experts)}))};
          },
          {/*roundings=*/64. + experts + 4. * k, Inputs()}),
      IsOk());
}

TEST_P(ExpertsTest, RowsGoToTheirExpertsAndBack) {
  const auto [tokens, experts, k] = GetParam();
  for (const int64_t columns : {int64_t{12}, int64_t{37}}) {
    EXPECT_THAT(
        CompareBackends(
            [tokens = tokens, experts = experts, k = k,
             columns](GraphBuilder& b) {
              const Dim t = RaggedRows(b, tokens);
              const ValueId expert =
                  b.Input("expert", DType::kI32, {t, Static(k)});
              const DispatchPlanResult plan = DispatchPlan(b, expert, experts);
              b.Output("row_slot", plan.row_slot);
              b.Output("slot_row", plan.slot_row);
              b.Output("offset", plan.offset);
              b.Output("rows", plan.rows);
              const ValueId x = FloatInput(b, "x", t, columns);
              const ValueId weight = FloatInput(b, "weight", t, k);
              const ValueId rows = DispatchRows(b, x, plan);
              const ValueId weighed = DispatchRows(b, x, plan, weight);
              const Compacted some =
                  CompactRows(b, kNone, b.Input("stay", DType::kU8, {t}));
              b.Output("index", some.index);
              const ValueId gathered = GatherRows(b, x, some.index);
              return std::vector<ValueId>{CombineRows(b, rows, plan),
                                          CombineRows(b, weighed, plan, weight),
                                          gathered,
                                          AddRows(b, x, gathered, some.index)};
            },
            {/*roundings=*/16. + columns + 4. * k, Inputs()}),
        IsOk());
  }
}

TEST_P(ExpertsTest, BiasesFollowTheLoad) {
  const auto [tokens, experts, k] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [tokens = tokens, experts = experts, k = k](GraphBuilder& b) {
                    const Dim t = RaggedRows(b, tokens);
                    const DispatchPlanResult plan = DispatchPlan(
                        b, b.Input("expert", DType::kI32, {t, Static(k)}),
                        experts);
                    const auto state = [&](const char* name) {
                      return b.State(name, DType::kF32, {Static(experts)});
                    };
                    LoadBiasOptions options;
                    options.gain_p = 0.05;
                    options.gain_i = 0.01;
                    LoadBias(b, plan.offset, state("ema"), state("integral"),
                             state("bias"), options);
                    SignBias(b, plan.offset, state("sign"), 0.25);
                    return std::vector<ValueId>{};
                  },
                  // Errors are shares times the number of experts.
                  {/*roundings=*/16. + 4. * experts, Inputs()}),
              IsOk());
}

// Experts about a warp and two, more than a block's warp reads at once; slots
// about the 1024 of a chunk, and several chunks.
INSTANTIATE_TEST_SUITE_P(
    Shapes, ExpertsTest,
    testing::Values(Experts{0, 8, 2}, Experts{1, 4, 1}, Experts{5, 31, 3},
                    Experts{128, 32, 8}, Experts{129, 33, 8},
                    Experts{300, 64, 7}, Experts{1025, 128, 8},
                    Experts{257, 256, 6}, Experts{2100, 16, 4}),
    ExpertsName);

// Plans of many slots: about the 4,096 that one launch does, 132 tiles of 256,
// tiles of several times that, and the 524,288 that two launches do, with 5
// tokens more as a bound.
class ManySlotsTest : public ExpertsTest {};
TEST_P(ManySlotsTest, HaveThePlanOfTheCpu) {
  const auto [tokens, experts, k] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [tokens = tokens, experts = experts, k = k](GraphBuilder& b) {
                    const DispatchPlanResult plan = DispatchPlan(
                        b,
                        b.Input("expert", DType::kI32,
                                {RaggedRows(b, tokens), Static(k)}),
                        experts);
                    b.Output("row_slot", plan.row_slot);
                    b.Output("slot_row", plan.slot_row);
                    b.Output("offset", plan.offset);
                    b.Output("rows", plan.rows);
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/1, Inputs()}),
              IsOk());
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, ManySlotsTest,
    testing::Values(Experts{507, 128, 8}, Experts{508, 128, 8},
                    Experts{4219, 128, 8}, Experts{4220, 128, 8},
                    Experts{4220, 33, 8}, Experts{12000, 256, 6},
                    Experts{65531, 128, 8}, Experts{65532, 128, 8}),
    ExpertsName);

TEST_P(ExpertsTest, EnergySignature) {
  const auto [tokens, experts, k] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [tokens = tokens](GraphBuilder& b) {
            const Dim t = RaggedRows(b, tokens);
            return std::vector<ValueId>{
                EnergySignature(b, FloatInput(b, "narrow", t, 64), 64),
                EnergySignature(b, FloatInput(b, "slices", t, 40), 8),
                EnergySignature(b, FloatInput(b, "wide", t, 6 * 35), 6)};
          },
          // Near an even share the root loses what the sum had rounded.
          {/*roundings=*/512, Inputs()}),
      IsOk());
}

// Of so few slots that each block counts them, of more, and of most.
TEST(ExpertsErrorTest, ExpertsOutOfRangeAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const int64_t tokens : {3, 2100, 300000}) {
    EXPECT_THAT(CompareBackends(
                    [tokens](GraphBuilder& b) {
                      b.Output("rows", DispatchPlan(
                                           b,
                                           b.Input("expert", DType::kI32,
                                                   {Static(tokens), Static(2)}),
                                           4)
                                           .rows);
                      return std::vector<ValueId>{};
                    },
                    {/*roundings=*/1,
                     [tokens](const std::string& name, const TensorView& view) {
                       std::vector<int32_t> experts(2 * tokens, 0);
                       experts[1] = 3;
                       experts[2] = -1;
                       experts[3] = 4;
                       return name == "expert" && FillInts(view, experts);
                     }}),
                StatusIs(absl::StatusCode::kInvalidArgument, _));
  }
}

}  // namespace
}  // namespace strata::gpu
