#include "core/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/paged_attention.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::_;

// --- Packed sequences ---

struct Packed {
  const char* name;
  std::vector<int32_t> lengths;
  int64_t heads, kv_heads, key_dim, value_dim, window;
};
using PackedTest = DeviceTest<Packed>;

absl::Status ComparePacked(const Packed& p, double roundings,
                           Precision precision) {
  std::vector<int32_t> start = {0};
  for (const int32_t n : p.lengths) start.push_back(start.back() + n);
  return CompareBackends(
      [&](GraphBuilder& b) {
        const Dim t = RaggedRows(b, start.back());
        AttentionOptions options;
        options.num_heads = p.heads;
        options.num_kv_heads = p.kv_heads;
        options.scale = 1 / std::sqrt(p.key_dim);
        options.window = p.window;
        return std::vector<ValueId>{
            Attention(b, FloatInput(b, "q", t, p.heads * p.key_dim),
                      FloatInput(b, "k", t, p.kv_heads * p.key_dim),
                      FloatInput(b, "v", t, p.kv_heads * p.value_dim),
                      b.Input("seq_start", DType::kI32,
                              {Static(static_cast<int64_t>(start.size()))}),
                      options)};
      },
      {roundings,
       WithRows(start.back(),
                [&](const std::string& name, const TensorView& view) {
                  return name == "seq_start" && FillInts(view, start);
                }),
       /*seed=*/1, precision,
       [precision](const std::string& name, const Sources&) {
         // With one key they are what dot(dout, v) and dot(dout, o), which are
         // equal, differ by after rounding: sums over a head, by the scale.
         const bool of_scores = name == "d q" || name == "d k";
         return precision == Precision::kBf16 && of_scores ? 1. : 0.;
       }});
}

TEST_P(PackedTest, AgreesWithTheCpu) {
  const Packed& p = GetParam();
  const double t = std::accumulate(p.lengths.begin(), p.lengths.end(), 0);
  // Scores are sums over a head, results over keys and query heads.
  EXPECT_THAT(ComparePacked(p, 64. + 2. * p.key_dim + t, Precision::kF32),
              IsOk());
}

// In the tensor cores: queries, keys, values and what the softmax gives are
// rounded, a few times an element; scores of some units lose as many of its
// last bits.
TEST_P(PackedTest, RoundedOperandsStayWithinTheirRounding) {
  EXPECT_THAT(ComparePacked(GetParam(), /*roundings=*/8, Precision::kBf16),
              IsOk());
}

// Lengths about the 16 rows and the 32 keys of a tile (and the 128 of a tile in
// the tensor cores), sequences that share a tile, empty ones; head widths of
// each template and odd ones.
INSTANTIATE_TEST_SUITE_P(
    Cases, PackedTest,
    testing::Values(
        Packed{"one_token", {1}, 1, 1, 4, 4, 0},
        Packed{"no_tokens", {0}, 2, 1, 8, 8, 0},
        Packed{"many_short", {3, 0, 15, 1, 16, 17}, 4, 2, 32, 32, 0},
        Packed{"tiles", {31, 32, 33, 64, 65}, 4, 2, 32, 32, 0},
        Packed{"odd_heads", {40, 7}, 3, 3, 33, 13, 0},
        Packed{"wide_keys", {70}, 6, 2, 96, 64, 0},
        Packed{"latent", {50, 20}, 2, 2, 192, 128, 0},
        Packed{"latent_tiles", {63, 64, 65, 129, 300}, 2, 1, 192, 128, 0},
        Packed{"latent_window", {260}, 2, 2, 136, 128, 70},
        Packed{"widest", {35}, 2, 1, 256, 256, 0},
        Packed{"window", {100, 9}, 4, 2, 32, 32, 10},
        Packed{"window_of_1", {40}, 2, 1, 16, 16, 1},
        Packed{"long", {700}, 2, 1, 64, 64, 0},
        Packed{"rows_of_128", {127, 128, 129}, 2, 1, 128, 128, 0},
        Packed{"long_window", {400}, 2, 1, 64, 64, 130},
        Packed{"pairs_of_tiles", {620}, 80, 40, 24, 16, 0},
        Packed{"even_pairs", {470}, 68, 68, 16, 16, 0},
        Packed{"pairs_of_one_tile", {90}, 140, 140, 16, 16, 0},
        Packed{"more_tiles_than_processors",
               {20, 130, 1, 9, 140},
               60,
               12,
               16,
               16,
               0}),
    [](const testing::TestParamInfo<Packed>& info) {
      return std::string(info.param.name);
    });

