#include "cuda/kernels/weight_grad_parts.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/device_array.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_bf16.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Case {
  int64_t n, k;
  int64_t bound;
  std::vector<int32_t> rows;
  float keep = 0;
};

class WeightGradPartsTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
    if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  }
};

// Numbers for the rows that count, NaN behind them.
std::vector<BFloat16> Rows(int64_t rows, int64_t bound, int64_t columns,
                           int seed) {
  std::vector<BFloat16> numbers(bound * columns, BFloat16{0x7fc0});
  const std::vector<int32_t> whole =
      RandomInts(rows * columns, -256, 256, seed);
  for (size_t i = 0; i < whole.size(); ++i) {
    numbers[i] = RoundToBFloat16(whole[i] / 128.f);
  }
  return numbers;
}

const __nv_bfloat16* Data(const DeviceArray<BFloat16>& array) {
  return reinterpret_cast<const __nv_bfloat16*>(array.data());
}

// dw by parts, before which it is `before`.
std::vector<float> Differentiate(const Case& p,
                                 const std::vector<int32_t>& offset,
                                 const std::vector<BFloat16>& dy,
                                 const std::vector<BFloat16>& x,
                                 const std::vector<float>& before) {
  const auto device_dy = DeviceArray<BFloat16>::CopyOf(dy);
  const auto device_x = DeviceArray<BFloat16>::CopyOf(x);
  const auto device_offset = DeviceArray<int32_t>::CopyOf(offset);
  const auto count =
      DeviceArray<int32_t>::CopyOf(std::vector<int32_t>{offset.back()});
  const auto dw = DeviceArray<float>::CopyOf(before);
  const auto keep = DeviceArray<float>::CopyOf(std::vector<float>{p.keep});
  GroupedWeightGradArgs args;
  args.rows = {p.bound, count->data()};
  args.num_experts = static_cast<int>(p.rows.size());
  args.n = p.n;
  args.k = p.k;
  args.dy = Data(*device_dy);
  args.x = Data(*device_x);
  args.offset = device_offset->data();
  args.dw = dw->data();
  args.keep = keep->data();
  const WeightGradParts parts = PartsOf(args);
  EXPECT_GT(parts.count, args.num_experts);
  const auto room =
      DeviceArray<char>::CopyOf(std::vector<char>(parts.room, '\x7f'));
  EXPECT_THAT(room, IsOk());
  EXPECT_EQ(GroupedWeightGradByParts(args, parts, room->data(),
                                     /*stream=*/nullptr),
            cudaSuccess);
  const auto got = dw->ToHost();
  EXPECT_THAT(got, IsOk());
  return got.ok() ? *got : std::vector<float>(before.size());
}

std::vector<int32_t> OffsetsOf(const std::vector<int32_t>& rows) {
  std::vector<int32_t> offset = {0};
  for (const int32_t r : rows) offset.push_back(offset.back() + r);
  return offset;
}

TEST_P(WeightGradPartsTest, AgreesWithALoopInDouble) {
  const Case& p = GetParam();
  const std::vector<int32_t> offset = OffsetsOf(p.rows);
  const std::vector<BFloat16> dy = Rows(offset.back(), p.bound, p.n, 1);
  const std::vector<BFloat16> x = Rows(offset.back(), p.bound, p.k, 2);
  const std::vector<float> before(p.rows.size() * p.n * p.k,
                                  p.keep == 0 ? NAN : 3.f);

  const std::vector<float> got = Differentiate(p, offset, dy, x, before);

  for (size_t e = 0; e < p.rows.size(); ++e) {
    for (int64_t i = 0; i < p.n; ++i) {
      for (int64_t j = 0; j < p.k; ++j) {
        const int64_t at = (static_cast<int64_t>(e) * p.n + i) * p.k + j;
        double want = p.keep == 0 ? 0 : p.keep * 3.;
        for (int64_t r = offset[e]; r < offset[e + 1]; ++r) {
          want += double{Widen(dy[r * p.n + i])} * Widen(x[r * p.k + j]);
        }
        // Terms are at most 4.
        const double terms = p.rows[e] + 1;
        ASSERT_NEAR(got[at], want, 4 * terms * terms * 0x1p-24) << at;
      }
    }
  }
}

// What an expert gets does not depend on the rows of others, bit for bit.
TEST_P(WeightGradPartsTest, AnExpertDependsOnItsOwnRows) {
  const Case& p = GetParam();
  const std::vector<int32_t> offset = OffsetsOf(p.rows);
  const std::vector<float> before(p.rows.size() * p.n * p.k, 1.f);
  const std::vector<BFloat16> dy = Rows(offset.back(), p.bound, p.n, 1);
  const std::vector<BFloat16> x = Rows(offset.back(), p.bound, p.k, 2);
  const std::vector<float> want = Differentiate(p, offset, dy, x, before);

  for (size_t e = 0; e < p.rows.size(); ++e) {
    // Its rows alone, from the first on.
    Case alone = p;
    alone.rows.assign(p.rows.size(), 0);
    alone.rows[e] = p.rows[e];
    const auto part = [&](const std::vector<BFloat16>& all, int64_t columns) {
      std::vector<BFloat16> of(p.bound * columns, BFloat16{0x7fc0});
      std::copy(all.begin() + offset[e] * columns,
                all.begin() + offset[e + 1] * columns, of.begin());
      return of;
    };
    const std::vector<float> got = Differentiate(
        alone, OffsetsOf(alone.rows), part(dy, p.n), part(x, p.k), before);
    const int64_t size = p.n * p.k, first = static_cast<int64_t>(e) * size;
    for (int64_t i = first; i < first + size; ++i) {
      ASSERT_EQ(got[i], want[i]) << "expert " << e << ", element " << i;
    }
  }
}

// Parts are of 512 rows, or of 768 where the bound is 100,000: none, one, one
// row more than one, several; all rows and none at the bound.
INSTANTIATE_TEST_SUITE_P(
    Shapes, WeightGradPartsTest,
    testing::Values(Case{8, 8, 1000, {1, 0}}, Case{40, 24, 5000, {512, 513}},
                    Case{136, 264, 2000, {0, 1025, 65}},
                    Case{160, 32, 1537, {1537}, 0.5f},
                    Case{8, 16, 600, {0, 0, 0}, 1},
                    Case{16, 8, 9000, std::vector<int32_t>(40, 200)},
                    Case{136, 40, 100'000, {769, 3000}, 1}));

TEST(WeightGradPartsShapesTest, ManyTilesAndFewRowsHaveNoParts) {
  GroupedWeightGradArgs args;
  args.num_experts = 8;
  args.rows.bound = 1 << 20;
  args.n = args.k = 4096;
  EXPECT_EQ(PartsOf(args).count, 0);

  args.n = args.k = 128;
  args.rows.bound = 512;
  EXPECT_EQ(PartsOf(args).count, 0);

  // 2 * 132 tiles, and a short one for each expert.
  args.rows.bound = 1 << 20;
  const WeightGradParts parts = PartsOf(args);
  EXPECT_EQ(parts.rows, 4032);  // ceil(2^20 / 264 / 64) * 64
  EXPECT_EQ(parts.count, 8 + 261);
}

}  // namespace
}  // namespace strata::gpu
