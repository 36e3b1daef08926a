#include "core/cpu/quant_matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/ops/mixed_matmul.h"
#include "core/ops/quant_matmul.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

using RegisterKernels = void (*)(KernelRegistry&);
constexpr RegisterKernels kBoth[] = {RegisterQuantMatMulKernels,
                                     RegisterBatchInvariantQuantKernels};

std::vector<float> NormalFloats(int64_t n, uint32_t seed) {
  const std::vector<double> wide = Normal(n, seed);
  return {wide.begin(), wide.end()};
}

struct Weights {
  std::vector<uint8_t> packed;  // [rows, bytes]
  std::vector<float> numbers;   // [rows, k]
};

Weights RandomWeights(const QuantFormat& format, int64_t rows, int64_t k) {
  const std::vector<float> w = NormalFloats(rows * k, /*seed=*/1);
  const QuantizedMatrix m = RoundToNearest(w.data(), rows, k, format);
  const int64_t bytes = PackedRow(format, k).bytes, groups = m.num_groups();
  Weights result = {std::vector<uint8_t>(rows * bytes), m.Dequantize()};
  for (int64_t j = 0; j < rows; ++j) {
    PackRow(format, k, &m.code[j * k], &m.scale[j * groups],
            &m.zero[j * groups], &result.packed[j * bytes]);
  }
  return result;
}

// Row `x` [k] by row `w`: y must be within what rounding x to 8 bits costs (a
// block's largest / 254 for each number) and a thousandth of that for roundings
// in float, of which there are fewer than 2^10 * 2^-24 of the same sum.
void ExpectProduct(float y, const float* x, const float* w, int64_t k) {
  double want = 0, bound = 0;
  for (int64_t first = 0; first < k; first += 32) {
    double largest = 0, weights = 0;
    for (int64_t c = first; c < std::min(k, first + 32); ++c) {
      want += double{x[c]} * w[c];
      largest = std::max<double>(largest, std::abs(x[c]));
      weights += std::abs(w[c]);
    }
    bound += largest / 254 * weights;
  }
  ASSERT_NEAR(y, want, 1.001 * bound);
}

// Both sides of where panels or widening begin to pay, and of rows that share a
// pass.
constexpr int64_t kRows[] = {0, 1, 4, 5, 8, 9, 16, 17, 65};

TEST(QuantMatMulTest, MultipliesByTheWeightsThatThePackedRowsStandFor) {
  for (const RegisterKernels kernels : kBoth) {
    for (const QuantFormat format :
         {QuantFormat{4, 32, true}, QuantFormat{4, 0, false},
          QuantFormat{8, 64, true}, QuantFormat{2, 32, true},
          QuantFormat{2, 64, false}}) {
      for (const int64_t m : kRows) {
        const int64_t k = 192, n = 131;
        SCOPED_TRACE(testing::Message() << ToText(format) << " " << m);
        const Weights w = RandomWeights(format, n, k);
        const std::vector<float> x = NormalFloats(m * k, /*seed=*/2);
        GraphRun run(
            [&](GraphBuilder& b) {
              const ValueId in =
                  b.Input("x", DType::kF32, {Static(m), Static(k)});
              const ValueId weights =
                  b.State("w", DType::kU8,
                          {Static(n), Static(PackedRow(format, k).bytes)});
              b.Output("y", QuantMatMul(b, in, weights, format));
            },
            {kernels});
        run.Set("x", x);
        run.Set("w", w.packed);
        ASSERT_THAT(run.Run(), IsOk());
        const std::vector<float> y = run.Get<float>("y");
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            ExpectProduct(y[i * n + j], &x[i * k], &w.numbers[j * k], k);
          }
        }
      }
    }
  }
}

// Experts with no row, one, few and many.
TEST(QuantMatMulTest, MultipliesEachExpertsRows) {
  for (const RegisterKernels kernels : kBoth) {
    for (const QuantFormat format :
         {QuantFormat{4, 32, true}, QuantFormat{8, 0, true},
          QuantFormat{2, 32, false}}) {
      const std::vector<int32_t> offset = {0, 0, 1, 6, 6, 23, 27};
      const int64_t experts = 6, rows = 27, k = 96, n = 40;
      const Weights w = RandomWeights(format, experts * n, k);
      const std::vector<float> x = NormalFloats(rows * k, /*seed=*/3);
      GraphRun run(
          [&](GraphBuilder& b) {
            const ValueId in =
                b.Input("x", DType::kF32, {Static(rows), Static(k)});
            const ValueId weights =
                b.State("w", DType::kU8,
                        {Static(experts), Static(n),
                         Static(PackedRow(format, k).bytes)});
            const ValueId at =
                b.Input("offset", DType::kI32, {Static(experts + 1)});
            b.Output("y", QuantGroupedMatMul(b, in, weights, at, format));
          },
          {kernels});
      run.Set("x", x);
      run.Set("w", w.packed);
      run.Set("offset", offset);
      ASSERT_THAT(run.Run(), IsOk());
      const std::vector<float> y = run.Get<float>("y");
      for (int64_t e = 0; e < experts; ++e) {
        for (int64_t i = offset[e]; i < offset[e + 1]; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            ExpectProduct(y[i * n + j], &x[i * k], &w.numbers[(e * n + j) * k],
                          k);
          }
        }
      }
      run.Set("offset", std::vector<int32_t>{0, 0, 1, 6, 6, 23, 28});
      EXPECT_THAT(run.Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("23 to 28 of 27")));
    }
  }
}

