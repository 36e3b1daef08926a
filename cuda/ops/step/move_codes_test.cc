#include "core/ops/move_codes.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Learned {
  int64_t matrices, rows, columns, group;
  bool symmetric;
};

// Every source is random; scales are such that some groups have none and some
// are negative, and numbers such that of 2 bits many are clipped.
absl::Status CompareStep(const Learned& p, int32_t step) {
  const auto build = [&](GraphBuilder& b) {
    const Dims dims = {Static(p.matrices), Static(p.rows), Static(p.columns)};
    MoveCodesOptions options;
    options.group = p.group;
    options.symmetric = p.symmetric;
    MoveCodes(b, b.State("w", DType::kF32, dims),
              b.Input("gradient", DType::kF32, dims),
              AddCodeStates(b, "", dims, p.group, p.matrices),
              b.Input("lr", DType::kF32, {}), b.Input("step", DType::kI32, {}),
              options);
    return std::vector<ValueId>{};
  };
  const auto fill = [&](const std::string& name, const TensorView& view) {
    const int64_t n = view.num_elements();
    if (name == "step") *view.as<int32_t>() = step;
    if (name == "lr") *view.as<float>() = 0.0625f;
    if (name == "bits") {
      for (int64_t i = 0; i < n; ++i) view.as<int32_t>()[i] = 2 << i % 3;
    }
    if (name == "scale" || name == "zero" || name == "moments") {
      FillCoarse(view, 3);
      for (int64_t i = 0; i < n; ++i) {
        float& x = view.as<float>()[i];
        if (name == "scale") x -= 0.25f;
        if (name == "zero") x *= 3;
      }
    }
    return name != "w" && name != "gradient" && name != "position";
  };
  return CompareBackends(build, {/*roundings=*/4, fill});
}

using MoveCodesTest = DeviceTest<Learned>;

TEST_P(MoveCodesTest, AgreesWithTheCpu) {
  for (const int step : {1, 1000}) {
    EXPECT_THAT(CompareStep(GetParam(), step), IsOk()) << step;
  }
}

// Groups of a warp's width, of two and of four; rows of one group about a
// warp's width; more groups than all warps of a launch, 16,896.
INSTANTIATE_TEST_SUITE_P(
    Shapes, MoveCodesTest,
    testing::Values(Learned{1, 1, 32, 32, false}, Learned{3, 5, 96, 32, true},
                    Learned{3, 7, 192, 64, false},
                    Learned{5, 3, 256, 128, true}, Learned{2, 3, 1, 0, false},
                    Learned{2, 3, 31, 0, true}, Learned{3, 2, 33, 0, false},
                    Learned{4, 3, 1000, 0, true},
                    Learned{3, 177, 1024, 32, false}),
    [](const testing::TestParamInfo<Learned>& info) {
      const Learned& p = info.param;
      return absl::StrCat(info.index, "_rows", p.matrices * p.rows, "_columns",
                          p.columns, "_groups", p.group);
    });

using MoveCodesStepTest = DeviceTest<int>;

TEST_P(MoveCodesStepTest, StepsCountFromOne) {
  EXPECT_EQ(CompareStep({1, 2, 64, 32, true}, GetParam()).code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Steps, MoveCodesStepTest, testing::Values(0));

}  // namespace
}  // namespace strata::gpu
