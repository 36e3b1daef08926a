#include "core/ops/quant_matmul.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// Rows of x, which the CPU rounds to 8 or 16 bits, a scale a 32 columns: what
// each is exact in.
enum class X { k8Bits, k16Bits };  // The latter not in BF16.

// Multiples of 1/64 that include the largest in each 32 columns. It is so far
// beyond the others of 16 bits that 8 would not do.
void FillSteps(const TensorView& view, X x) {
  const int largest = x == X::k8Bits ? 127 : 127 * 256;  // Codes.
  const int range = x == X::k8Bits ? 127 : 2047;
  const int64_t k = view.dim(1);
  const std::vector<int32_t> steps =
      RandomInts(view.num_elements(), -range, range, /*seed=*/3);
  float* const to = view.as<float>();
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    const bool first = i % k % 32 == 0;
    to[i] = (first ? (steps[i] < 0 ? -largest : largest) : steps[i]) / 64.f;
  }
}

// `columns` of x, or as many as whole groups have.
int64_t ColumnsFor(const QuantFormat& format, int64_t columns) {
  if (format.group == 0) return columns;
  return (columns + format.group - 1) / format.group * format.group;
}

struct Product {
  int64_t m, n, k;
};

FillFn Inputs(const QuantFormat& format, int64_t k, int64_t rows, X x,
              const std::vector<int32_t>& offset = {}) {
  return WithRows(rows, [=](const std::string& name, const TensorView& view) {
    if (name == "w") {
      FillPacked(view, format, k);
    } else if (name == "x") {
      FillSteps(view, x);
    } else if (name == "offset") {
      return FillInts(view, offset);
    } else {
      return false;
    }
    return true;
  });
}

absl::Status CompareDense(const QuantFormat& format, const Product& p, X x,
                          double roundings, Precision precision) {
  const int64_t k = ColumnsFor(format, p.k);
  return CompareBackends(
      [&](GraphBuilder& b) {
        const ValueId w = b.Input(
            "w", DType::kU8, {Static(p.n), Static(PackedRow(format, k).bytes)});
        b.Output("y", QuantMatMul(b, FloatInput(b, "x", RaggedRows(b, p.m), k),
                                  w, format));
        return std::vector<ValueId>{};
      },
      {roundings, Inputs(format, k, p.m, x), /*seed=*/1, precision});
}

absl::Status CompareGrouped(const QuantFormat& format, int64_t n, int64_t k,
                            const std::vector<int32_t>& rows, X x,
                            double roundings, Precision precision) {
  k = ColumnsFor(format, k);
  const auto experts = static_cast<int64_t>(rows.size());
  std::vector<int32_t> offset(1, 0);
  for (const int32_t r : rows) offset.push_back(offset.back() + r);
  return CompareBackends(
      [&](GraphBuilder& b) {
        const ValueId w = b.Input(
            "w", DType::kU8,
            {Static(experts), Static(n), Static(PackedRow(format, k).bytes)});
        b.Output(
            "y",
            QuantGroupedMatMul(
                b, FloatInput(b, "x", RaggedRows(b, offset.back()), k), w,
                b.Input("offset", DType::kI32, {Static(experts + 1)}), format));
        return std::vector<ValueId>{};
      },
      {roundings, Inputs(format, k, offset.back(), x, offset), /*seed=*/1,
       precision});
}

using QuantMatMulTest = DeviceTest<QuantFormat>;

std::string FormatName(const testing::TestParamInfo<QuantFormat>& info) {
  return absl::StrCat("Int", info.param.bits, "_groups", info.param.group,
                      info.param.symmetric ? "" : "_zeros");
}

// On both sides of 8 and 16 rows, and of tiles of 64 and 128; of 64, 128 and
// 256 columns of y; of pieces, chunks and segments of columns of x, with blocks
// that share them.
constexpr Product kDense[] = {
    {0, 5, 64},      {1, 1, 1},      {1, 130, 37},    {3, 129, 96},
    {8, 64, 2080},   {9, 257, 160},  {16, 255, 1100}, {12, 300, 5000},
    {17, 63, 64},    {33, 130, 192}, {64, 65, 300},   {65, 128, 513},
    {128, 129, 128}, {129, 256, 96}, {200, 520, 640}, {2, 1000, 4096},
    {70, 300, 1500}, {511, 72, 104}, {600, 130, 448},
};

