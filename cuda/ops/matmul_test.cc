#include "core/ops/matmul.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/grouped_matmul.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Product {
  int64_t m, n, k;
};
std::string ProductName(const testing::TestParamInfo<Product>& info) {
  return absl::StrCat(info.index, "_", info.param.m, "x", info.param.n, "x",
                      info.param.k);
}

// Sums of k, n and (for a weight's gradient) m terms.
double Roundings(const Product& p) { return 8. + p.k + p.n + p.m; }

using MatMulTest = DeviceTest<Product>;

TEST_P(MatMulTest, LayersAgreeWithTheCpu) {
  const auto [m, n, k] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [m = m, n = n, k = k](GraphBuilder& b) {
                    const ValueId x = FloatInput(b, "x", RaggedRows(b, m), k);
                    return std::vector<ValueId>{
                        Linear(b, x, b.Parameter("w", {Static(n), Static(k)})),
                        MatMul(b, x, b.Parameter("v", {Static(k), Static(n)}))};
                  },
                  {Roundings(GetParam()), WithRows(m)}),
              IsOk());
}

TEST_P(MatMulTest, BFloat16LayersAgreeWithTheCpu) {
  const auto [m, n, k] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [m = m, n = n, k = k](GraphBuilder& b) {
            const ValueId w =
                b.Input("w", DType::kBF16, {Static(n), Static(k)});
            b.Output("y",
                     Linear(b, FloatInput(b, "x", RaggedRows(b, m), k), w));
            return std::vector<ValueId>{};
          },
          {Roundings(GetParam()),
           WithRows(m,
                    [](const std::string& name, const TensorView& view) {
                      if (name != "w") return false;
                      auto* const to = static_cast<BFloat16*>(view.data);
                      for (int64_t i = 0; i < view.num_elements(); ++i) {
                        to[i] = RoundToBFloat16(0.01f * ((i * 37) % 201 - 100));
                      }
                      return true;
                    })}),
      IsOk());
}

TEST_P(MatMulTest, RoundedOperandsStayWithinTheirRounding) {
  const auto [m, n, k] = GetParam();
  for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
    EXPECT_THAT(CompareBackends(
                    [m = m, n = n, k = k](GraphBuilder& b) {
                      return std::vector<ValueId>{
                          Linear(b, FloatInput(b, "x", Static(m), k),
                                 b.Parameter("w", {Static(n), Static(k)}))};
                    },
                    // Two operands are rounded in each of the terms.
                    {/*roundings=*/8, /*fill=*/nullptr, /*seed=*/2, precision}),
                IsOk());
  }
}

// On both sides of few rows (8, and the powers below), of a vector, of cuBLAS'
// alignments; of 64 columns and 128 to sum over, which are one launch of tiles.
INSTANTIATE_TEST_SUITE_P(
    Shapes, MatMulTest,
    testing::Values(Product{1, 1, 1}, Product{1, 33, 64}, Product{2, 64, 36},
                    Product{3, 7, 128}, Product{8, 130, 257},
                    Product{9, 130, 256}, Product{64, 63, 65},
                    Product{130, 257, 96}, Product{257, 64, 512},
                    Product{33, 40, 48}, Product{129, 64, 128},
                    Product{70, 64, 129}, Product{65, 65, 20}),
    ProductName);

// --- One product an expert ---

struct Grouped {
  int64_t n, k;
  std::vector<int32_t> rows;  // Of each expert.
};
std::string GroupedName(const testing::TestParamInfo<Grouped>& info) {
  return absl::StrCat(info.index, "_", info.param.rows.size(), "_experts_",
                      info.param.n, "x", info.param.k);
}

using GroupedMatMulTest = DeviceTest<Grouped>;

