#include "cuda/ops/decode/latent_decode.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/quant/cache_format.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// Packed caches, beside lengths that differ and queries in BF16, which no
// operator has; operators are held to the CPU's in //cuda/ops:ops_test.

namespace strata::gpu {
namespace {

struct Latent {
  std::vector<int32_t> positions;  // Of each token, each its own sequence.
  int heads;
  int64_t block_size;  // 0: rows.
  int64_t window;
  bool bf16 = false;   // Queries and results.
  int64_t more = 0;    // Tokens that are not there, which are nowhere.
  bool ahead = false;  // Old keys come before a wait.
  CacheFormat format = CacheFormat::kBF16;
};
std::string LatentName(const testing::TestParamInfo<Latent>& info) {
  const Latent& p = info.param;
  return absl::StrCat(info.index, "_heads", p.heads, "_blocks", p.block_size,
                      "_window", p.window, p.bf16 ? "_bf16" : "",
                      p.more > 0 ? "_ragged" : "", p.ahead ? "_ahead" : "",
                      p.format == CacheFormat::kBF16
                          ? ""
                          : absl::StrCat("_", ToText(p.format)));
}
using LatentDecodeTest = DeviceTest<Latent>;

constexpr float kScale = 0.02f;

// Multiples of 1/64, which BF16 has.
std::vector<float> Numbers(int64_t n, int seed) {
  const std::vector<int32_t> ints = RandomInts(n, -128, 128, seed);
  std::vector<float> numbers(n);
  for (int64_t i = 0; i < n; ++i) numbers[i] = ints[i] / 64.f;
  return numbers;
}

// Where keys lie: sequence by sequence, each in as many rows, or in blocks
// anywhere among one more than are needed.
struct Layout {
  explicit Layout(const Latent& p) : block_size(p.block_size) {
    tokens = static_cast<int64_t>(p.positions.size());
    max_keys = 1 + *std::max_element(p.positions.begin(), p.positions.end());
    if (block_size == 0) {
      slots = tokens * max_keys;
      return;
    }
    max_blocks = (max_keys + block_size - 1) / block_size;
    table.resize(tokens * max_blocks);
    slots = (static_cast<int64_t>(table.size()) + 1) * block_size;
    std::iota(table.begin(), table.end(), 1);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
  }
  int64_t RowOf(int64_t token, int64_t key) const {
    if (block_size == 0) return token * max_keys + key;
    return table[token * max_blocks + key / block_size] * block_size +
           key % block_size;
  }

