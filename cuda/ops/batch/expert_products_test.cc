#include "cuda/ops/batch/expert_products.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/kernels/quant_product.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_bf16.h"
#include "gtest/gtest.h"

// Both products against those of the numbers that the rows stand for, in
// double.

namespace strata::gpu {
namespace {

struct Batch {
  const char* name;
  QuantFormat format;
  int64_t experts;
  int most;      // Rows of an expert: from 0 on.
  int64_t n, k;  // Of the experts' weights.
  // Of the shared expert's, or 0; of so many tokens, two less than the bound.
  int64_t shared_n = 0, tokens = 0;
};
std::string BatchName(const testing::TestParamInfo<Batch>& info) {
  return info.param.name;
}
using ExpertProductsTest = DeviceTest<Batch>;

constexpr int64_t kMore = 2;  // Rows at the bound that are not there.

// Rows of x and a weight, and the numbers that it stands for.
struct Operands {
  std::vector<BFloat16> x;
  std::vector<uint8_t> packed;
  std::vector<float> w;
};

Operands OperandsOf(const QuantFormat& format, int64_t rows, int64_t n,
                    int64_t k, int seed) {
  Operands o;
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < rows * k; ++i) {
    o.x.push_back(RoundToBFloat16(normal(rng)));
  }
  const int64_t bytes = PackedRow(format, k).bytes;
  const int64_t groups = NumGroups(format, k);
  std::uniform_int_distribution<int> any(0, format.max_code());
  // Sums are some units large.
  const float size = 0.5f / std::sqrt(static_cast<float>(k));
  std::uniform_real_distribution<float> some(size / format.middle(),
                                             3 * size / format.middle());
  std::vector<uint8_t> code(k), zero(groups);
  std::vector<BFloat16> scale(groups);
  o.packed.resize(n * bytes);
  o.w.resize(n * k);
  for (int64_t row = 0; row < n; ++row) {
    for (uint8_t& c : code) c = static_cast<uint8_t>(any(rng));
    for (BFloat16& v : scale) v = RoundToBFloat16(some(rng));
    PackRow(format, k, code.data(), scale.data(), zero.data(),
            &o.packed[row * bytes]);
    UnpackRow(format, k, &o.packed[row * bytes], &o.w[row * k]);
  }
  return o;
}

// A sum in double, and how far an F32 sum of tensor cores, truncated, may be
// from it: (k + 8) 2^-23 of the sum of its terms' magnitudes.
struct Sum {
  double value = 0, off = 0;
};
Sum Dot(const BFloat16* x, const float* w, int64_t k) {
  Sum sum;
  for (int64_t c = 0; c < k; ++c) {
    const double product = double{Widen(x[c])} * w[c];
    sum.value += product;
    sum.off += std::abs(product);
  }
  sum.off *= (static_cast<double>(k) + 8) * 0x1p-23;
  return sum;
}

// silu(gate) * up, whose slope by the gate is 1.1 of |up| at most; in F32 by
// exp, to 2^-20, then rounded to BF16, to 2^-8.
Sum SwiGluOf(const Sum& gate, const Sum& up) {
  const double silu = gate.value / (1 + std::exp(-gate.value));
  Sum sum;
  sum.value = silu * up.value;
  sum.off =
      1.1 * gate.off * (std::abs(up.value) + up.off) + std::abs(silu) * up.off;
  sum.off += (0x1p-8 + 0x1p-20) * (std::abs(sum.value) + sum.off);
  return sum;
}

// What the kernels made of rows of one kind; NaN where nothing was stored.
struct Results {
  std::vector<BFloat16> hidden;
  std::vector<float> y;
};

// Rows of one kind on the device.
struct DeviceRows {
  DeviceArray<BFloat16> x, hidden;
  DeviceArray<uint8_t> w;
  DeviceArray<float> y;
  PackedRows packed;

