#include "cuda/kernels/quant_product.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/kernels/few_rows_stream_plan.h"
#include "cuda/kernels/many_rows_plan.h"
#include "cuda/kernels/resident_plan.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_bf16.h"
#include "gtest/gtest.h"

// Each kernel against the product of the numbers that the rows stand for, in
// double. Operators against the CPU's: cuda/ops/quant_matmul_test.cc.

namespace strata::gpu {
namespace {

enum class Kernel { kFewExact, kFewRounded, kMany, kResident };

struct Shape {
  int64_t n, k;
  std::vector<int32_t> rows;  // Of each expert; of a dense product one number.
  bool dense = true;
  // Of kMany: the tile; of kFewRounded: how a streamed product is divided. Rows
  // are exactly those at the bound then.
  ManyRowsChoice tile = {};
  StreamChoice stream = {};
  // Of kResident.
  ResidentChoice resident = {};
};

// A product's operands, the numbers of w, and where experts begin.
struct Operands {
  std::vector<float> x, w;
  std::vector<uint8_t> packed;
  std::vector<int32_t> offset = {0};
};

Operands MakeOperands(const QuantFormat& format, const Shape& s) {
  Operands o;
  for (const int32_t rows : s.rows) {
    o.offset.push_back(o.offset.back() + rows);
  }
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  o.x.resize(o.offset.back() * s.k);
  for (float& x : o.x) x = normal(rng);
  const int64_t bytes = PackedRow(format, s.k).bytes;
  const int64_t groups = NumGroups(format, s.k);
  std::uniform_int_distribution<int> any(0, format.max_code());
  std::uniform_real_distribution<float> some(0.01f, 0.03f);
  std::vector<uint8_t> code(s.k), zero(groups);
  std::vector<BFloat16> scale(groups);
  const auto matrices = static_cast<int64_t>(s.rows.size());
  o.packed.resize(matrices * s.n * bytes);
  o.w.resize(matrices * s.n * s.k);
  for (int64_t row = 0; row < matrices * s.n; ++row) {
    for (uint8_t& c : code) c = static_cast<uint8_t>(any(rng));
    for (uint8_t& z : zero) z = static_cast<uint8_t>(any(rng));
    for (BFloat16& v : scale) v = RoundToBFloat16(some(rng));
    uint8_t* const to = &o.packed[row * bytes];
    PackRow(format, s.k, code.data(), scale.data(), zero.data(), to);
    UnpackRow(format, s.k, to, &o.w[row * s.k]);
  }
  return o;
}

// Rows of y; beyond those that are there lie three of NaN, which stay.
absl::StatusOr<std::vector<float>> Multiply(const QuantFormat& format,
                                            const Shape& s, const Operands& o,
                                            Kernel kernel, bool bf16_x) {
  constexpr int kMore = 3;
  const int32_t rows = o.offset.back();
  std::vector<float> x = o.x;
  x.resize(x.size() + kMore * s.k, std::numeric_limits<float>::quiet_NaN());
  std::vector<BFloat16> x_bf16;
  for (const float v : x) x_bf16.push_back(RoundToBFloat16(v));
  ASSIGN_OR_RETURN(const auto device_x, DeviceArray<float>::CopyOf(x));
  ASSIGN_OR_RETURN(const auto device_x_bf16,
                   DeviceArray<BFloat16>::CopyOf(x_bf16));
  ASSIGN_OR_RETURN(const auto w, DeviceArray<uint8_t>::CopyOf(o.packed));
  ASSIGN_OR_RETURN(const auto offset, DeviceArray<int32_t>::CopyOf(o.offset));
  ASSIGN_OR_RETURN(const auto count, DeviceArray<int32_t>::CopyOf({rows}));
  ASSIGN_OR_RETURN(const auto y, DeviceArray<float>::CopyOf(std::vector<float>(
                                     (rows + kMore) * s.n,
                                     std::numeric_limits<float>::quiet_NaN())));
  QuantProductArgs args;
  // Whether there are more rows at the bound decides who is asked.
  args.rows = {rows + kMore, count.data()};
  if (s.tile.tokens > 0 || s.stream.splits > 0) args.rows = {rows, nullptr};
  if (bf16_x) {
    args.x_bf16 = reinterpret_cast<const __nv_bfloat16*>(device_x_bf16.data());
  } else {
    args.x = device_x.data();
  }
  args.w = DescribePacked(w.data(), s.n, s.k, format.bits, format.group,
                          format.symmetric);
  args.y = y.data();
  if (!s.dense) {
    args.num_experts = static_cast<int>(s.rows.size());
    args.offset = offset.data();
  }
  ASSIGN_OR_RETURN(const auto rounded,
                   DeviceArray<__nv_bfloat16>::Allocate(RoundedElements(args)));
  RETURN_IF_ERROR(ToStatus(
      kernel == Kernel::kResident
          ? ResidentProduct(args, s.resident, /*stream=*/nullptr)
      : kernel == Kernel::kMany
          ? QuantProductSm90(args, rounded.data(), /*stream=*/nullptr, s.tile)
          : QuantProduct(args,
                         kernel == Kernel::kFewExact ? nullptr : rounded.data(),
                         /*stream=*/nullptr, s.stream)));
  return y.ToHost();
}

// Sums of k products in F32, truncated as the tensor cores do it, are off by at
// most (k + 8) 2^-23 of the sum of their magnitudes; rows of x rounded to BF16
// by 2^-8 more (half of it, and what truncation may double), and so are
// rounded weights. Where codes are summed up as they lie and zeros apart, a
// step is off by four times that, but there are no more than k / 8 steps, and
// eight.
void ExpectProductOf(const QuantFormat& format, const Shape& s, Kernel kernel,
                     bool bf16_x) {
  SCOPED_TRACE(
      absl::StrCat(s.n, " x ", s.k, ", ", s.rows.size(), " matrices, rows ",
                   s.rows[0], ", kernel ", static_cast<int>(kernel), ", tile ",
                   s.tile.tokens, ", splits ", s.tile.splits + s.stream.splits,
                   ", pairs ", s.tile.pairs, ", warps ", s.stream.warps,
                   ", resident ", s.resident.tiles, " x ", s.resident.tokens,
                   " by ", s.resident.splits, bf16_x ? ", x in BF16" : ""));
  Operands o = MakeOperands(format, s);
  if (bf16_x) {
    for (float& x : o.x) x = Widen(RoundToBFloat16(x));
  }
  const auto y = Multiply(format, s, o, kernel, bf16_x);
  ASSERT_THAT(y, IsOk());
  const bool few = kernel == Kernel::kFewExact || kernel == Kernel::kFewRounded;
  const bool exact_w = few || s.tile.tokens == 8 || s.tile.tokens == 16;
  const bool exact_x = bf16_x || kernel == Kernel::kFewExact;
  const double relative = (static_cast<double>(s.k) + 8) * 0x1p-23 +
                          ((exact_w ? 0 : 1) + (exact_x ? 0 : 1)) * 0x1p-8;
  int64_t wrong = 0;
  for (size_t e = 0; e < s.rows.size(); ++e) {
    for (int64_t row = o.offset[e]; row < o.offset[e + 1]; ++row) {
      const float* const x = &o.x[row * s.k];
      for (int64_t i = 0; i < s.n; ++i) {
        const float* const w = &o.w[(static_cast<int64_t>(e) * s.n + i) * s.k];
        double sum = 0, magnitude = 0;
        for (int64_t c = 0; c < s.k; ++c) {
          const double product = double{x[c]} * w[c];
          sum += product;
          magnitude += std::abs(product);
        }
        const double got = (*y)[row * s.n + i];
        if (std::abs(got - sum) <= relative * magnitude) continue;
        if (++wrong <= 3) {
          ADD_FAILURE() << "row " << row << ", column " << i << " is " << got
                        << ", not " << sum;
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t i = o.offset.back() * s.n; i < static_cast<int64_t>(y->size());
       ++i) {
    ASSERT_TRUE(std::isnan((*y)[i])) << "beyond the rows";
  }
}

void ExpectProduct(const QuantFormat& format, const Shape& s, Kernel kernel) {
  for (const bool bf16_x : {false, true}) {
    ExpectProductOf(format, s, kernel, bf16_x);
  }
}

// On both sides of tiles of 8, 16, 64, 128 and 256 rows (three more at the
// bound), of 32 to 256 columns of y, of pairs of chunks and blocks of columns,
// and with enough columns that blocks share them.
std::vector<Shape> FewShapes() {
  return {{1, 37, {1}},
          {33, 128, {5}},
          {64, 256, {6}},
          {257, 160, {8}},
          {255, 1100, {13}},
          {300, 5000, {14}},
          {129, 2048, {1}},
          {520, 4096, {12}},
          {31, 8192, {2}},
          {5000, 1024, {9}},
          {64, 512, {0}},
          {96, 640, {17, 0, 3}, false},
          {130, 1024, {1, 0, 2, 1, 9, 0}, false},
          {256, 768, {0, 1, 1, 0, 0, 1, 0, 5}, false}};
}
std::vector<Shape> ManyShapes() {
  return {{1, 37, {1}},
          {127, 64, {61}},
          {128, 128, {62}},
          {129, 192, {125}},
          {65, 513, {126}},
          {256, 2048, {64}},
          {130, 1500, {253}},
          {128, 640, {254}},
          {257, 1024, {300}},
          {140, 4096, {200}},
          {130, 12288, {70}},
          {130, 320, {128, 0, 129, 64, 200}, false},
          {64, 768, {1, 70, 0, 9}, false},
          {150, 96, {300, 255, 257}, false}};
}

using QuantProductTest = DeviceTest<QuantFormat>;

TEST_P(QuantProductTest, FewRowsAgreeWithTheirNumbers) {
  for (Shape s : FewShapes()) {
    if (GetParam().group > 0) s.k = (s.k + 127) / 128 * 128;
    if (IsHopper()) ExpectProduct(GetParam(), s, Kernel::kFewRounded);
    ExpectProduct(GetParam(), s, Kernel::kFewExact);
  }
}

// However it is divided, with warps that have several tiles or none, a last
// tile that is not full, and shares that are not all the same.
TEST_P(QuantProductTest, StreamedRowsAgreeWithTheirNumbers) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  if (!GetParam().symmetric || GetParam().group == 0) {
    GTEST_SKIP() << "rows are not whole";
  }
  for (const int splits : {1, 2, 4, 8}) {
    for (const int warps : {8, 16}) {
      for (const int32_t rows : {1, 7, 8, 9, 16, 17, 32, 33, 64}) {
        // Of 128 bytes of codes.
        const int64_t pair = GetParam().bits == 4 ? 256 : 128;
        // Whole groups of any format, and shares that differ.
        const int64_t k = (splits * 2 * pair + 1023) / 1024 * 1024 + 1024;
        const int64_t share = (k / pair + splits - 1) / splits * pair;
        // x of a tile has room, and what its sums begin from.
        const int64_t room = (warps == 8 ? 39 : 81) * 1024;
        if (std::min(rows, 32) * (share * 2 + 64) + share * 4 > room) {
          continue;
        }
        // Of 9 and 33 rows warps have several tiles or parts of two.
        Shape s = {rows == 9 ? 1100 : rows == 33 ? 300 : 75, k, {rows}};
        s.stream = {splits, warps, rows == 9 || rows == 33 ? 2 : 0};
        ExpectProduct(GetParam(), s, Kernel::kFewRounded);
      }
    }
  }
}

TEST_P(QuantProductTest, ManyRowsAgreeWithTheirNumbers) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  for (Shape s : ManyShapes()) {
    const int64_t group = GetParam().group;
    if (group > 0) s.k = (s.k + group - 1) / group * group;
    ExpectProduct(GetParam(), s, Kernel::kMany);
  }
}

// Each tile, alone and with others in a cluster, whatever is best: a row or two
// more than it has, columns of two tiles, and a last stage that is not full.
TEST_P(QuantProductTest, TilesOfManyRowsAgreeWithTheirNumbers) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  for (const int tokens : {8, 16, 64, 128, 256}) {
    for (const int pairs : {1, 2}) {
      if (pairs == 2 && tokens < 64) continue;
      for (const int splits : {1, 2, 4, 8}) {
        if (pairs * splits > 8) continue;
        // Rows that are copied, and rows that are filled.
        Shape s = {132, splits % 3 == 2 ? 2048 : 2176, {tokens + 2}};
        s.tile = {tokens, splits, pairs};
        ExpectProduct(GetParam(), s, Kernel::kMany);
      }
      Shape s = {132, 384, {tokens - 1, 0, 2, tokens + 1}, false};
      s.tile = {tokens, 1, pairs};
      ExpectProduct(GetParam(), s, Kernel::kMany);
    }
  }
}

// However it is divided: rows on both sides of a tile's, of which the bound has
// three more, columns that fill a tile or not, and shares that differ where
// groups allow it; so few that they find room, and, of x in BF16, so many that
// each place is used several times.
TEST_P(QuantProductTest, ResidentProductsAgreeWithTheirNumbers) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  if (!GetParam().symmetric || GetParam().group == 0) {
    GTEST_SKIP() << "rows are not whole";
  }
  const int64_t stage = GetParam().bits == 4 ? 256 : 128;
  const int64_t whole = GetParam().group * 8;
  int planned = 0;
  struct Block {
    int tiles, tokens;
    Keeps keeps;
  };
  for (const auto& [tiles, tokens, keeps] : {Block{2, 32, Keeps::kAll},
                                             {3, 32, Keeps::kAll},
                                             {4, 32, Keeps::kAll},
                                             {2, 64, Keeps::kAll},
                                             {4, 64, Keeps::kAll},
                                             {2, 128, Keeps::kAll},
                                             {3, 64, Keeps::kRing},
                                             {2, 128, Keeps::kRing}}) {
    const bool int4_alone = keeps == Keeps::kRing || tokens == 32;
    if (int4_alone && GetParam().bits != 4) continue;
    for (const int splits : {1, 2, 4, 8}) {
      const int64_t some = (splits * 3 + 1) / 2 * stage;
      const int64_t k = (some + whole - 1) / whole * whole;
      for (const int32_t rows : {17, tokens - 2, tokens + 1}) {
        Shape s = {rows > tokens ? 132 : tiles * 64 + 4, k, {rows}};
        s.resident = {tiles, splits, tokens, keeps};
        if (keeps == Keeps::kRing) {
          ExpectProductOf(GetParam(), s, Kernel::kResident, /*bf16_x=*/true);
          if (rows != (splits <= 2 ? tokens + 1 : 17)) continue;
          s.k += splits * 9 * stage / whole * whole;
          ExpectProductOf(GetParam(), s, Kernel::kResident, /*bf16_x=*/true);
          continue;
        }
        // x, codes, scales and other blocks' sums have room.
        const int64_t stages = (k / stage + splits - 1) / splits;
        const int64_t bytes =
            stages * (stage * tokens * 2 + tiles * 64 * 144) +
            BytesToJoin(tiles * tokens * 256, splits, tokens) + 1024;
        if (bytes > kMaxResidentBytes) continue;
        ++planned;
        ExpectProductOf(GetParam(), s, Kernel::kResident, /*bf16_x=*/true);
        if (tokens != 64) continue;
        ExpectProductOf(GetParam(), s, Kernel::kResident, /*bf16_x=*/false);
      }
    }
  }
  EXPECT_GE(planned, 12);
}

// y of two products of one x in a launch, the second's rows behind the first's;
// or of one, to which `add` is added where it lies.
absl::StatusOr<std::vector<float>> MultiplyMore(
    const QuantFormat& format, const Shape& s, const Operands& o,
    const Shape* second, const Operands& other, std::vector<float> add) {
  const int32_t rows = o.offset.back();
  std::vector<BFloat16> x;
  for (const float v : o.x) x.push_back(RoundToBFloat16(v));
  ASSIGN_OR_RETURN(const auto device_x, DeviceArray<BFloat16>::CopyOf(x));
  ASSIGN_OR_RETURN(const auto w, DeviceArray<uint8_t>::CopyOf(o.packed));
  ASSIGN_OR_RETURN(const auto w_2, DeviceArray<uint8_t>::CopyOf(other.packed));
  const int64_t n = s.n + (second != nullptr ? second->n : 0);
  const bool adds = !add.empty();
  if (!adds) add.assign(rows * n, std::numeric_limits<float>::quiet_NaN());
  ASSIGN_OR_RETURN(const auto y, DeviceArray<float>::CopyOf(add));
  QuantProductArgs args;
  args.rows = {rows, nullptr};
  args.x_bf16 = reinterpret_cast<const __nv_bfloat16*>(device_x.data());
  args.w = DescribePacked(w.data(), s.n, s.k, format.bits, format.group,
                          format.symmetric);
  args.y = y.data();
  ResidentMore more;
  if (adds) more.add = y.data();
  if (second != nullptr) {
    more.w = DescribePacked(w_2.data(), second->n, s.k, format.bits,
                            format.group, format.symmetric);
    more.y = y.data() + rows * s.n;
  }
  RETURN_IF_ERROR(
      ToStatus(ResidentProduct(args, s.resident, /*stream=*/nullptr, more)));
  return y.ToHost();
}

// By the same plan, so that all bits are those of a product by itself.
TEST_P(QuantProductTest, ResidentProductsAddAndComeInTwos) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  if (!GetParam().symmetric || GetParam().group == 0) {
    GTEST_SKIP() << "rows are not whole";
  }
  const QuantFormat& format = GetParam();
  for (const ResidentChoice& choice : {ResidentChoice{2, 1, 64},
                                       {2, 4, 64},
                                       {4, 4, 64},
                                       {2, 4, 128},
                                       {2, 8, 32},
                                       {4, 4, 32}}) {
    // Of one split there is no room, of 32 tokens no kernel.
    if (format.bits == 8 && (choice.splits == 1 || choice.tokens == 32)) {
      continue;
    }
    const int64_t stages = std::max(4, choice.splits);
    const int64_t k = std::max<int64_t>(stages * (format.bits == 4 ? 256 : 128),
                                        format.group * 8);
    Shape s = {132, k, {67}};
    s.resident = choice;
    Shape second = s;
    second.n = 260;
    const Operands o = MakeOperands(format, s);
    const Operands other = MakeOperands(format, second);
    SCOPED_TRACE(absl::StrCat(choice.tiles, " x ", choice.tokens, " by ",
                              choice.splits));
    // Of one x. Three rows beyond are those of NaN.
    Operands both = other;
    both.x = o.x;
    auto a = Multiply(format, s, o, Kernel::kResident, /*bf16_x=*/true);
    auto b = Multiply(format, second, both, Kernel::kResident, true);
    ASSERT_THAT(a, IsOk());
    ASSERT_THAT(b, IsOk());
    a->resize(s.rows[0] * s.n);
    b->resize(s.rows[0] * second.n);
    std::vector<float> want = *a;
    want.insert(want.end(), b->begin(), b->end());
    const auto two = MultiplyMore(format, s, o, &second, both, {});
    ASSERT_THAT(two, IsOk());
    EXPECT_EQ(*two, want);
    if (choice.tokens > 64) continue;
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    std::vector<float> add(a->size());
    for (float& v : add) v = normal(rng);
    want = *a;
    for (size_t i = 0; i < want.size(); ++i) want[i] += add[i];
    const auto sum = MultiplyMore(format, s, o, nullptr, other, add);
    ASSERT_THAT(sum, IsOk());
    EXPECT_EQ(*sum, want);
  }
}