// Experts of six formats, three of them busy with few rows and two with many,
// give what each gives by the operator of one format, bit for bit.
TEST(QuantMatMulTest, MultipliesExpertsOfSeveralFormatsLikeOneAtATime) {
  const std::vector<int32_t> offset = {0, 3, 23, 23, 25, 45, 49};
  const ExpertFormats formats = {{4, 32, true}, {8, 64, true},  {8, 32, true},
                                 {8, 0, false}, {2, 32, false}, {2, 64, true}};
  const int64_t experts = 6, rows = 49, k = 128, n = 40;
  for (const RegisterKernels kernels : kBoth) {
    const std::vector<float> x = NormalFloats(rows * k, /*seed=*/5);
    const auto run_with = [&](const OpDef& op, const Attrs& attrs,
                              const Dims& dims,
                              const std::vector<uint8_t>& packed) {
      GraphRun run(
          [&](GraphBuilder& b) {
            const ValueId in =
                b.Input("x", DType::kF32, {Static(rows), Static(k)});
            const ValueId w = b.State("w", DType::kU8, dims);
            const ValueId at =
                b.Input("offset", DType::kI32, {Static(experts + 1)});
            b.Output("y", b.Add1(op, {in, w, at}, attrs));
          },
          {kernels});
      run.Set("x", x);
      run.Set("w", packed);
      run.Set("offset", offset);
      EXPECT_THAT(run.Run(), IsOk());
      return run.Get<float>("y");
    };
    std::vector<uint8_t> mixed(LetterBytes(experts));
    const std::string letters = LettersOf(formats);
    std::copy(letters.begin(), letters.end(), mixed.begin());
    std::vector<float> want(rows * n);
    for (int64_t e = 0; e < experts; ++e) {
      const Weights w = RandomWeights(formats[e], experts * n, k);
      const int64_t bytes = n * PackedRow(formats[e], k).bytes;
      mixed.insert(mixed.end(), w.packed.begin() + e * bytes,
                   w.packed.begin() + (e + 1) * bytes);
      const std::vector<float> alone =
          run_with(kQuantGroupedMatMul, QuantAttrs(formats[e]),
                   {Static(experts), Static(n), Static(bytes / n)}, w.packed);
      std::copy(alone.begin() + offset[e] * n,
                alone.begin() + offset[e + 1] * n,
                want.begin() + offset[e] * n);
    }
    const auto size = static_cast<int64_t>(mixed.size());
    EXPECT_EQ(MixedOffsets(formats, n, k).back(), size);
    EXPECT_EQ(run_with(kMixedGroupedMatMul, MixedAttrs(formats, n),
                       {Static(size)}, mixed),
              want);
  }
}

// Rows of 8 bits as well: panels begin to pay for other numbers of them.
void HoldRowsToThemselvesAlone(const QuantFormat& format) {
  const int64_t k = 128, n = 96, m = 67;
  const Weights w = RandomWeights(format, n, k);
  const std::vector<float> x = NormalFloats(m * k, /*seed=*/4);
  const auto multiply = [&](int64_t first, int64_t rows) {
    GraphRun run(
        [&](GraphBuilder& b) {
          const ValueId in =
              b.Input("x", DType::kF32, {Static(rows), Static(k)});
          const ValueId weights = b.State(
              "w", DType::kU8, {Static(n), Static(PackedRow(format, k).bytes)});
          b.Output("y", QuantMatMul(b, in, weights, format));
        },
        {RegisterBatchInvariantQuantKernels});
    run.Set("x", std::vector<float>(x.begin() + first * k,
                                    x.begin() + (first + rows) * k));
    run.Set("w", w.packed);
    EXPECT_THAT(run.Run(), IsOk());
    return run.Get<float>("y");
  };
  const std::vector<float> all = multiply(0, m);
  const auto rows_of_all = [&](int64_t first, int64_t rows) {
    return std::vector<float>(all.begin() + first * n,
                              all.begin() + (first + rows) * n);
  };
  for (const int64_t i : {0, 1, 15, 16, 63, 64, 66}) {
    EXPECT_EQ(multiply(i, 1), rows_of_all(i, 1));
  }
  // Both sides of where panels begin to pay.
  for (const int64_t rows : {4, 5, 8, 9}) {
    EXPECT_EQ(multiply(7, rows), rows_of_all(7, rows));
  }
}

TEST(QuantMatMulTest, BatchInvariantRowsAreTheSameAlone) {
  HoldRowsToThemselvesAlone({4, 32, true});
  HoldRowsToThemselvesAlone({8, 64, false});
}

TEST(QuantMatMulTest, RefusesRowsOfAnotherLength) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(2), Static(64)});
  const ValueId w = b.State("w", DType::kU8, {Static(3), Static(40)});
  QuantMatMul(b, x, w, {4, 32, true});
  EXPECT_THAT(b.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("want rows of 36 bytes")));
}

}  // namespace
}  // namespace strata
