#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/kernels/causal_attention.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_bf16.h"
#include "gtest/gtest.h"

// Results in BF16, for which the CPU has no kernels; those in F32 are held to
// the CPU's in cuda/ops.

namespace strata::gpu {
namespace {

std::vector<BFloat16> Numbers(int64_t n, int seed) {
  std::vector<BFloat16> numbers;
  for (const int32_t x : RandomInts(n, -256, 256, seed)) {
    numbers.push_back(RoundToBFloat16(x / 128.f));
  }
  return numbers;
}

const __nv_bfloat16* Data(const DeviceArray<BFloat16>& array) {
  return reinterpret_cast<const __nv_bfloat16*>(array.data());
}

// A result that is exact but for the rounding to BF16, and some of its F32 sum.
void ExpectRounded(BFloat16 got, double want, double sum_error) {
  EXPECT_NEAR(Widen(got), want, std::abs(want) * 0x1p-8 + sum_error);
}

struct Grouped {
  bool transposed;
  int64_t n, k;
  std::vector<int32_t> rows;
};
std::string GroupedName(const testing::TestParamInfo<Grouped>& info) {
  return absl::StrCat(info.index,
                      info.param.transposed ? "_rows_" : "_columns_",
                      info.param.n, "x", info.param.k);
}
using GroupedBf16Test = DeviceTest<Grouped>;

absl::StatusOr<std::vector<BFloat16>> Multiply(
    const Grouped& p, const std::vector<int32_t>& offset,
    const std::vector<BFloat16>& x, const std::vector<BFloat16>& w) {
  ASSIGN_OR_RETURN(const auto device_x, DeviceArray<BFloat16>::CopyOf(x));
  ASSIGN_OR_RETURN(const auto device_w, DeviceArray<BFloat16>::CopyOf(w));
  ASSIGN_OR_RETURN(const auto device_offset,
                   DeviceArray<int32_t>::CopyOf(offset));
  ASSIGN_OR_RETURN(const auto y,
                   DeviceArray<BFloat16>::Allocate(offset.back() * p.n));
  GroupedProductArgs args;
  args.rows = {offset.back(), nullptr};
  args.num_experts = static_cast<int>(p.rows.size());
  args.n = p.n;
  args.k = p.k;
  args.x = Data(device_x);
  args.w = Data(device_w);
  args.transposed = p.transposed;
  args.offset = device_offset.data();
  args.y = y.data();
  args.bf16_y = true;
  RETURN_IF_ERROR(ToStatus(GroupedProduct(args, /*stream=*/nullptr)));
  return y.ToHost();
}

TEST_P(GroupedBf16Test, AgreesWithALoopInDouble) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  const Grouped& p = GetParam();
  std::vector<int32_t> offset = {0};
  for (const int32_t r : p.rows) offset.push_back(offset.back() + r);
  const std::vector<BFloat16> x = Numbers(offset.back() * p.k, 1);
  const std::vector<BFloat16> w = Numbers(p.rows.size() * p.n * p.k, 2);

  const auto y = Multiply(p, offset, x, w);