  ExpertRows Args() const {
    ExpertRows rows;
    rows.w = packed;
    rows.x = reinterpret_cast<const __nv_bfloat16*>(x.data());
    rows.hidden = reinterpret_cast<__nv_bfloat16*>(hidden.data());
    rows.y = y.data();
    return rows;
  }
  absl::StatusOr<Results> ToHost() const {
    Results results;
    ASSIGN_OR_RETURN(results.hidden, hidden.ToHost());
    ASSIGN_OR_RETURN(results.y, y.ToHost());
    return results;
  }
};
absl::StatusOr<DeviceRows> OnDevice(const QuantFormat& format,
                                    const Operands& o, int64_t rows, int64_t n,
                                    int64_t k) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ASSIGN_OR_RETURN(auto x, DeviceArray<BFloat16>::CopyOf(o.x));
  ASSIGN_OR_RETURN(auto hidden,
                   DeviceArray<BFloat16>::CopyOf(std::vector<BFloat16>(
                       rows * n / 2, RoundToBFloat16(nan))));
  ASSIGN_OR_RETURN(auto w, DeviceArray<uint8_t>::CopyOf(o.packed));
  ASSIGN_OR_RETURN(
      auto y, DeviceArray<float>::CopyOf(std::vector<float>(rows * n, nan)));
  const PackedRows packed = DescribePacked(w.data(), n, k, format.bits,
                                           format.group, format.symmetric);
  return DeviceRows{std::move(x), std::move(hidden), std::move(w), std::move(y),
                    packed};
}

// Row `row` of both products, by the weight whose numbers begin at `w`; the
// first is of row `x_row` of x.
void ExpectRow(const Operands& o, const float* w, const Results& got,
               int64_t row, int64_t x_row, int64_t n, int64_t k) {
  std::vector<Sum> sum;
  for (int64_t i = 0; i < n; ++i) {
    const Sum want = Dot(&o.x[row * k], w + i * k, k);
    sum.push_back(x_row == row ? want : Dot(&o.x[x_row * k], w + i * k, k));
    ASSERT_NEAR(got.y[row * n + i], want.value, want.off)
        << "row " << row << ", column " << i;
  }
  for (int64_t i = 0; i < n / 2; ++i) {
    const Sum want = SwiGluOf(sum[i], sum[n / 2 + i]);
    ASSERT_NEAR(Widen(got.hidden[row * n / 2 + i]), want.value, want.off)
        << "row " << row << ", column " << i << " of hidden";
  }
}
void ExpectUntouched(const Results& got, int64_t first_row, int64_t n) {
  for (size_t i = first_row * n; i < got.y.size(); ++i) {
    ASSERT_TRUE(std::isnan(got.y[i])) << "beyond the rows";
  }
  for (size_t i = first_row * n / 2; i < got.hidden.size(); ++i) {
    ASSERT_TRUE(std::isnan(Widen(got.hidden[i]))) << "beyond the rows";
  }
}

struct Both {
  Results experts, shared;
};
absl::StatusOr<Both> MultiplyBoth(const Batch& p, const Operands& o,
                                  const Operands& shared,
                                  const std::vector<int32_t>& offsets) {
  const int64_t max_rows = offsets.back() + kMore;
  ASSIGN_OR_RETURN(const auto experts,
                   OnDevice(p.format, o, max_rows, p.n, p.k));
  ASSIGN_OR_RETURN(
      const auto beside,
      OnDevice(p.format, shared, p.tokens + kMore, p.shared_n, p.k));
  ASSIGN_OR_RETURN(const auto offset, DeviceArray<int32_t>::CopyOf(offsets));
  ASSIGN_OR_RETURN(const auto count,
                   DeviceArray<int32_t>::CopyOf(
                       std::vector<int32_t>{static_cast<int32_t>(p.tokens)}));
  ExpertProductArgs args;
  args.experts = experts.Args();
  args.num_experts = static_cast<int>(p.experts);
  args.offset = offset.data();
  args.max_rows = max_rows;
  // Rows of x the other way round, of the second product as they lie.
  std::vector<int32_t> turned(max_rows);
  std::iota(turned.rbegin(), turned.rend(), 0);
  ASSIGN_OR_RETURN(const auto index, DeviceArray<int32_t>::CopyOf(turned));
  if (p.shared_n > 0) args.shared = beside.Args();
  args.tokens = {p.tokens + kMore, count.data()};
  ASSIGN_OR_RETURN(const auto parts,
                   DeviceArray<float>::CopyOf(
                       std::vector<float>(ExpertProductParts(), NAN)));
  args.parts = parts.data();
  if (!HasExpertProducts(args)) return absl::UnimplementedError("no kernel");
  args.experts.index = index.data();
  RETURN_IF_ERROR(ToStatus(SwiGluProducts(args, /*stream=*/nullptr)));
  args.experts.index = nullptr;
  RETURN_IF_ERROR(ToStatus(DownProducts(args, /*stream=*/nullptr)));
  Both both;
  ASSIGN_OR_RETURN(both.experts, experts.ToHost());
  ASSIGN_OR_RETURN(both.shared, beside.ToHost());
  return both;
}

