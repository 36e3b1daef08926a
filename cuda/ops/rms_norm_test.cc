// Holds the kernels to plain loops in double.

#include "cuda/ops/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::TestWithParam;

constexpr float kEps = 1e-5f;
constexpr double kFloatRounding = 1.0 / (1 << 24);

// Half a unit in the last place of what an Element stores, relative to the
// least number of its binade: bfloat16 has 8 significant bits, so 2^-8.
template <typename Element>
constexpr double kStorageRounding = sizeof(Element) == 4 ? kFloatRounding
                                                         : 1.0 / (1 << 8);

// The kernels' sums of a row: a thread adds 64 products at most (or, of rows
// that do not fit the tiles, width / 256), then 5 shuffles and 8 warps follow.
double RoundingsOfRowSum(int width) {
  return std::max(64.0, std::ceil(width / 256.0)) + 5 + 8;
}

struct Problem {
  int64_t rows = 0;
  int width = 0;
  std::vector<float> gain = {};  // [width]
  // As their Element stores them.
  std::vector<double> x = {};   // [rows, width]
  std::vector<double> dy = {};  // [rows, width]
  // The reference, rounded.
  std::vector<float> rstd = {};  // [rows]
};

template <typename Element>
Problem RandomProblem(int64_t rows, int width) {
  std::mt19937 rng(/*seed=*/rows * 100003 + width);
  std::uniform_real_distribution<float> uniform(-2, 2);
  const auto stored = [&] {
    return static_cast<double>(static_cast<float>(Element(uniform(rng))));
  };
  Problem p = {rows, width};
  for (int i = 0; i < width; ++i) p.gain.push_back(uniform(rng));
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int i = 0; i < width; ++i) {
      p.x.push_back(stored());
      p.dy.push_back(stored());
      squares += p.x.back() * p.x.back();
    }
    p.rstd.push_back(1 / std::sqrt(squares / width + kEps));
  }
  return p;
}

template <typename Element>
absl::StatusOr<DeviceArray<Element>> Stored(const std::vector<double>& values) {
  std::vector<Element> stored;
  for (double value : values)
    stored.push_back(Element(static_cast<float>(value)));
  return DeviceArray<Element>::CopyOf(stored);
}

// What the kernels leave: memory is poisoned before, so that an element that
// was not written fails.
template <typename T>
absl::StatusOr<DeviceArray<T>> Poisoned(int64_t size) {
  ASSIGN_OR_RETURN(DeviceArray<T> array, DeviceArray<T>::Allocate(size));
  RETURN_IF_ERROR(ToStatus(cudaMemset(array.data(), 0xff, size * sizeof(T))));
  return array;
}

template <typename Element>
struct Forward {
  std::vector<Element> y;
  std::vector<float> rstd;
};

template <typename Element>
absl::StatusOr<Forward<Element>> RunForward(const Problem& p) {
  ASSIGN_OR_RETURN(const auto x, Stored<Element>(p.x));
  ASSIGN_OR_RETURN(const auto gain, DeviceArray<float>::CopyOf(p.gain));
  ASSIGN_OR_RETURN(const auto y, Poisoned<Element>(p.rows * p.width));
  ASSIGN_OR_RETURN(const auto rstd, Poisoned<float>(p.rows));
  RmsNormArgs<Element> args;
  args.x = x.data();
  args.gain = gain.data();
  args.y = y.data();
  args.rstd = rstd.data();
  args.rows = p.rows;
  args.width = p.width;
  args.eps = kEps;
  RETURN_IF_ERROR(ToStatus(RmsNorm(args, /*stream=*/nullptr)));
  Forward<Element> forward;
  ASSIGN_OR_RETURN(forward.y, y.ToHost());
  ASSIGN_OR_RETURN(forward.rstd, rstd.ToHost());
  return forward;
}

template <typename Element>
absl::StatusOr<std::vector<Element>> RunInputGrad(const Problem& p) {
  ASSIGN_OR_RETURN(const auto dy, Stored<Element>(p.dy));
  ASSIGN_OR_RETURN(const auto x, Stored<Element>(p.x));
  ASSIGN_OR_RETURN(const auto gain, DeviceArray<float>::CopyOf(p.gain));
  ASSIGN_OR_RETURN(const auto rstd, DeviceArray<float>::CopyOf(p.rstd));
  ASSIGN_OR_RETURN(const auto dx, Poisoned<Element>(p.rows * p.width));
  RmsNormInputGradArgs<Element> args;
  args.dy = dy.data();
  args.x = x.data();
  args.gain = gain.data();
  args.rstd = rstd.data();
  args.dx = dx.data();
  args.rows = p.rows;
  args.width = p.width;
  RETURN_IF_ERROR(ToStatus(RmsNormInputGrad(args, /*stream=*/nullptr)));
  return dx.ToHost();
}