  ASSERT_THAT(y, IsOk());
  for (size_t e = 0; e < p.rows.size(); ++e) {
    for (int64_t i = offset[e]; i < offset[e + 1]; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double want = 0;
        for (int64_t c = 0; c < p.k; ++c) {
          const int64_t at = p.transposed ? j * p.k + c : c * p.n + j;
          want += double{Widen(x[i * p.k + c])} *
                  Widen(w[static_cast<int64_t>(e) * p.n * p.k + at]);
        }
        // Terms are at most 4.
        ExpectRounded((*y)[i * p.n + j], want, 4. * p.k * p.k * 0x1p-24);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupedBf16Test,
                         testing::Values(Grouped{true, 8, 8, {1}},
                                         Grouped{true, 264, 72, {65, 200}},
                                         Grouped{true, 520, 64, {128, 0, 129}},
                                         Grouped{false, 8, 8, {3, 1}},
                                         Grouped{false, 264, 72, {65, 200}},
                                         Grouped{false, 256, 136, {257, 1}}),
                         GroupedName);

struct Summed {
  int64_t n, k;
  std::vector<int32_t> rows;
  float keep;
};
using GroupedSumTest = DeviceTest<Summed>;

// What was there is NaN where nothing of it is to be kept.
TEST_P(GroupedSumTest, WeightGradientsAreAddedToWhatIsKept) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  const Summed& p = GetParam();
  std::vector<int32_t> offset = {0};
  for (const int32_t r : p.rows) offset.push_back(offset.back() + r);
  const std::vector<BFloat16> dy = Numbers(offset.back() * p.n, 1);
  const std::vector<BFloat16> x = Numbers(offset.back() * p.k, 2);
  std::vector<BFloat16> before = Numbers(p.rows.size() * p.n * p.k, 3);
  if (p.keep == 0) before.assign(before.size(), BFloat16{0x7fc0});
  const auto device_dy = DeviceArray<BFloat16>::CopyOf(dy);
  const auto device_x = DeviceArray<BFloat16>::CopyOf(x);
  const auto device_offset = DeviceArray<int32_t>::CopyOf(offset);
  const auto sum = DeviceArray<BFloat16>::CopyOf(before);
  const auto keep = DeviceArray<float>::CopyOf(std::vector<float>{p.keep});
  ASSERT_THAT(sum, IsOk());
  GroupedWeightGradArgs args;
  args.rows = {offset.back(), nullptr};
  args.num_experts = static_cast<int>(p.rows.size());
  args.n = p.n;
  args.k = p.k;
  args.dy = Data(*device_dy);
  args.x = Data(*device_x);
  args.offset = device_offset->data();
  args.dw = sum->data();
  args.bf16_dw = true;
  args.keep = keep->data();

  ASSERT_EQ(GroupedWeightGrad(args, /*stream=*/nullptr), cudaSuccess);

  const auto got = sum->ToHost();
  ASSERT_THAT(got, IsOk());
  for (size_t e = 0; e < p.rows.size(); ++e) {
    for (int64_t i = 0; i < p.n; ++i) {
      for (int64_t j = 0; j < p.k; ++j) {
        const int64_t at = (static_cast<int64_t>(e) * p.n + i) * p.k + j;
        double want = p.keep == 0 ? 0 : p.keep * double{Widen(before[at])};
        for (int64_t r = offset[e]; r < offset[e + 1]; ++r) {
          want += double{Widen(dy[r * p.n + i])} * Widen(x[r * p.k + j]);
        }
        // Terms are at most 4.
        const double terms = p.rows[e] + 1;
        ExpectRounded((*got)[at], want, 4 * terms * terms * 0x1p-24);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupedSumTest,
                         testing::Values(Summed{8, 8, {1}, 0},
                                         Summed{136, 264, {65, 0, 200}, 0},
                                         Summed{136, 264, {65, 0, 200}, 1},
                                         Summed{128, 256, {64, 129}, 0.5f}),
                         [](const testing::TestParamInfo<Summed>& info) {
                           return absl::StrCat(info.index, "_", info.param.n,
                                               "x", info.param.k);
                         });

TEST(CausalAttentionBf16Test, AgreesWithALoopInDouble) {
  if (!HasDevice() || !IsHopper()) GTEST_SKIP() << "no Hopper";
  constexpr int64_t t = 200, heads = 4, kv_heads = 2, dim = 72;
  const std::vector<BFloat16> q = Numbers(t * heads * dim, 1);
  const std::vector<BFloat16> k = Numbers(t * kv_heads * dim, 2);
  const std::vector<BFloat16> v = Numbers(t * kv_heads * dim, 3);
  const auto device_q = DeviceArray<BFloat16>::CopyOf(q);
  const auto device_k = DeviceArray<BFloat16>::CopyOf(k);
  const auto device_v = DeviceArray<BFloat16>::CopyOf(v);
  const auto start = DeviceArray<int32_t>::CopyOf(std::vector<int32_t>{0, t});
  const auto o = DeviceArray<BFloat16>::Allocate(q.size());
  const auto lse = DeviceArray<float>::Allocate(t * heads);
  ASSERT_THAT(lse, IsOk());
  CausalAttentionArgs args;
  args.tokens = {t, nullptr};
  args.num_heads = heads;
  args.num_kv_heads = kv_heads;
  args.key_dim = args.value_dim = dim;
  args.scale = 0.1f;
  args.seq_start = start->data();
  args.num_sequences = 1;
  args.q = Data(*device_q);
  args.k = Data(*device_k);
  args.v = Data(*device_v);
  args.o = o->data();
  args.bf16_o = true;
  args.lse = lse->data();

  ASSERT_EQ(CausalAttention(args, /*stream=*/nullptr), cudaSuccess);
  const auto got = o->ToHost();
  const auto got_lse = lse->ToHost();

  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      std::vector<double> want(dim);
      for (int64_t j = 0; j <= i; ++j) {
        const int64_t row = (j * kv_heads + h / 2) * dim;
        double score = 0;
        for (int64_t c = 0; c < dim; ++c) {
          score +=
              double{Widen(q[(i * heads + h) * dim + c])} * Widen(k[row + c]);
        }
        const double weight = std::exp(double{args.scale} * score);
        sum += weight;
        for (int64_t c = 0; c < dim; ++c) want[c] += weight * Widen(v[row + c]);
      }
      // Scores are F32 sums of up to 4 * 72.
      EXPECT_NEAR((*got_lse)[i * heads + h], std::log(sum), 1e-4);
      for (int64_t c = 0; c < dim; ++c) {
        // Weights are rounded; values are below 2.
        ExpectRounded((*got)[(i * heads + h) * dim + c], want[c] / sum,
                      2 * 0x1p-8);
      }
    }
  }
}

TEST(KernelArgsTest, ShapesWithoutTilesAreInvalid) {
  if (!HasDevice() || !IsHopper()) GTEST_SKIP() << "no Hopper";
  GroupedProductArgs product;
  product.rows = {4, nullptr};
  product.num_experts = 1;
  product.n = 8;
  product.k = 12;
  EXPECT_EQ(GroupedProduct(product, nullptr), cudaErrorInvalidValue);
  product.rows = {0, nullptr};
  EXPECT_EQ(GroupedProduct(product, nullptr), cudaSuccess);
  CausalAttentionArgs attention;
  attention.tokens = {4, nullptr};
  attention.num_sequences = 1;
  attention.key_dim = attention.value_dim = 136;
  EXPECT_EQ(CausalAttention(attention, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace strata::gpu