TEST_P(QuantMatMulTest, AgreesWithTheCpu) {
  for (const Product& p : kDense) {
    SCOPED_TRACE(absl::StrCat(p.m, " x ", p.n, " x ", p.k));
    EXPECT_THAT(
        CompareDense(GetParam(), p, X::k8Bits, 8. + p.k, Precision::kF32),
        IsOk());
  }
}

// Rows that BF16 would round.
TEST_P(QuantMatMulTest, TakesF32RowsAsTheyAre) {
  for (const Product& p : kDense) {
    if (p.m <= 16) continue;
    SCOPED_TRACE(absl::StrCat(p.m, " x ", p.n, " x ", p.k));
    EXPECT_THAT(
        CompareDense(GetParam(), p, X::k16Bits, 8. + p.k, Precision::kF32),
        IsOk());
  }
}

// Weights are rounded where there are many rows, rows of x are not.
TEST_P(QuantMatMulTest, RoundedOperandsStayWithinTheirRounding) {
  for (const Product& p : kDense) {
    SCOPED_TRACE(absl::StrCat(p.m, " x ", p.n, " x ", p.k));
    EXPECT_THAT(CompareDense(GetParam(), p, X::k8Bits, /*roundings=*/4,
                             Precision::kBf16),
                IsOk());
  }
}

struct Grouped {
  int64_t n, k;
  std::vector<int32_t> rows;  // Of each expert.
};

// No rows; a row an expert at most; experts of some tiles, also for averages
// beyond 4 (the tensor cores' kernel), 8 and 64 rows an expert.
std::vector<Grouped> GroupedShapes() {
  return {{40, 64, {0, 0, 0}},
          {130, 96, {1, 0, 2, 1}},
          {128, 1100, std::vector<int32_t>(33, 1)},
          {64, 200, {8, 0, 9, 7}},
          {257, 128, {17, 0, 64, 65}},
          {130, 320, {128, 129, 64, 200}},
          {65, 32, {0, 300}},
          {100, 2100, {1, 1, 3, 0, 0, 0, 2, 0}}};
}

TEST_P(QuantMatMulTest, ExpertsAgreeWithTheCpu) {
  for (const Grouped& p : GroupedShapes()) {
    SCOPED_TRACE(absl::StrCat(p.rows.size(), " experts, ", p.n, " x ", p.k));
    EXPECT_THAT(CompareGrouped(GetParam(), p.n, p.k, p.rows, X::k8Bits,
                               8. + p.k, Precision::kF32),
                IsOk());
    EXPECT_THAT(CompareGrouped(GetParam(), p.n, p.k, p.rows, X::k8Bits,
                               /*roundings=*/4, Precision::kBf16),
                IsOk());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantMatMulTest,
    testing::Values(QuantFormat{4, 32, true}, QuantFormat{4, 64, true},
                    QuantFormat{4, 128, true}, QuantFormat{4, 0, true},
                    QuantFormat{4, 32, false}, QuantFormat{4, 64, false},
                    QuantFormat{4, 128, false}, QuantFormat{4, 0, false},
                    QuantFormat{8, 32, true}, QuantFormat{8, 64, true},
                    QuantFormat{8, 128, true}, QuantFormat{8, 0, true},
                    QuantFormat{8, 32, false}, QuantFormat{8, 64, false},
                    QuantFormat{8, 128, false}, QuantFormat{8, 0, false}),
    FormatName);

TEST(QuantMatMulErrorTest, WantsFourOrEightBits) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    EXPECT_THAT(
        CompareDense({2, 32, true}, {3, 8, 64}, X::k8Bits, 16, precision),
        StatusIs(absl::StatusCode::kUnimplemented,
                 testing::AllOf(testing::HasSubstr("QuantMatMul"),
                                testing::HasSubstr("want rows of 4 or 8"))));
  }
}

TEST(QuantMatMulErrorTest, OffsetsThatFallAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const QuantFormat format;
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    EXPECT_THAT(CompareBackends(
                    [&](GraphBuilder& b) {
                      b.Output("y",
                               QuantGroupedMatMul(
                                   b, FloatInput(b, "x", Static(90), 64),
                                   b.Input("w", DType::kU8,
                                           {Static(3), Static(8), Static(36)}),
                                   b.Input("offset", DType::kI32, {Static(4)}),
                                   format));
                      return std::vector<ValueId>{};
                    },
                    {/*roundings=*/16,
                     Inputs(format, 64, 90, X::k8Bits, {0, 50, 30, 90}),
                     /*seed=*/1, precision}),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  }
}

}  // namespace
}  // namespace strata::gpu
