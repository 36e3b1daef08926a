#include "core/cpu/rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/rope.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBound = 130;
constexpr int64_t kHeads = 3;

struct Case {
  int64_t head_dim, rotary_dim;
};

// Positions that repeat, as of packed sequences; or far beyond the number of
// tokens, as in decoding, where the kernel makes its table by token.
std::vector<double> Positions(int64_t count, bool far) {
  std::vector<double> position(count);
  for (int64_t i = 0; i < count; ++i) {
    position[i] = far ? 1000 + 7 * i : i % 50;
  }
  return position;
}

absl::StatusOr<RunResult> RunRope(DType dtype, int num_threads, const Case& c,
                                  const std::vector<double>& position) {
  const int64_t columns = kHeads * c.head_dim;
  return RunGraph(
      dtype, num_threads, {RegisterRopeKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
        const ValueId x = b.Input("x", dtype, {t, Static(columns)});
        const ValueId p = b.Input("position", DType::kI32, {t});
        const RopeOptions options = {kHeads, c.rotary_dim, 10000};
        const ValueId y = Rope(b, x, p, options);
        b.Output("y", y);
        b.Output("back", Rope(b, y, p, options, /*inverse=*/true));
      },
      [&](const std::string& name, const TensorView& view) {
        const auto count = static_cast<int64_t>(position.size());
        if (name == "n") Copy({static_cast<double>(count)}, view);
        if (name == "x") Copy(Normal(count * columns, 1), view);
        if (name == "position") Copy(position, view);
      });
}

TEST(RopeTest, RotatesTheLastColumnsOfEachHeadAndBack) {
  for (const Case& c : {Case{2, 2}, Case{32, 32}, Case{40, 34}, Case{96, 64}}) {
    for (const int64_t count : {0, 1, 130}) {
      for (const bool far : {false, true}) {
        SCOPED_TRACE(testing::Message() << c.head_dim << " " << c.rotary_dim
                                        << " " << count << " " << far);
        const std::vector<double> position = Positions(count, far);
        const int64_t columns = kHeads * c.head_dim, half = c.rotary_dim / 2;
        const std::vector<double> x = Normal(count * columns, 1);
        std::vector<double> want = x;
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t head = 0; head < kHeads; ++head) {
            for (int64_t j = 0; j < half; ++j) {
              const int64_t low =
                  i * columns + (head + 1) * c.head_dim - c.rotary_dim + j;
              const double angle =
                  position[i] * std::pow(10000, -2.0 * j / c.rotary_dim);
              want[low] =
                  x[low] * std::cos(angle) - x[low + half] * std::sin(angle);
              want[low + half] =
                  x[low] * std::sin(angle) + x[low + half] * std::cos(angle);
            }
          }
        }
        for (const DType dtype : {DType::kF32, DType::kF64}) {
          const auto result = RunRope(dtype, 2, c, position);
          ASSERT_THAT(result, IsOk());
          // Two products of values up to about 4, with rounded sines.
          const double tolerance = dtype == DType::kF32 ? 2e-6 : 1e-14;
          ASSERT_EQ(result->at("y").size(), want.size());
          for (size_t i = 0; i < want.size(); ++i) {
            EXPECT_NEAR(result->at("y")[i], want[i], tolerance);
            EXPECT_NEAR(result->at("back")[i], x[i], 2 * tolerance);
          }
        }
      }
    }
  }
}

// The pairs (2j, 2j + 1) turn as the halves (j, j + r/2) do.
TEST(RopeTest, TurnsInterleavedPairsLikeHalves) {
  constexpr int64_t kRows = 40, kDim = 10, kRotary = 6;
  const std::vector<double> position = Positions(kRows, /*far=*/true);
  const std::vector<double> x = Normal(kRows * kHeads * kDim, 1);
  // Column of halves to column of pairs, of a head.
  const auto place = [](int64_t column) {
    const int64_t first = kDim - kRotary, half = kRotary / 2;
    const int64_t j = column - first;
    if (j < 0) return column;
    return first + (j < half ? 2 * j : 2 * (j - half) + 1);
  };
  std::vector<double> paired(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t head = static_cast<int64_t>(i) / kDim * kDim;
    paired[head + place(i % kDim)] = x[i];
  }
  const auto run = [&](bool interleaved, const std::vector<double>& values) {
    return RunGraph(
        DType::kF64, 2, {RegisterRopeKernels},
        [&](GraphBuilder& b) {
          const ValueId in =
              b.Input("x", DType::kF64, {Static(kRows), Static(kHeads * kDim)});
          const ValueId p = b.Input("position", DType::kI32, {Static(kRows)});
          RopeOptions options = {kHeads, kRotary, 100, interleaved, 1.5};
          const ValueId y = Rope(b, in, p, options);
          b.Output("y", y);
          b.Output("back", Rope(b, y, p, options, /*inverse=*/true));
        },
        [&](const std::string& name, const TensorView& view) {
          Copy(name == "x" ? values : position, view);
        });
  };
  const auto halves = run(false, x), pairs = run(true, paired);
  ASSERT_THAT(halves, IsOk());
  ASSERT_THAT(pairs, IsOk());
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i) / kDim * kDim + place(i % kDim);
    // Two products of values up to about 6, fused or not with their sum.
    EXPECT_NEAR(pairs->at("y")[at], halves->at("y")[i], 1e-14);
    // The magnitude counts both ways: y = 1.5 R x, back = 1.5 R^T y.
    const double factor = i % kDim < kDim - kRotary ? 1 : 2.25;
    EXPECT_NEAR(pairs->at("back")[at], factor * x[i], 1e-13);
  }
}