  int64_t block_size, tokens, max_keys, max_blocks = 0, slots;
  std::vector<int32_t> table;
};

std::vector<BFloat16> Rounded(const std::vector<float>& x) {
  std::vector<BFloat16> rounded;
  for (const float v : x) rounded.push_back(RoundToBFloat16(v));
  return rounded;
}

// Rows of a cache as it has them.
std::vector<uint8_t> Packed(CacheFormat format,
                            const std::vector<float>& rows) {
  const auto count = static_cast<int64_t>(rows.size()) / kLatentWidth;
  const int64_t row_bytes = CacheHeadBytes(format, kLatentWidth);
  std::vector<uint8_t> bytes(count * row_bytes);
  for (int64_t i = 0; i < count; ++i) {
    PackCacheHead(format, /*power_of_two=*/false,
                  rows.data() + i * kLatentWidth, kLatentWidth,
                  bytes.data() + i * row_bytes);
  }
  return bytes;
}

// What kernels multiply: rows in numbers, each rounded to BF16.
std::vector<float> Operands(CacheFormat format,
                            const std::vector<uint8_t>& bytes) {
  const int64_t row_bytes = CacheHeadBytes(format, kLatentWidth);
  const auto count = static_cast<int64_t>(bytes.size()) / row_bytes;
  std::vector<float> rows(count * kLatentWidth);
  for (int64_t i = 0; i < count; ++i) {
    UnpackCacheHead(format, bytes.data() + i * row_bytes, kLatentWidth,
                    rows.data() + i * kLatentWidth);
  }
  for (float& x : rows) x = Widen(RoundToBFloat16(x));
  return rows;
}

// Followed by what is no number.
std::vector<float> Lengthened(std::vector<float> x, int64_t size) {
  x.resize(size, std::numeric_limits<float>::quiet_NaN());
  return x;
}

absl::StatusOr<std::vector<float>> OnDevice(const Latent& p,
                                            const Layout& layout,
                                            const std::vector<float>& q,
                                            const std::vector<uint8_t>& cache) {
  const int64_t bound = layout.tokens + p.more;
  const std::vector<float> all_q =
      Lengthened(q, bound * p.heads * kLatentWidth);
  std::vector<int32_t> positions = p.positions;
  positions.resize(bound, -1);
  std::vector<int32_t> first_row(bound, -1), sequence(bound, -1);
  std::iota(sequence.begin(), sequence.begin() + layout.tokens, 0);
  for (int64_t i = 0; i < layout.tokens; ++i) {
    first_row[i] = static_cast<int32_t>(i * layout.max_keys);
  }
  ASSIGN_OR_RETURN(const auto device_q, DeviceArray<float>::CopyOf(all_q));
  ASSIGN_OR_RETURN(const auto bf16_q,
                   DeviceArray<BFloat16>::CopyOf(Rounded(all_q)));
  ASSIGN_OR_RETURN(const auto device_cache,
                   DeviceArray<uint8_t>::CopyOf(cache));
  ASSIGN_OR_RETURN(const auto count,
                   DeviceArray<int32_t>::CopyOf(std::vector<int32_t>{
                       static_cast<int32_t>(layout.tokens)}));
  ASSIGN_OR_RETURN(const auto position,
                   DeviceArray<int32_t>::CopyOf(positions));
  ASSIGN_OR_RETURN(const auto first, DeviceArray<int32_t>::CopyOf(first_row));
  ASSIGN_OR_RETURN(const auto table,
                   DeviceArray<int32_t>::CopyOf(layout.table));
  ASSIGN_OR_RETURN(const auto device_sequence,
                   DeviceArray<int32_t>::CopyOf(sequence));
  ASSIGN_OR_RETURN(const auto fault,
                   DeviceArray<Fault>::CopyOf(std::vector<Fault>(1)));
  ASSIGN_OR_RETURN(const auto o,
                   DeviceArray<float>::Allocate(bound * p.heads * kLatentRank));
  ASSIGN_OR_RETURN(const auto rounded, DeviceArray<BFloat16>::Allocate(
                                           bound * p.heads * kLatentRank));
  LatentDecodeArgs args;
  args.tokens = {bound, p.more > 0 ? count.data() : nullptr};
  args.num_heads = p.heads;
  args.scale = kScale;
  args.window = p.window;
  args.max_keys = layout.max_keys;
  if (p.bf16) {
    args.bf16_q = reinterpret_cast<const __nv_bfloat16*>(bf16_q.data());
    args.rounded = reinterpret_cast<__nv_bfloat16*>(rounded.data());
  } else {
    args.q = device_q.data();
    args.o = o.data();
  }
  args.cache = device_cache.data();
  args.format = static_cast<PackedFormat>(p.format);
  args.old_keys_stay = p.ahead;
  args.places.position = position.data();
  args.places.slots = layout.slots;
  if (p.block_size == 0) {
    args.places.first_row = first.data();
  } else {
    args.places.table = table.data();
    args.places.table_rows = layout.tokens;
    args.places.max_blocks = layout.max_blocks;
    args.places.block_size = p.block_size;
    args.places.sequence = device_sequence.data();
  }
  const int64_t pieces = LatentPieces(args);
  ASSIGN_OR_RETURN(const auto partial,
                   DeviceArray<float>::Allocate(pieces * kLatentRank));
  ASSIGN_OR_RETURN(const auto max, DeviceArray<float>::Allocate(pieces));
  ASSIGN_OR_RETURN(const auto sum, DeviceArray<float>::Allocate(pieces));
  args.partial = partial.data();
  args.max = max.data();
  args.sum = sum.data();
  args.fault = {fault.data(), 0};
  RETURN_IF_ERROR(ToStatus(LatentDecode(args, /*stream=*/nullptr)));
  if (!p.bf16) return o.ToHost();
  ASSIGN_OR_RETURN(const std::vector<BFloat16> results, rounded.ToHost());
  std::vector<float> wide;
  for (const BFloat16 x : results) wide.push_back(Widen(x));
  return wide;
}

// Of one head, over rows of the cache.
std::vector<double> Attend(const float* q, const std::vector<float>& cache,
                           const std::vector<int64_t>& rows) {
  std::vector<double> score, o(kLatentRank);
  for (const int64_t row : rows) {
    double sum = 0;
    for (int c = 0; c < kLatentWidth; ++c) {
      sum += double{q[c]} * cache[row * kLatentWidth + c];
    }
    score.push_back(kScale * sum);
  }
  const double largest = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (size_t j = 0; j < rows.size(); ++j) {
    const double weight = std::exp(score[j] - largest);
    sum += weight;
    for (int c = 0; c < kLatentRank; ++c) {
      o[c] += weight * cache[rows[j] * kLatentWidth + c];
    }
  }
  for (double& x : o) x /= sum;
  return o;
}

TEST_P(LatentDecodeTest, AgreesWithALoopInDouble) {
  const Latent& p = GetParam();
  if (!HasLatentDecode(kLatentRank, kLatentWidth)) GTEST_SKIP() << "no Hopper";
  const Layout layout(p);
  const std::vector<float> q =
      Numbers(layout.tokens * p.heads * kLatentWidth, 1);
  // What no token sees is no number: it must not be read into a sum.
  std::vector<float> cache(layout.slots * kLatentWidth,
                           std::numeric_limits<float>::quiet_NaN());
  std::vector<std::vector<int64_t>> seen(layout.tokens);
  for (int64_t i = 0; i < layout.tokens; ++i) {
    const int64_t keys = p.positions[i] + 1;
    const int64_t first =
        p.window > 0 ? std::max<int64_t>(0, keys - p.window) : 0;
    for (int64_t key = first; key < keys; ++key) {
      const int64_t row = layout.RowOf(i, key);
      const auto number = Numbers(kLatentWidth, static_cast<int>(2 + row));
      std::copy(number.begin(), number.end(),
                cache.begin() + row * kLatentWidth);
      seen[i].push_back(row);
    }
  }

  const std::vector<uint8_t> packed = Packed(p.format, cache);
  const std::vector<float> operands = Operands(p.format, packed);

  const auto got = OnDevice(p, layout, q, packed);

  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < layout.tokens; ++i) {
    for (int h = 0; h < p.heads; ++h) {
      const int64_t at = i * p.heads + h;
      const std::vector<double> want =
          Attend(q.data() + at * kLatentWidth, operands, seen[i]);
      for (int c = 0; c < kLatentRank; ++c) {
        // Weights are rounded to BF16, each by 2^-9 of itself; values are at
        // most 2. Scores of up to 46 have the roundings of 576 terms. BF16
        // results are rounded by 2^-9 of themselves.
        ASSERT_NEAR((*got)[at * kLatentRank + c], want[c],
                    2 * 0x1p-8 + (p.bf16 ? 2 * 0x1p-9 : 0))
            << "token " << i << " head " << h << " column " << c;
      }
    }
  }
}

std::vector<int32_t> Lengths(int64_t n, int most) {
  return RandomInts(n, 0, most, /*seed=*/5);
}

constexpr CacheFormat kInt8 = CacheFormat::kInt8, kInt4 = CacheFormat::kInt4;
Latent InCodes(CacheFormat format, const std::vector<int32_t>& positions,
               int heads, int64_t block_size, int64_t window,
               bool ahead = false) {
  Latent latent = {positions, heads, block_size, window};
  latent.more = ahead ? 2 : 0;
  latent.ahead = ahead;
  latent.format = format;
  return latent;
}

// Heads about a block's 64; positions about a tile's 64 keys and a piece's 32,
// many tokens in one piece each and few in several; blocks that boxes of 8, 16
// and 32 rows come from, and such as threads have to gather.
INSTANTIATE_TEST_SUITE_P(
    Shapes, LatentDecodeTest,
    testing::Values(
        Latent{{0}, 1, 0, 0}, Latent{{63, 64, 62, 400}, 16, 0, 0},
        Latent{{127, 128, 129, 700}, 65, 0, 0}, Latent{{1000}, 128, 0, 0},
        Latent{std::vector<int32_t>(70, 200), 128, 0, 0},
        Latent{std::vector<int32_t>(70, 255), 70, 16, 0},
        Latent{std::vector<int32_t>(70, 129), 128, 32, 0},
        Latent{{300, 5, 191}, 128, 64, 0}, Latent{{300, 5, 191}, 16, 8, 0},
        Latent{{300, 5, 191}, 16, 4, 0}, Latent{{300, 70, 191}, 16, 24, 0},
        Latent{{300, 90}, 16, 16, 77}, Latent{{500, 90}, 64, 0, 130},
        Latent{std::vector<int32_t>(80, 400), 128, 16, 150},
        // Threads that gather a last tile once read free stages where the copy
        // engine was still at work, from the fourth tile before it on.
        Latent{std::vector<int32_t>(67, 500), 65, 64, 0},
        // Three groups of heads, which are no pairs, and two pairs.
        Latent{{700, 3}, 192, 0, 0}, Latent{{300, 5}, 256, 64, 0},
        // BF16 queries: of groups that are full and not, in boxes of fewer
        // heads than 64, and beside other tokens' and what is no number.
        Latent{{0}, 1, 0, 0, true}, Latent{{63, 64, 62, 400}, 16, 0, 0, true},
        Latent{{127, 128, 129, 700}, 65, 0, 0, true, 3},
        Latent{{1000}, 128, 0, 0, true}, Latent{{300, 5}, 192, 64, 0, true},
        Latent{{300, 5, 191}, 16, 4, 0, true, 1},
        Latent{{500, 90}, 100, 0, 130, true},
        // Several units to a block, which follow others that are shorter,
        // longer, without a full tile, copied and not.
        Latent{Lengths(100, 260), 128, 0, 0, true},
        Latent{Lengths(100, 260), 128, 0, 0},
        Latent{Lengths(100, 300), 70, 16, 0, true, 30},
        Latent{Lengths(100, 300), 70, 16, 0, false, 30},
        Latent{Lengths(140, 300), 16, 4, 0, true},
        Latent{Lengths(140, 300), 16, 64, 0, false, 200},
        Latent{Lengths(200, 200), 16, 0, 77, true},
        // More of them than are planned.
        Latent{Lengths(300, 130), 16, 16, 0, true},
        Latent{Lengths(50, 200), 192, 64, 0, true},
        // Old keys ahead: of no piece, of some tiles of a piece, of all but the
        // last; in boxes, in clusters, by threads, and of units one after the
        // other.
        Latent{{0, 40}, 16, 0, 0, false, 0, true},
        Latent{{700, 3, 129}, 16, 0, 0, false, 2, true},
        Latent{{1000, 129}, 128, 16, 0, false, 0, true},
        Latent{Lengths(32, 576), 16, 0, 0, false, 0, true},
        Latent{Lengths(64, 300), 16, 4, 0, false, 30, true},
        Latent{Lengths(100, 300), 128, 64, 77, true, 0, true},
        // In codes: of 16, 32 and 64 heads to a block, not all there; rows of
        // which four lie together and such as do not.
        InCodes(kInt8, {0}, 1, 0, 0), InCodes(kInt4, {0}, 1, 0, 0),
        InCodes(kInt8, {63, 64, 62, 400}, 16, 0, 0),
        InCodes(kInt4, {63, 64, 62, 400}, 16, 0, 0, /*ahead=*/true),
        InCodes(kInt8, {127, 128, 129, 700}, 65, 0, 0),
        InCodes(kInt4, {1000}, 128, 0, 0, /*ahead=*/true),
        InCodes(kInt8, {300, 5, 191}, 30, 16, 0, /*ahead=*/true),
        InCodes(kInt4, {300, 5, 191}, 50, 6, 0),
        InCodes(kInt8, {300, 5, 191}, 128, 64, 0, /*ahead=*/true),
        InCodes(kInt8, {500, 90}, 64, 0, 130),
        InCodes(kInt4, std::vector<int32_t>(80, 400), 128, 16, 150),
        InCodes(kInt8, Lengths(100, 260), 16, 4, 0, /*ahead=*/true),
        InCodes(kInt4, Lengths(140, 300), 16, 64, 0),
        InCodes(kInt8, Lengths(140, 1), 16, 64, 0, /*ahead=*/true)),
    LatentName);

}  // namespace
}  // namespace strata::gpu
