#include "core/cpu/quant/move_codes.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/move_codes.h"
#include "core/quant/format.h"
#include "core/quant/straight_through.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMatrices = 3, kRows = 70, kColumns = 256, kGroup = 64;
constexpr int64_t kAllRows = kMatrices * kRows, kGroups = kColumns / kGroup;

// Random numbers in memory, and rows in it.
struct Memory {
  std::vector<float> w, gradient, position, scale, zero, moments;
  std::vector<int32_t> bits = {2, 8, 4};

  Memory() {
    const auto normal = [](int64_t n, uint32_t seed) {
      const std::vector<double> x = Normal(n, seed);
      return std::vector<float>(x.begin(), x.end());
    };
    w = normal(kAllRows * kColumns, 1);
    gradient = normal(kAllRows * kColumns, 2);
    position = normal(kAllRows * kColumns, 3);
    for (float& q : position) q *= 2;  // Of 2 bits some are clipped.
    scale = normal(kAllRows * kGroups, 4);
    zero = normal(kAllRows * kGroups, 5);
    for (float& z : zero) z = std::max(0.0f, 1 + z);
    moments = normal(kAllRows * kGroups * kGroupMoments, 6);
    for (float& m : moments) m *= m;
  }

  LearnedRow Row(int64_t row) {
    QuantFormat format;
    format.bits = bits[row / kRows];
    format.group = kGroup;
    format.symmetric = false;
    return {format,
            kColumns,
            position.data() + row * kColumns,
            scale.data() + row * kGroups,
            zero.data() + row * kGroups,
            moments.data() + row * kGroups * kGroupMoments};
  }
};

absl::StatusOr<RunResult> RunMoveCodes(const Memory& memory, int num_threads,
                                       int32_t step) {
  const auto copy = [](const std::vector<float>& from, const TensorView& to) {
    std::copy(from.begin(), from.end(), to.as<float>());
  };
  return RunGraph(
      DType::kF32, num_threads, {RegisterMoveCodesKernels},
      [](GraphBuilder& b) {
        const Dims dims = {Static(kMatrices), Static(kRows), Static(kColumns)};
        MoveCodesOptions options;
        options.group = kGroup;
        options.symmetric = false;
        MoveCodes(b, b.State("w", DType::kF32, dims),
                  b.Input("gradient", DType::kF32, dims),
                  AddCodeStates(b, "", dims, kGroup, kMatrices),
                  b.Input("lr", DType::kF32, {}),
                  b.Input("step", DType::kI32, {}), options);
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "w") copy(memory.w, view);
        if (name == "gradient") copy(memory.gradient, view);
        if (name == "position") copy(memory.position, view);
        if (name == "scale") copy(memory.scale, view);
        if (name == "zero") copy(memory.zero, view);
        if (name == "moments") copy(memory.moments, view);
        if (name == "bits") {
          std::copy(memory.bits.begin(), memory.bits.end(), view.as<int32_t>());
        }
        if (name == "lr") *view.as<float>() = 0.125f;
        if (name == "step") *view.as<int32_t>() = step;
      });
}

std::vector<double> Wide(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

TEST(MoveCodesTest, MovesEachRowByTheBitsOfItsMatrix) {
  Memory memory;
  const auto one = RunMoveCodes(memory, 1, 3);
  const auto three = RunMoveCodes(memory, 3, 3);
  AdamRates rates;
  rates.rate = 0.125;
  rates.step = 3;
  for (int64_t row = 0; row < kAllRows; ++row) {
    MoveRow(memory.Row(row), memory.gradient.data() + row * kColumns, rates,
            memory.w.data() + row * kColumns);
  }
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(three, IsOk());
  for (const RunResult& result : {*one, *three}) {
    EXPECT_EQ(result.at("w"), Wide(memory.w));
    EXPECT_EQ(result.at("position"), Wide(memory.position));
    EXPECT_EQ(result.at("scale"), Wide(memory.scale));
    EXPECT_EQ(result.at("zero"), Wide(memory.zero));
    EXPECT_EQ(result.at("moments"), Wide(memory.moments));
  }
}

TEST(MoveCodesTest, StepsCountFromOne) {
  EXPECT_THAT(RunMoveCodes(Memory(), 1, 0).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("step is 0; want 1 or more")));
}

}  // namespace
}  // namespace strata