TEST(PackedErrorTest, SequencesThatEndEarlyAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  EXPECT_THAT(CompareBackends(
                  [](GraphBuilder& b) {
                    const Dim t = Static(9);
                    b.Output("o", Attention(b, FloatInput(b, "q", t, 8),
                                            FloatInput(b, "k", t, 8),
                                            FloatInput(b, "v", t, 8),
                                            b.Input("seq_start", DType::kI32,
                                                    {Static(3)}),
                                            AttentionOptions()));
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/1,
                   [](const std::string& name, const TensorView& view) {
                     return name == "seq_start" && FillInts(view, {0, 3, 8});
                   }}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

// --- Caches ---

struct Cached {
  const char* name;
  std::vector<int32_t> positions;  // Of each token, each its own sequence.
  int64_t heads, kv_heads, key_dim, value_dim, window;
};
using CachedTest = DeviceTest<Cached>;

constexpr int64_t kBlockSize = 4;

// The blocks of a sequence, scattered over the cache.
int32_t BlockOf(int64_t sequence, int64_t i, int64_t sequences) {
  return static_cast<int32_t>(i * sequences + sequence);
}

TEST_P(CachedTest, AgreesWithTheCpu) {
  const Cached& p = GetParam();
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t longest =
      1 + *std::max_element(p.positions.begin(), p.positions.end());
  const int64_t max_blocks = (longest + kBlockSize - 1) / kBlockSize;
  const int64_t slots = tokens * max_blocks * kBlockSize;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (name == "position") return FillInts(view, p.positions);
    std::vector<int32_t> values;
    if (name == "first_row") {
      for (int64_t i = 0; i < tokens; ++i) {
        values.push_back(static_cast<int32_t>(i * max_blocks * kBlockSize));
      }
    } else if (name == "sequence") {
      values.resize(tokens);
      std::iota(values.begin(), values.end(), 0);
    } else if (name == "row") {  // Written before it is read.
      values = RandomInts(1, 0, static_cast<int>(slots - 1), 3);
    } else if (name == "table") {
      for (int64_t s = 0; s < tokens; ++s) {
        for (int64_t i = 0; i < max_blocks; ++i) {
          values.push_back(BlockOf(s, i, tokens));
        }
      }
    } else {
      return false;
    }
    return FillInts(view, values);
  };
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const Dim t = RaggedRows(b, tokens);
            AttentionOptions options;
            options.num_heads = p.heads;
            options.num_kv_heads = p.kv_heads;
            options.scale = 1 / std::sqrt(p.key_dim);
            options.window = p.window;
            const ValueId q = FloatInput(b, "q", t, p.heads * p.key_dim);
            const ValueId k =
                b.State("k", DType::kF32,
                        {Static(slots), Static(p.kv_heads * p.key_dim)});
            const ValueId v =
                b.State("v", DType::kF32,
                        {Static(slots), Static(p.kv_heads * p.value_dim)});
            CacheWrite(b, k,
                       FloatInput(b, "rows", Static(1), p.kv_heads * p.key_dim),
                       b.Input("row", DType::kI32, {Static(1)}));
            const ValueId position = b.Input("position", DType::kI32, {t});
            b.Output("cached",
                     CachedAttention(b, q, k, v,
                                     b.Input("first_row", DType::kI32, {t}),
                                     position, options));
            Pages pages;
            pages.block_size = kBlockSize;
            pages.block_table = b.Input("table", DType::kI32,
                                        {Static(tokens), Static(max_blocks)});
            pages.sequence = b.Input("sequence", DType::kI32, {t});
            b.Output("paged",
                     PagedAttention(b, q, k, v, pages, position, options));
            return std::vector<ValueId>{};
          },
          {/*roundings=*/64. + 2. * p.key_dim + longest,
           WithRows(tokens, fill)}),
      IsOk());
}