TEST(RopeTest, RepeatsBitForBitOnAnyNumberOfThreadsAndAnyBatchMates) {
  const Case c = {64, 64};
  const std::vector<double> position = Positions(130, /*far=*/false);
  const auto one = RunRope(DType::kF32, 1, c, position);
  const auto three = RunRope(DType::kF32, 3, c, position);
  // The first row alone is rotated by a table of its own.
  const auto alone = RunRope(DType::kF32, 1, c, {position[0]});
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(three, IsOk());
  ASSERT_THAT(alone, IsOk());
  EXPECT_EQ(one->at("y"), three->at("y"));
  EXPECT_TRUE(std::equal(alone->at("y").begin(), alone->at("y").end(),
                         one->at("y").begin()));
}

TEST(RopeTest, TurnsEachTokenByTheLengthOfItsSequence) {
  RopeOptions options = {kHeads, 8, 10000};
  options.stretch = RopeStretch::kDynamic;
  options.factor = 2;
  options.original_len = 16;
  constexpr int64_t kRows = 6, kColumns = kHeads * 8;
  const std::vector<double> position = {0, 3, 3, 17, 40, 15};
  const std::vector<double> x = Normal(kRows * kColumns, 1);
  // Of several lengths, and of one, where the table is by position.
  for (const std::vector<double>& seq_len :
       {std::vector<double>{1, 10, 64, 18, 41, 16},
        std::vector<double>(kRows, 64)}) {
    const auto result = RunGraph(
        DType::kF64, 2, {RegisterRopeKernels},
        [&](GraphBuilder& b) {
          const ValueId in =
              b.Input("x", DType::kF64, {Static(kRows), Static(kColumns)});
          const ValueId p = b.Input("position", DType::kI32, {Static(kRows)});
          const ValueId n = b.Input("seq_len", DType::kI32, {Static(kRows)});
          b.Output("y", Rope(b, in, p, options, /*inverse=*/false, n));
        },
        [&](const std::string& name, const TensorView& view) {
          Copy(name == "x" ? x : name == "position" ? position : seq_len, view);
        });
    ASSERT_THAT(result, IsOk());
    for (int64_t i = 0; i < kRows; ++i) {
      double frequency[4];
      RopeFrequencies(options, static_cast<int64_t>(seq_len[i]), frequency);
      for (int64_t at = i * kColumns; at < (i + 1) * kColumns; at += 8) {
        for (int64_t j = 0; j < 4; ++j) {
          const double angle = position[i] * frequency[j];
          const double a = x[at + j], b = x[at + j + 4];
          EXPECT_NEAR(result->at("y")[at + j],
                      a * std::cos(angle) - b * std::sin(angle), 1e-14);
          EXPECT_NEAR(result->at("y")[at + j + 4],
                      a * std::sin(angle) + b * std::cos(angle), 1e-14);
        }
      }
    }
  }
}

TEST(RopeTest, RejectsANegativePosition) {
  EXPECT_THAT(RunRope(DType::kF32, 1, {4, 4}, {0, -3}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("token 1 has position -3; want 0 or more")));
}

TEST(RopeTest, GradientsMatchDifferences) {
  GradCheckOptions options;
  options.fill = [](const std::string& name, const TensorView& view) {
    if (name != "position") return false;
    Copy({0, 5, 2, 9}, view);
    return true;
  };
  EXPECT_THAT(CheckGradients(
                  [](GraphBuilder& b) -> std::vector<ValueId> {
                    const ValueId x =
                        b.Input("x", DType::kF64, {Static(4), Static(12)});
                    const ValueId p =
                        b.Input("position", DType::kI32, {Static(4)});
                    return {Rope(b, x, p, {2, 4, 100})};
                  },
                  {RegisterRopeKernels, RegisterElementwiseKernels}, options),
              IsOk());
}

}  // namespace
}  // namespace strata
