// Gradients of experts' weights, whose reference on the CPU is held to the rows
// they stand for in //core/passes:slot_dots_test.

#include "core/ops/slot_dot.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Slots {
  int64_t tokens, k, width;
};
using SlotDotTest = DeviceTest<Slots>;

TEST_P(SlotDotTest, AgreesWithTheCpu) {
  const Slots& p = GetParam();
  const int64_t rows = p.tokens * p.k;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (name == "slot_row") {
      const auto last = static_cast<int>(rows - 1);
      return FillInts(view, RandomInts(view.num_elements(), -1, last, 3));
    }
    if (name == "weight") FillCoarse(view, 5);  // A 65th of them 0.
    return name == "weight";
  };
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const Dim t = RaggedRows(b, p.tokens);
            const Dim slot = Static(rows + 1);
            b.Output(
                "dweight",
                b.Add1(kSlotDot,
                       {FloatInput(b, "dh", slot, p.width),
                        FloatInput(b, "h", slot, p.width),
                        b.Input("slot_row", DType::kI32, {t, Static(p.k)}),
                        b.Input("weight", DType::kF32, {t, Static(p.k)})}));
            return std::vector<ValueId>{};
          },
          {/*roundings=*/8. + static_cast<double>(p.width),
           WithRows(p.tokens, fill)}),
      IsOk());
}

// Widths about a lane's eight and a warp's; slots about a block's eight.
INSTANTIATE_TEST_SUITE_P(Shapes, SlotDotTest,
                         testing::Values(Slots{0, 2, 8}, Slots{1, 1, 1},
                                         Slots{4, 2, 7}, Slots{9, 1, 8},
                                         Slots{33, 3, 255}, Slots{33, 8, 256},
                                         Slots{5, 8, 264}, Slots{300, 8, 768}),
                         [](const testing::TestParamInfo<Slots>& info) {
                           return absl::StrCat(info.index, "_tokens",
                                               info.param.tokens, "_width",
                                               info.param.width);
                         });

}  // namespace
}  // namespace strata::gpu