FillFn OffsetsOf(const std::vector<int32_t>& rows) {
  std::vector<int32_t> offset = {0};
  for (const int32_t r : rows) offset.push_back(offset.back() + r);
  return WithRows(offset.back(),
                  [offset](const std::string& name, const TensorView& view) {
                    if (name == "w16") {
                      auto* const to = static_cast<BFloat16*>(view.data);
                      for (int64_t i = 0; i < view.num_elements(); ++i) {
                        to[i] = RoundToBFloat16(0.01f * ((i * 37) % 201 - 100));
                      }
                      return true;
                    }
                    return name == "offset" && FillInts(view, offset);
                  });
}

int64_t NumRows(const Grouped& p) {
  return std::accumulate(p.rows.begin(), p.rows.end(), int64_t{0});
}

// By weights in F32, and by others in BF16.
std::vector<ValueId> Products(GraphBuilder& b, const Grouped& p) {
  const auto experts = static_cast<int64_t>(p.rows.size());
  const Dims w = {Static(experts), Static(p.n), Static(p.k)};
  const ValueId x = FloatInput(b, "x", RaggedRows(b, NumRows(p)), p.k);
  const ValueId offset = b.Input("offset", DType::kI32, {Static(experts + 1)});
  b.Output("narrow",
           GroupedMatMul(b, x, b.Input("w16", DType::kBF16, w), offset));
  return {GroupedMatMul(b, x, b.Parameter("w", w), offset)};
}

TEST_P(GroupedMatMulTest, AgreesWithTheCpu) {
  const Grouped& p = GetParam();
  const int32_t most = *std::max_element(p.rows.begin(), p.rows.end());
  EXPECT_THAT(CompareBackends([&](GraphBuilder& b) { return Products(b, p); },
                              {8. + p.k + p.n + most, OffsetsOf(p.rows)}),
              IsOk());
}

// Where the tensor cores are, sums are in their order over rounded operands:
// both of each term are rounded, and so is nothing else.
TEST_P(GroupedMatMulTest, RoundedOperandsStayWithinTheirRounding) {
  const Grouped& p = GetParam();
  EXPECT_THAT(CompareBackends([&](GraphBuilder& b) { return Products(b, p); },
                              {/*roundings=*/4, OffsetsOf(p.rows), /*seed=*/3,
                               Precision::kBf16}),
              IsOk());
}

// No rows, few rows (dots), tiles of 64 that are full, short and one beyond; an
// expert with all rows and more experts than a warp; then the tiles of the
// tensor cores: 64 and 128 rows, 256 columns, 64 to sum over, odd and even.
INSTANTIATE_TEST_SUITE_P(
    Shapes, GroupedMatMulTest,
    testing::Values(Grouped{8, 8, {0, 0, 0}}, Grouped{33, 40, {1, 0, 2, 1}},
                    Grouped{64, 64, {64, 0, 65, 63}},
                    Grouped{65, 17, {0, 129, 1}}, Grouped{128, 96, {300}},
                    Grouped{30, 34, std::vector<int32_t>(70, 3)},
                    Grouped{16, 16, std::vector<int32_t>(33, 1)},
                    Grouped{256, 64, {128, 64, 256}},
                    Grouped{520, 136, {129, 127, 0, 257}},
                    Grouped{264, 328, {383, 1, 0, 64, 200}}),
    GroupedName);

TEST(GroupedMatMulErrorTest, OffsetsThatFallAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    EXPECT_THAT(
        CompareBackends(
            [](GraphBuilder& b) {
              b.Output("y",
                       GroupedMatMul(
                           b, FloatInput(b, "x", Static(90), 8),
                           b.Parameter("w", {Static(3), Static(8), Static(8)}),
                           b.Input("offset", DType::kI32, {Static(4)})));
              return std::vector<ValueId>{};
            },
            {/*roundings=*/16,
             [](const std::string& name, const TensorView& view) {
               return name == "offset" && FillInts(view, {0, 50, 30, 90});
             },
             /*seed=*/1, precision}),
        StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  }
}

}  // namespace
}  // namespace strata::gpu