template <typename Element>
absl::StatusOr<std::vector<float>> RunWeightGrad(const Problem& p) {
  ASSIGN_OR_RETURN(const auto dy, Stored<Element>(p.dy));
  ASSIGN_OR_RETURN(const auto x, Stored<Element>(p.x));
  ASSIGN_OR_RETURN(const auto rstd, DeviceArray<float>::CopyOf(p.rstd));
  ASSIGN_OR_RETURN(const auto dgain, Poisoned<float>(p.width));
  ASSIGN_OR_RETURN(
      const auto partial,
      Poisoned<float>(RmsNormWeightGradPartials(p.rows) * int64_t{p.width}));
  RmsNormWeightGradArgs<Element> args;
  args.dy = dy.data();
  args.x = x.data();
  args.rstd = rstd.data();
  args.dgain = dgain.data();
  args.partial = partial.data();
  args.rows = p.rows;
  args.width = p.width;
  RETURN_IF_ERROR(ToStatus(RmsNormWeightGrad(args, /*stream=*/nullptr)));
  return dgain.ToHost();
}

// Each ExpectNear stops at the first element that is off, of which one is
// enough; NaN is off.
#define EXPECT_ELEMENT_NEAR(got, want, tolerance, row, i)               \
  if (!(std::abs((got) - (want)) <= (tolerance))) {                     \
    FAIL() << "row " << (row) << " column " << (i) << ": got " << (got) \
           << ", want " << (want) << " to within " << (tolerance);      \
  }

template <typename Element>
void ExpectForwardAgrees(const Problem& p) {
  const auto got = RunForward<Element>(p);
  ASSERT_THAT(got, IsOk());
  // Squares are positive, so the sum's relative error is at most a rounding for
  // each addition; the root halves it. rsqrtf is good to 2 ulp, of two
  // roundings each; the rest is a division, an addition and two products.
  const double relative = (RoundingsOfRowSum(p.width) / 2 + 8) * kFloatRounding;
  for (int64_t row = 0; row < p.rows; ++row) {
    EXPECT_ELEMENT_NEAR(got->rstd[row], p.rstd[row], p.rstd[row] * relative,
                        row, -1);
    for (int i = 0; i < p.width; ++i) {
      const double want = p.x[row * p.width + i] * p.rstd[row] * p.gain[i];
      EXPECT_ELEMENT_NEAR(
          static_cast<float>(got->y[row * p.width + i]), want,
          std::abs(want) * (relative + kStorageRounding<Element>), row, i);
    }
  }
}

template <typename Element>
void ExpectInputGradAgrees(const Problem& p) {
  const auto got = RunInputGrad<Element>(p);
  ASSERT_THAT(got, IsOk());
  const double roundings = RoundingsOfRowSum(p.width) + 8;
  for (int64_t row = 0; row < p.rows; ++row) {
    const double rstd = p.rstd[row];
    const int64_t begin = row * p.width;
    double sum = 0;
    double absolute_sum = 0;
    for (int i = 0; i < p.width; ++i) {
      const double term = p.gain[i] * p.dy[begin + i] * p.x[begin + i];
      sum += term;
      absolute_sum += std::abs(term);
    }
    for (int i = 0; i < p.width; ++i) {
      const double scaled = p.gain[i] * p.dy[begin + i];
      const double slope = p.x[begin + i] * rstd * rstd / p.width;
      const double want = rstd * (scaled - slope * sum);
      // The two terms may cancel, so the bound is on what they are made of.
      const double made_of =
          rstd * (std::abs(scaled) + std::abs(slope) * absolute_sum);
      EXPECT_ELEMENT_NEAR(static_cast<float>((*got)[begin + i]), want,
                          made_of * roundings * kFloatRounding +
                              std::abs(want) * kStorageRounding<Element>,
                          row, i);
    }
  }
}

template <typename Element>
void ExpectWeightGradAgrees(const Problem& p) {
  const auto got = RunWeightGrad<Element>(p);
  ASSERT_THAT(got, IsOk());
  // A warp adds an eighth of a partial's rows, then 8 warps, an eighth of the
  // partials and 8 warps again follow; each term has two products.
  const double partials = RmsNormWeightGradPartials(p.rows);
  const double roundings = std::ceil(std::ceil(p.rows / partials) / 8) + 8 +
                           std::ceil(partials / 8) + 8 + 2;
  for (int i = 0; i < p.width; ++i) {
    double want = 0;
    double absolute_sum = 0;
    for (int64_t row = 0; row < p.rows; ++row) {
      const int64_t at = row * p.width + i;
      const double term = p.dy[at] * p.x[at] * p.rstd[row];
      want += term;
      absolute_sum += std::abs(term);
    }
    EXPECT_ELEMENT_NEAR((*got)[i], want,
                        absolute_sum * roundings * kFloatRounding, -1, i);
  }
}

struct Shape {
  int64_t rows;
  int width;
};

class RmsNormTest : public TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(RmsNormTest, FloatAgreesWithPlainLoops) {
  const Problem p = RandomProblem<float>(GetParam().rows, GetParam().width);
  ExpectForwardAgrees<float>(p);
  ExpectInputGradAgrees<float>(p);
  ExpectWeightGradAgrees<float>(p);
}

