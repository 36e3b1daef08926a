#include "cuda/ops/decode/batch_values.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/decode/join_pieces.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// Numbers of pieces that no operator's test has; behind attention the kernel is
// held to the CPU's in //cuda/ops:ops_test.

namespace strata::gpu {
namespace {

struct Pieces {
  int64_t tokens;
  int64_t more;  // Tokens that are not there, which are nowhere.
  int heads, splits, value;
};
std::string PiecesName(const testing::TestParamInfo<Pieces>& info) {
  const Pieces& p = info.param;
  return absl::StrCat(p.tokens, "_of_", p.tokens + p.more, "_heads", p.heads,
                      "_pieces", p.splits, "_value", p.value);
}
using BatchValuesTest = DeviceTest<Pieces>;

constexpr float kUntouched = 77;  // BF16 has it.

// Multiples of 1/64 up to 2, which BF16 has.
std::vector<float> Numbers(int64_t n, int seed) {
  const std::vector<int32_t> ints = RandomInts(n, -128, 128, seed);
  std::vector<float> numbers(n);
  for (int64_t i = 0; i < n; ++i) numbers[i] = ints[i] / 64.f;
  return numbers;
}

std::vector<BFloat16> Rounded(const std::vector<float>& x) {
  std::vector<BFloat16> rounded;
  for (const float v : x) rounded.push_back(RoundToBFloat16(v));
  return rounded;
}

struct Attended {
  std::vector<float> partial, max, sum;
};

// Some pieces have no keys, all of the first token's second head among them.
// What is not there is no number.
Attended AttendedOf(const Pieces& p) {
  const int64_t pieces = p.tokens * p.heads * p.splits;
  Attended a;
  a.partial = Numbers(pieces * kLatentRank, 1);
  a.max = Numbers(pieces, 2);
  a.sum = Numbers(pieces, 3);
  const std::vector<int32_t> kinds = RandomInts(pieces, 0, 5, /*seed=*/4);
  for (int64_t i = 0; i < pieces; ++i) {
    a.sum[i] = 1 + std::abs(a.sum[i]);
    a.max[i] *= 4;
    if (kinds[i] > 0 && i / p.splits != 1) continue;
    a.max[i] = -std::numeric_limits<float>::infinity();
    a.sum[i] = 0;
    for (int c = 0; c < kLatentRank; ++c) a.partial[i * kLatentRank + c] = 0;
  }
  const int64_t all = (p.tokens + p.more) * p.heads * p.splits;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  a.partial.resize(all * kLatentRank, nan);
  a.max.resize(all, nan);
  a.sum.resize(all, nan);
  return a;
}

struct Results {
  std::vector<BFloat16> x;  // Joined pieces [bound, heads * 512].
  std::vector<BFloat16> y;  // [bound, heads * value]
};

absl::StatusOr<Results> OnDevice(const Pieces& p, const Attended& attended,
                                 const std::vector<float>& w) {
  const int64_t bound = p.tokens + p.more;
  ASSIGN_OR_RETURN(const auto partial,
                   DeviceArray<float>::CopyOf(attended.partial));
  ASSIGN_OR_RETURN(const auto max, DeviceArray<float>::CopyOf(attended.max));
  ASSIGN_OR_RETURN(const auto sum, DeviceArray<float>::CopyOf(attended.sum));
  ASSIGN_OR_RETURN(const auto weights,
                   DeviceArray<BFloat16>::CopyOf(Rounded(w)));
  ASSIGN_OR_RETURN(const auto count,
                   DeviceArray<int32_t>::CopyOf(
                       std::vector<int32_t>{static_cast<int32_t>(p.tokens)}));
  ASSIGN_OR_RETURN(const auto x, DeviceArray<BFloat16>::Allocate(
                                     bound * p.heads * kLatentRank));
  ASSIGN_OR_RETURN(
      const auto y,
      DeviceArray<BFloat16>::CopyOf(std::vector<BFloat16>(
          bound * p.heads * p.value, RoundToBFloat16(kUntouched))));
  JoinArgs join;
  join.tokens = {bound, p.more > 0 ? count.data() : nullptr};
  join.num_heads = p.heads;
  join.splits = p.splits;
  join.dim = kLatentRank;
  join.partial = partial.data();
  join.max = max.data();
  join.sum = sum.data();
  join.rounded = reinterpret_cast<__nv_bfloat16*>(x.data());
  RETURN_IF_ERROR(ToStatus(JoinPieces(join, /*stream=*/nullptr)));
  BatchValuesArgs args;
  args.tokens = join.tokens;
  args.num_heads = p.heads;
  args.splits = p.splits;
  args.value = p.value;
  args.partial = join.partial;
  args.max = join.max;
  args.sum = join.sum;
  args.w = reinterpret_cast<const __nv_bfloat16*>(weights.data());
  args.y = reinterpret_cast<__nv_bfloat16*>(y.data());
  RETURN_IF_ERROR(ToStatus(BatchValues(args, /*stream=*/nullptr)));
  Results results;
  ASSIGN_OR_RETURN(results.x, x.ToHost());
  ASSIGN_OR_RETURN(results.y, y.ToHost());
  return results;
}

TEST_P(BatchValuesTest, MultipliesWhatJoinPiecesStores) {
  const Pieces& p = GetParam();
  if (!HasLatentDecode(kLatentRank, kLatentWidth)) GTEST_SKIP() << "no Hopper";
  const Attended attended = AttendedOf(p);
  const std::vector<float> w =
      Numbers(int64_t{p.heads} * p.value * kLatentRank, 5);

  const auto got = OnDevice(p, attended, w);

  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < (p.tokens + p.more) * p.heads; ++i) {
    for (int r = 0; r < p.value; ++r) {
      const float y = Widen(got->y[i * p.value + r]);
      if (i / p.heads >= p.tokens) {
        ASSERT_EQ(y, kUntouched) << "token " << i / p.heads;
        continue;
      }
      double want = 0, size = 0;
      for (int c = 0; c < kLatentRank; ++c) {
        const double term = double{Widen(got->x[i * kLatentRank + c])} *
                            w[(i % p.heads * p.value + r) * kLatentRank + c];
        want += term;
        size += std::abs(term);
      }
      // Products are exact; 512 terms are added in F32, whose roundings in the
      // tensor cores are up to twice as large, and the sum is rounded to BF16.
      ASSERT_NEAR(y, want, 512 * 0x1p-23 * size + 0x1p-8 * std::abs(want))
          << "token " << i / p.heads << " head " << i % p.heads << " row " << r;
    }
  }
}

// Tokens about those of each kernel, with the fewest and the most pieces it
// takes; one head, those of a block a multiprocessor, and the most.
INSTANTIATE_TEST_SUITE_P(
    Shapes, BatchValuesTest,
    testing::Values(Pieces{1, 0, 1, 2, 64}, Pieces{9, 0, 16, 14, 128},
                    Pieces{11, 5, 16, 8, 128}, Pieces{15, 0, 3, 5, 64},
                    Pieces{16, 0, 16, 8, 128}, Pieces{16, 0, 2, 16, 64},
                    Pieces{17, 0, 16, 7, 128}, Pieces{17, 0, 2, 8, 64},
                    Pieces{20, 12, 4, 3, 64}, Pieces{32, 0, 16, 4, 128},
                    Pieces{33, 0, 16, 4, 128}, Pieces{40, 23, 4, 3, 64},
                    Pieces{63, 0, 2, 2, 128}, Pieces{64, 0, 16, 2, 128},
                    Pieces{64, 0, 33, 2, 128}, Pieces{64, 0, 1, 4, 64},
                    Pieces{3, 61, 1, 3, 128}),
    PiecesName);

TEST(HasBatchValuesTest, TakesWhatItHasRoomFor) {
  if (!HasLatentDecode(kLatentRank, kLatentWidth)) GTEST_SKIP() << "no Hopper";
  const auto has = [](int64_t tokens, int heads, int splits, int value) {
    BatchValuesArgs args;
    args.tokens.bound = tokens;
    args.num_heads = heads;
    args.splits = splits;
    args.value = value;
    return HasBatchValues(args);
  };

  EXPECT_TRUE(has(16, 16, 16, 128));
  EXPECT_FALSE(has(16, 16, 17, 128));
  EXPECT_TRUE(has(32, 16, 8, 128));
  EXPECT_FALSE(has(17, 16, 9, 128));
  EXPECT_TRUE(has(64, 16, 4, 128));
  EXPECT_FALSE(has(33, 16, 5, 128));
  EXPECT_FALSE(has(65, 16, 2, 128));
  EXPECT_FALSE(has(16, 16, 1, 128));
  EXPECT_TRUE(has(16, 33, 2, 64));
  EXPECT_FALSE(has(16, 34, 2, 64));
  EXPECT_FALSE(has(16, 16, 2, 96));
}

}  // namespace
}  // namespace strata::gpu