// Latents: one KV head, and the values are the keys' first columns.
TEST_P(CachedTest, LatentsAgreeWithTheCpu) {
  const Cached& p = GetParam();
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t longest =
      1 + *std::max_element(p.positions.begin(), p.positions.end());
  const int64_t max_blocks = (longest + kBlockSize - 1) / kBlockSize;
  const LatentHeads heads = {p.heads, /*nope=*/12, /*rope=*/8, /*value=*/10};
  const int64_t rank = p.value_dim;
  const int64_t kv_rows = heads.num_heads * (heads.nope + heads.value);
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const Dim t = RaggedRows(b, tokens);
            const ValueId kv_b =
                b.Parameter("kv_b", {Static(kv_rows), Static(rank)});
            const ValueId q = FloatInput(
                b, "q", t, heads.num_heads * (heads.nope + heads.rope));
            CachedLatentOptions options;
            options.num_heads = heads.num_heads;
            options.rank = rank;
            options.scale = 0.05;
            options.window = p.window;
            const ValueId cache = b.State(
                "cache", DType::kF32,
                {Static(max_blocks * kBlockSize), Static(rank + heads.rope)});
            const ValueId query = LatentQuery(b, q, kv_b, heads);
            const ValueId position = b.Input("position", DType::kI32, {t});
            const ValueId o = CachedLatentAttention(
                b, query, cache, b.Input("first_row", DType::kI32, {t}),
                position, options);
            b.Output("o", LatentOutput(b, o, kv_b, heads));
            Pages pages;
            pages.block_size = kBlockSize;
            pages.block_table =
                b.Input("table", DType::kI32, {Static(1), Static(max_blocks)});
            pages.sequence = b.Input("sequence", DType::kI32, {t});
            b.Output("paged", PagedLatentAttention(b, query, cache, pages,
                                                   position, options));
            const LatentKv kv = LatentKeyValue(
                b,
                FloatInput(b, "kv", t,
                           heads.num_heads * (heads.nope + heads.value)),
                FloatInput(b, "k_rope", t, heads.rope), heads.num_heads,
                heads.nope, heads.value);
            return std::vector<ValueId>{kv.k, kv.v};
          },
          // Scores are sums over sums: nope, then rank and rope.
          {/*roundings=*/128. + 4. * rank + longest,
           WithRows(tokens,
                    [&](const std::string& name, const TensorView& view) {
                      if (name == "position") {
                        return FillInts(view, p.positions);
                      }
                      if (name != "table") return false;
                      // One sequence, whose last block lies first.
                      std::vector<int32_t> blocks(max_blocks);
                      std::iota(blocks.rbegin(), blocks.rend(), 0);
                      return FillInts(view, blocks);
                    })}),
      IsOk());
}

// Few heads to a KV head and many, positions about tiles and splits.
INSTANTIATE_TEST_SUITE_P(
    Cases, CachedTest,
    testing::Values(Cached{"first_token", {0}, 2, 1, 16, 16, 0},
                    Cached{"tiles", {30, 31, 32, 63, 64}, 4, 2, 32, 32, 0},
                    Cached{"many_heads", {5, 77}, 20, 1, 24, 33, 0},
                    Cached{"splits", {1500}, 8, 2, 64, 64, 0},
                    Cached{"window", {100, 5}, 4, 4, 16, 16, 9},
                    Cached{"wide", {70, 3}, 6, 2, 128, 256, 0},
                    Cached{"widest", {40}, 17, 1, 200, 512, 0},
                    Cached{"vectors", {0, 63, 64, 65, 700}, 16, 2, 128, 128, 0},
                    Cached{"vectors_of_1", {7, 300}, 2, 2, 64, 64, 0},
                    Cached{"vectors_of_3", {90, 31}, 6, 2, 32, 32, 0},
                    Cached{"vectors_window", {500, 3}, 8, 4, 64, 64, 70}),
    [](const testing::TestParamInfo<Cached>& info) {
      return std::string(info.param.name);
    });

TEST(CachedErrorTest, RowsOutsideTheCacheAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  EXPECT_THAT(CompareBackends(
                  [](GraphBuilder& b) {
                    const Dim t = Static(1);
                    const ValueId cache =
                        b.State("k", DType::kF32, {Static(8), Static(8)});
                    b.Output("o", CachedAttention(
                                      b, FloatInput(b, "q", t, 8), cache, cache,
                                      b.Input("first_row", DType::kI32, {t}),
                                      b.Input("position", DType::kI32, {t}),
                                      AttentionOptions()));
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/1,
                   [](const std::string& name, const TensorView& view) {
                     return name == "position" && FillInts(view, {8});
                   }}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace strata::gpu