TEST_P(RmsNormTest, BFloat16AgreesWithPlainLoops) {
  using Element = __nv_bfloat16;
  const Problem p = RandomProblem<Element>(GetParam().rows, GetParam().width);
  ExpectForwardAgrees<Element>(p);
  ExpectInputGradAgrees<Element>(p);
  ExpectWeightGradAgrees<Element>(p);
}

// Widths at, one vector beyond and one element beyond what each tile holds (in
// vectors 32, 64, 128, 256, 512, 1024, 2048; of 4 floats or 8 bfloat16), and
// the narrowest. Rows about the four of a block, the 32 of a partial, and with
// more than the 128 partials.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {{5, 1}, {33, 3}, {5, 4}, {5, 8}};
  for (int vectors = 32; vectors <= 2048; vectors *= 2) {
    for (int elements : {4, 8}) {
      const int width = vectors * elements;
      for (int more : {0, 1, elements}) shapes.push_back({5, width + more});
    }
  }
  for (int64_t rows : {1, 3, 4, 31, 32, 33, 63, 65, 4095, 4096, 4097, 9000}) {
    for (int width : {64, 257}) shapes.push_back({rows, width});
  }
  return shapes;
}

std::string ShapeName(const testing::TestParamInfo<Shape>& info) {
  return absl::StrFormat("%d_rows%d_width%d", info.index, info.param.rows,
                         info.param.width);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormTest, testing::ValuesIn(Shapes()),
                         ShapeName);

class RmsNormOnDeviceTest : public RmsNormTest {};

TEST_P(RmsNormOnDeviceTest, TakesRowsThatAreNotAligned) {
  // One element into their arrays, so that no row starts at 16 bytes.
  const auto [rows, width] = GetParam();
  const Problem p = RandomProblem<float>(rows, width + 1);
  std::vector<float> shifted(p.x.begin(), p.x.end());
  const auto x = DeviceArray<float>::CopyOf(shifted);
  const auto gain = DeviceArray<float>::CopyOf(p.gain);
  const auto y = Poisoned<float>(rows * width + 1);
  const auto rstd = Poisoned<float>(rows);
  ASSERT_TRUE(x.ok() && gain.ok() && y.ok() && rstd.ok());
  RmsNormArgs<float> args;
  args.x = x->data() + 1;
  args.gain = gain->data() + 1;
  args.y = y->data() + 1;
  args.rstd = rstd->data();
  args.rows = rows;
  args.width = width;

  ASSERT_EQ(RmsNorm(args, /*stream=*/nullptr), cudaSuccess);

  const auto got = y->ToHost();
  ASSERT_THAT(got, IsOk());
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int i = 0; i < width; ++i) {
      squares += std::pow(shifted[1 + row * width + i], 2);
    }
    for (int i = 0; i < width; ++i) {
      const double want = shifted[1 + row * width + i] * p.gain[1 + i] /
                          std::sqrt(squares / width);
      EXPECT_ELEMENT_NEAR(
          (*got)[1 + row * width + i], want,
          std::abs(want) * (RoundingsOfRowSum(width) / 2 + 8) * kFloatRounding,
          row, i);
    }
  }
}

TEST_P(RmsNormOnDeviceTest, WeightGradIsTheSameBitForBitEachTime) {
  const Problem p =
      RandomProblem<__nv_bfloat16>(GetParam().rows, GetParam().width);
  const auto first = RunWeightGrad<__nv_bfloat16>(p);
  const auto second = RunWeightGrad<__nv_bfloat16>(p);
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(*first, *second);
}

TEST_P(RmsNormOnDeviceTest, NoRowsHaveNoGradient) {
  const auto dgain = RunWeightGrad<float>({/*rows=*/0, GetParam().width});
  ASSERT_THAT(dgain, IsOk());
  EXPECT_THAT(*dgain, testing::Each(0.f));
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormOnDeviceTest,
                         testing::Values(Shape{3, 64}, Shape{1000, 512}),
                         ShapeName);

TEST(RmsNormArgsTest, ShapesOutOfRangeAreInvalid) {
  RmsNormArgs<float> args;
  EXPECT_EQ(RmsNorm(args, nullptr), cudaErrorInvalidValue);  // width is 0
  args.width = 8;
  EXPECT_EQ(RmsNorm(args, nullptr), cudaSuccess);  // No rows, no launch.
  args.rows = -1;
  EXPECT_EQ(RmsNorm(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(RmsNormInputGrad(RmsNormInputGradArgs<float>(), nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(RmsNormWeightGrad(RmsNormWeightGradArgs<float>(), nullptr),
            cudaErrorInvalidValue);
}

TEST(RmsNormArgsTest, PartialsAreBounded) {
  EXPECT_EQ(RmsNormWeightGradPartials(0), 0);
  EXPECT_EQ(RmsNormWeightGradPartials(32), 1);
  EXPECT_EQ(RmsNormWeightGradPartials(33), 2);
  EXPECT_EQ(RmsNormWeightGradPartials(4096), 128);
  EXPECT_EQ(RmsNormWeightGradPartials(int64_t{1} << 40), 128);
}

}  // namespace
}  // namespace strata::gpu
