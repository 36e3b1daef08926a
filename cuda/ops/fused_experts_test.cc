#include "core/ops/fused_experts.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/dispatch.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Layer {
  const char* name;
  int64_t tokens, experts, k, d, width;
  bool at_bound = false;  // Tokens are as many as there may be.
};
std::string LayerName(const testing::TestParamInfo<Layer>& info) {
  return info.param.name;
}

class ExpertsResidualTest : public DeviceTest<Layer> {
 protected:
  // Experts at random, some slots without one; tokens go to every other row of
  // h, from the last on, where there is an index.
  FillFn Inputs() const {
    const Layer p = GetParam();
    return WithRows(
        p.tokens, [p](const std::string& name, const TensorView& view) {
          if (view.dtype == DType::kBF16) {
            auto* const to = static_cast<BFloat16*>(view.data);
            for (int64_t i = 0; i < view.num_elements(); ++i) {
              to[i] = RoundToBFloat16(0.01f * ((i * 37 + i / 41) % 201 - 100));
            }
            return true;
          }
          if (name == "index") {
            std::vector<int32_t> rows;
            for (int64_t i = 0; i < view.num_elements(); ++i) {
              rows.push_back(static_cast<int32_t>(2 * (p.tokens + 4 - i)));
            }
            return FillInts(view, rows);
          }
          return name == "expert" &&
                 FillInts(view, RandomInts(view.num_elements(), -1,
                                           static_cast<int>(p.experts - 1), 5));
        });
  }

  // Residuals of all tokens and of some, weights in F32 and in BF16.
  static std::vector<ValueId> Build(GraphBuilder& b, const Layer& p) {
    const Dim t = p.at_bound ? Static(p.tokens) : RaggedRows(b, p.tokens);
    const ValueId x = FloatInput(b, "x", t, p.d);
    const DispatchPlanResult plan = DispatchPlan(
        b, b.Input("expert", DType::kI32, {t, Static(p.k)}), p.experts);
    const ValueId weight = FloatInput(b, "weight", t, p.k);
    const ValueId index = b.Input("index", DType::kI32, {t});
    const ValueId some = FloatInput(b, "some", Static(2 * (p.tokens + 5)), p.d);
    const ValueId all = FloatInput(b, "all", t, p.d);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const ValueId up =
          b.Input(absl::StrCat("up", Name(dtype)), dtype,
                  {Static(p.experts), Static(2 * p.width), Static(p.d)});
      const ValueId down =
          b.Input(absl::StrCat("down", Name(dtype)), dtype,
                  {Static(p.experts), Static(p.d), Static(p.width)});
      const auto add = [&](const char* name, ValueId w, ValueId h, ValueId at) {
        b.Output(absl::StrCat(name, Name(dtype)),
                 b.Add(kExpertsResidual, {x, plan.row_slot, plan.slot_row,
                                          plan.offset, w, up, down, h, at})[0]);
      };
      add("all", weight, all, kNone);
      add("some", kNone, some, index);
    }
    return {};
  }
};

// Rounded: x and weights, hidden rows, and what experts say of a token.
TEST_P(ExpertsResidualTest, AgreesWithTheCpu) {
  const Layer& p = GetParam();
  EXPECT_THAT(CompareBackends([&](GraphBuilder& b) { return Build(b, p); },
                              {64. + p.d + p.width + 4. * p.k, Inputs()}),
              IsOk());
}

TEST_P(ExpertsResidualTest, RoundedOperandsStayWithinTheirRounding) {
  const Layer& p = GetParam();
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) { return Build(b, p); },
                  {/*roundings=*/8, Inputs(), /*seed=*/3, Precision::kBf16}),
              IsOk());
}

// Few slots and many, widths with tiles of both halves and without, columns
// that are no vectors; one token whose rows of down there is room for, with
// more slots than are summed at a time, and of too many bytes or slots.
INSTANTIATE_TEST_SUITE_P(
    Layers, ExpertsResidualTest,
    testing::Values(
        Layer{"None", 0, 4, 2, 64, 128}, Layer{"One", 1, 4, 2, 64, 128},
        Layer{"OneAhead", 1, 12, 9, 136, 384, true},
        Layer{"OneWideAhead", 1, 5, 3, 64, 1280, true},
        Layer{"OneOfManyBytes", 1, 5, 6, 64, 1280, true},
        Layer{"OneOfManySlots", 1, 40, 33, 64, 128, true},
        Layer{"Few", 8, 8, 8, 136, 128}, Layer{"Tiles", 90, 7, 3, 136, 256},
        Layer{"ManyTiles", 300, 3, 2, 72, 384},
        Layer{"Narrow", 50, 5, 2, 64, 24}, Layer{"Odd", 40, 5, 2, 37, 19}),
    LayerName);

TEST(ExpertsResidualErrorTest, AnIndexBeyondTheRowsIsInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    EXPECT_THAT(CompareBackends(
                    [](GraphBuilder& b) {
                      const Dim t = Static(40);
                      const DispatchPlanResult plan = DispatchPlan(
                          b, b.Input("expert", DType::kI32, {t, Static(1)}), 2);
                      b.Output(
                          "y",
                          b.Add(kExpertsResidual,
                                {FloatInput(b, "x", t, 64), plan.row_slot,
                                 plan.slot_row, plan.offset, kNone,
                                 b.Input("up", DType::kBF16,
                                         {Static(2), Static(256), Static(64)}),
                                 b.Input("down", DType::kBF16,
                                         {Static(2), Static(64), Static(128)}),
                                 FloatInput(b, "h", Static(8), 64),
                                 b.Input("index", DType::kI32, {t})})[0]);
                      return std::vector<ValueId>{};
                    },
                    {/*roundings=*/1,
                     [](const std::string& name, const TensorView& view) {
                       return name == "index" &&
                              FillInts(view, std::vector<int32_t>(40, 8));
                     },
                     /*seed=*/1, precision}),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  }
}

}  // namespace
}  // namespace strata::gpu
