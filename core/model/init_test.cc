#include "core/model/init.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/ops/adamw_halves.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int64_t kRows = 64, kColumns = 256;

Value ValueOf(const std::string& name, Role role, DType dtype, bool matrix) {
  Value value;
  value.name = name;
  value.role = role;
  value.type.dtype = dtype;
  value.type.dims = {Static(kRows)};
  if (matrix) value.type.dims.push_back(Static(kColumns));
  return value;
}

class InitTest : public ::testing::Test {
 protected:
  InitTest() : backend_(/*num_threads=*/2, AllCpuKernels()), state_(backend_) {}

  void Initialize(const std::vector<Value>& values) {
    Graph graph;
    for (const Value& value : values) graph.AddValue(value);
    ASSERT_THAT(state_.Declare(graph), IsOk());
    InitializeParameters(*ModelPreset("demo"), kSeed, state_);
  }

  // What those of that name are in F32.
  std::vector<float> InF32(const std::string& name) {
    StateStore state(backend_);
    Graph graph;
    graph.AddValue(ValueOf(name, Role::kParameter, DType::kF32, true));
    EXPECT_THAT(state.Declare(graph), IsOk());
    InitializeParameters(*ModelPreset("demo"), kSeed, state);
    const auto values = state.Get(name).span<float>();
    return {values.begin(), values.end()};
  }

  CpuBackend backend_;
  StateStore state_;
};

TEST_F(InitTest, GainsAreOneAndMatricesHaveTheirVariance) {
  Initialize({ValueOf("gain", Role::kParameter, DType::kF32, false),
              ValueOf("w", Role::kParameter, DType::kF32, true),
              ValueOf("moment", Role::kState, DType::kF32, true)});
  for (const float x : state_.Get("gain").span<float>()) EXPECT_EQ(x, 1);
  for (const float x : state_.Get("moment").span<float>()) EXPECT_EQ(x, 0);
  double square = 0;
  for (const float x : state_.Get("w").span<float>()) square += double{x} * x;
  // The mean of n squares of normal numbers is off by sqrt(2 / n) of itself.
  const double n = kRows * kColumns;
  EXPECT_NEAR(square / n * kColumns, 1, 5 * std::sqrt(2 / n));
}

TEST_F(InitTest, ValuesAreOfTheirNamesWhateverElseThereIs) {
  Initialize({ValueOf("other", Role::kParameter, DType::kF32, true),
              ValueOf("w", Role::kParameter, DType::kF32, true)});
  const auto got = state_.Get("w").span<float>();
  EXPECT_EQ(std::vector<float>(got.begin(), got.end()), InF32("w"));
  EXPECT_NE(InF32("other"), InF32("w"));
}

TEST_F(InitTest, HalvesAreTheWeightsInF32BitForBit) {
  Initialize({ValueOf("w", Role::kParameter, DType::kBF16, true),
              ValueOf(LowHalfName("w"), Role::kState, DType::kI16, true),
              ValueOf("alone", Role::kParameter, DType::kBF16, true)});
  const std::vector<float> want = InF32("w"), want_alone = InF32("alone");
  const auto high = state_.Get("w").span<BFloat16>();
  const auto alone = state_.Get("alone").span<BFloat16>();
  const auto* const low =
      static_cast<const int16_t*>(state_.Get(LowHalfName("w")).data);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(JoinHalves({high[i], low[i]}), want[i]) << i;
    // Of 8 bits, half the last.
    EXPECT_NEAR(Widen(high[i]), want[i], std::fabs(want[i]) * 0x1p-8) << i;
    EXPECT_NEAR(Widen(alone[i]), want_alone[i],
                std::fabs(want_alone[i]) * 0x1p-8)
        << i;
  }
}

TEST(FloatHalvesTest, JoinToWhatWasSplit) {
  for (const float x :
       {0.f, -0.f, 1.f, -1.f, 0x1.008p0f, -0x1.018p0f, 0x1.fffffep0f, 0x1p-149f,
        -0x1.fffffep-127f, 0x1.00fffep5f, 3.0e38f}) {
    const FloatHalves halves = SplitFloat(x);
    const float joined = JoinHalves(halves);
    EXPECT_EQ(joined, x);
    EXPECT_EQ(std::signbit(joined), std::signbit(x));
  }
  // Half way, away from zero.
  EXPECT_EQ(Widen(SplitFloat(0x1.01p0f).high), 0x1.02p0f);
  EXPECT_EQ(Widen(SplitFloat(-0x1.01p0f).high), -0x1.02p0f);
}

}  // namespace
}  // namespace strata