TEST(ResidentProductTest, PlansThatCannotBeAreInvalid) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  QuantProductArgs args;
  args.rows = {64, nullptr};
  args.w = DescribePacked(nullptr, 128, 1024, 4, 128, true);
  // Of four stages of columns.
  EXPECT_EQ(ResidentProduct(args, {2, 8}, nullptr), cudaErrorInvalidValue);
  // Of F32.
  EXPECT_EQ(ResidentProduct(args, {3, 2, 64, Keeps::kRing}, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(ResidentProduct(args, {2, 2, 128}, nullptr), cudaErrorInvalidValue);
  // Of other columns, another format, or with what is added.
  static const uint8_t kSome[16] = {};
  for (const auto& [k, group, adds] :
       {std::tuple<int64_t, int64_t, bool>{2048, 128, false},
        {1024, 64, false},
        {1024, 128, true}}) {
    ResidentMore more;
    more.w = DescribePacked(kSome, 128, k, 4, group, true);
    const float add = 0;
    if (adds) more.add = &add;
    EXPECT_EQ(ResidentProduct(args, {}, nullptr, more), cudaErrorInvalidValue);
  }
  args.w = DescribePacked(nullptr, 128, 1024, 4, 128, false);
  EXPECT_EQ(ResidentProduct(args, {}, nullptr), cudaErrorInvalidValue);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantProductTest,
    testing::Values(QuantFormat{4, 32, true}, QuantFormat{4, 64, true},
                    QuantFormat{4, 128, true}, QuantFormat{4, 0, true},
                    QuantFormat{4, 32, false}, QuantFormat{4, 0, false},
                    QuantFormat{8, 32, true}, QuantFormat{8, 64, true},
                    QuantFormat{8, 128, true}, QuantFormat{8, 64, false}),
    [](const testing::TestParamInfo<QuantFormat>& info) {
      return absl::StrCat("Int", info.param.bits, "_groups", info.param.group,
                          info.param.symmetric ? "" : "_zeros");
    });

}  // namespace
}  // namespace strata::gpu