TEST_P(ExpertProductsTest, AreThoseOfTheNumbers) {
  const Batch& p = GetParam();
  std::vector<int32_t> offset = {0};
  for (const int32_t rows :
       RandomInts(p.experts, 0, p.most, /*seed=*/static_cast<int>(p.experts))) {
    offset.push_back(offset.back() + rows);
  }
  const Operands o = OperandsOf(p.format, offset.back() + kMore,
                                p.experts * p.n, p.k, /*seed=*/1);
  const Operands shared =
      OperandsOf(p.format, p.tokens + kMore, p.shared_n, p.k, /*seed=*/2);

  const auto got = MultiplyBoth(p, o, shared, offset);

  ASSERT_THAT(got, IsOk());
  for (int64_t e = 0; e < p.experts; ++e) {
    for (int64_t row = offset[e]; row < offset[e + 1]; ++row) {
      ExpectRow(o, &o.w[e * p.n * p.k], got->experts, row,
                offset.back() + kMore - 1 - row, p.n, p.k);
    }
  }
  ExpectUntouched(got->experts, offset.back(), p.n);
  if (p.shared_n == 0) return;
  for (int64_t row = 0; row < p.tokens; ++row) {
    ExpectRow(shared, shared.w.data(), got->shared, row, row, p.shared_n, p.k);
  }
  ExpectUntouched(got->shared, p.tokens, p.shared_n);
}

// Fewer units than there are blocks, and more; experts without rows, with up to
// a tile of eight, and with several; tiles that two blocks share, blocks with
// several, whose x there is room for at once and not; and each format.
INSTANTIATE_TEST_SUITE_P(
    Batches, ExpertProductsTest,
    testing::Values(
        Batch{"one", {4, 32, true}, 1, 1, 32, 256},
        Batch{"few", {4, 32, true}, 5, 3, 64, 512, 96, 9},
        Batch{"none", {4, 32, true}, 7, 0, 64, 256, 64, 3},
        Batch{"spread", {4, 32, true}, 128, 4, 96, 512, 96, 32},
        Batch{"many", {4, 32, true}, 256, 5, 64, 256, 32, 62},
        Batch{"tiles", {4, 32, true}, 24, 33, 96, 256, 160, 62},
        Batch{"long_rows", {4, 32, true}, 40, 9, 320, 2304, 320, 17},
        Batch{"longest_rows", {4, 32, true}, 3, 9, 64, 4608, 32, 17},
        Batch{"three_pairs", {4, 32, true}, 40, 8, 320, 768},
        Batch{"groups_of_64", {4, 64, true}, 33, 9, 64, 512, 64, 8},
        Batch{"groups_of_128", {4, 128, true}, 33, 9, 64, 1024, 64, 7},
        Batch{"int8", {8, 32, true}, 33, 9, 96, 768, 64, 33},
        Batch{"int8_groups_of_64", {8, 64, true}, 33, 9, 64, 512},
        Batch{"int8_groups_of_128", {8, 128, true}, 33, 9, 64, 1024, 64, 1}),
    BatchName);

TEST(HasExpertProductsTest, WantsWholeRowsOfOneFormatThatFit) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const auto has = [](const QuantFormat& format, int64_t n, int64_t k,
                      const QuantFormat& shared_format, int64_t tokens) {
    // Aligned, and not read.
    auto* const data = reinterpret_cast<const uint8_t*>(uintptr_t{256});
    const auto describe = [&](const QuantFormat& f) {
      return DescribePacked(data, n, k, f.bits, f.group, f.symmetric);
    };
    ExpertProductArgs args;
    args.experts.w = describe(format);
    args.shared.w = describe(shared_format);
    args.num_experts = 16;
    args.max_rows = 64;
    args.tokens = {tokens, nullptr};
    return HasExpertProducts(args);
  };
  const QuantFormat int4 = {4, 32, true};
  const bool is_hopper = has(int4, 64, 512, int4, 64);
  if (!is_hopper) GTEST_SKIP() << "no Hopper GPU";
  EXPECT_TRUE(has(int4, 64, 4608, int4, 64));
  EXPECT_FALSE(has(int4, 64, 4864, int4, 64));
  EXPECT_FALSE(has(int4, 64, 512, int4, 65));
  EXPECT_FALSE(has(int4, 48, 512, int4, 64));
  EXPECT_FALSE(has(int4, 64, 128, int4, 64));
  EXPECT_FALSE(has(int4, 64, 512, {8, 32, true}, 64));
  EXPECT_FALSE(has({4, 32, false}, 64, 512, {4, 32, false}, 64));
}

}  // namespace
}  // namespace strata::gpu
