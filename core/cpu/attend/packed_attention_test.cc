#include "core/cpu/attend/packed_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/ops/packed_cache.h"
#include "core/quant/cache_format.h"
#include "core/quant/log_levels.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHeads = 6, kKeyDim = 40, kValueDim = 33, kKvHeads = 2;
constexpr int64_t kBlockSize = 16, kBlocks = 84, kSequences = 4;
constexpr int64_t kMaxBlocks = 20, kSlots = kBlocks * kBlockSize;
constexpr int64_t kLongest = kMaxBlocks * kBlockSize;
constexpr double kScale = 0.2;

struct Token {
  int sequence;
  int position;
};

struct Case {
  CacheOptions cache;
  bool latent = false;  // Values are the first kValueDim columns of the keys.
  int64_t window = 0;
  bool paged = true;     // Else sequence s begins at row s * kLongest.
  bool shuffled = true;  // Blocks in a random order, or one after another.

  int64_t kv_heads() const { return latent ? 1 : kKvHeads; }
  int64_t k_width() const { return kv_heads() * kKeyDim; }
  int64_t v_width() const { return latent ? k_width() : kKvHeads * kValueDim; }
};

std::vector<int> Table(const Case& c) {
  std::vector<int> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::mt19937 rng(5);
  if (c.shuffled && c.paged) std::shuffle(blocks.begin(), blocks.end(), rng);
  blocks.resize(kSequences * kMaxBlocks);
  return blocks;
}

int64_t Slot(const std::vector<int>& table, int64_t s, int64_t i) {
  return table[s * kMaxBlocks + i / kBlockSize] * kBlockSize + i % kBlockSize;
}

// What token `i` of a sequence has: keys (0), values (1).
const std::vector<double>& Row(int what, int64_t width, int64_t s, int64_t i) {
  static auto& rows =
      *new std::map<std::pair<int64_t, int64_t>, std::vector<double>>();
  const int64_t stream = 1'000'000 * (what + 1) + 1000 * s + i;
  std::vector<double>& row = rows[{width, stream}];
  if (row.empty()) row = Normal(width, stream);
  return row;
}
std::vector<double> Query(const Token& token) {
  return Normal(kHeads * kKeyDim,
                7'000'000 + 1000 * token.sequence + token.position);
}

// All keys and values written by PackedCacheWrite, then attention.
absl::StatusOr<std::vector<double>> RunPacked(int num_threads, const Case& c,
                                              const std::vector<Token>& tokens,
                                              double bad_value = 0) {
  const std::vector<int> table = Table(c);
  constexpr int64_t kRows = kSequences * kLongest;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    std::vector<double> x;
    if (name == "n") x = {static_cast<double>(tokens.size())};
    if (name == "table") x.assign(table.begin(), table.end());
    if (name == "k" || name == "v") {  // What nobody may read.
      x.assign(view.num_elements(), 0xFF);
    }
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t s = i / kLongest, at = i % kLongest;
      if (name == "row") x.push_back(Slot(table, s, at));
      if (name != "k_rows" && name != "v_rows") continue;
      const int what = name == "v_rows" ? 1 : 0;
      std::vector<double> row =
          Row(what, what == 0 ? c.k_width() : c.v_width(), s, at);
      if (what == 1 && bad_value != 0 && at == 3) row[0] = bad_value;
      x.insert(x.end(), row.begin(), row.end());
    }
    for (const Token& token : tokens) {
      if (name == "where") {
        x.push_back(token.sequence * (c.paged ? 1 : kLongest));
      }
      if (name == "position") x.push_back(token.position);
      if (name == "q") {
        const std::vector<double> row = Query(token);
        x.insert(x.end(), row.begin(), row.end());
      }
    }
    Copy(x, view);
  };
  const auto result = RunGraph(
      DType::kF32, num_threads, {RegisterPackedAttentionKernels},
      [&](GraphBuilder& b) {
        const ValueId row = b.Input("row", DType::kI32, {Static(kRows)});
        const auto cache = [&](const std::string& name, int64_t width) {
          const ValueId state = b.State(
              name, DType::kU8,
              {Static(kSlots),
               Static(CacheRowBytes(c.cache.format, c.kv_heads(), width))});
          PackedCacheWrite(b, state,
                           b.Input(name + "_rows", DType::kF32,
                                   {Static(kRows), Static(width)}),
                           row, c.kv_heads(), c.cache);
          return state;
        };
        const ValueId k = cache("k", c.k_width());
        const ValueId v = c.latent ? kNone : cache("v", c.v_width());
        const Dim t = Ragged(300, b.Input("n", DType::kI32, {}));
        PackedAttentionOptions options;
        options.heads = {kHeads, c.kv_heads(), kScale, c.window};
        options.value_dim = kValueDim;
        options.block_size = kBlockSize;
        options.cache = c.cache;
        const ValueId blocks =
            c.paged ? b.Input("table", DType::kI32,
                              {Static(kSequences), Static(kMaxBlocks)})
                    : kNone;
        b.Output(
            "o",
            PackedAttention(
                b, b.Input("q", DType::kF32, {t, Static(kHeads * kKeyDim)}), k,
                v, blocks, b.Input("where", DType::kI32, {t}),
                b.Input("position", DType::kI32, {t}), options));
      },
      fill);
  if (!result.ok()) return result.status();
  return result->at("o");
}

// A row of the cache in numbers.
std::vector<double> Stored(const Case& c, int what, int64_t s, int64_t i) {
  const int64_t width = what == 0 ? c.k_width() : c.v_width();
  const std::vector<double> row = Row(what, width, s, i);
  const int64_t columns = width / c.kv_heads();
  std::vector<uint8_t> packed(CacheHeadBytes(c.cache.format, columns));
  std::vector<float> head(columns);
  std::vector<double> stored;
  for (int64_t h = 0; h < c.kv_heads(); ++h) {
    const std::vector<float> x(row.begin() + h * columns,
                               row.begin() + (h + 1) * columns);
    PackCacheHead(c.cache.format, c.cache.attention_bits > 0, x.data(), columns,
                  packed.data());
    UnpackCacheHead(c.cache.format, packed.data(), columns, head.data());
    stored.insert(stored.end(), head.begin(), head.end());
  }
  return stored;
}

// Exact attention over what the cache stands for; `range` gets the range of
// the values of each column that the token sees.
std::vector<double> Plain(const Case& c, const Token& token,
                          std::vector<double>& range) {
  std::vector<double> o(kHeads * kValueDim);
  range.assign(o.size(), 0);
  const std::vector<double> q = Query(token);
  const int first =
      c.window == 0 ? 0 : std::max<int>(0, token.position + 1 - c.window);
  std::vector<std::vector<double>> k, v;
  for (int i = first; i <= token.position; ++i) {
    k.push_back(Stored(c, 0, token.sequence, i));
    v.push_back(c.latent ? k.back() : Stored(c, 1, token.sequence, i));
  }
  for (int64_t head = 0; head < kHeads; ++head) {
    const int64_t kv_head = head / (kHeads / c.kv_heads());
    std::vector<double> p(k.size());
    double sum = 0;
    for (size_t i = 0; i < k.size(); ++i) {
      double score = 0;
      for (int64_t j = 0; j < kKeyDim; ++j) {
        score += q[head * kKeyDim + j] * k[i][kv_head * kKeyDim + j];
      }
      sum += p[i] = std::exp(kScale * score);
    }
    const int64_t v_dim = c.v_width() / c.kv_heads();
    for (int64_t j = 0; j < kValueDim; ++j) {
      double least = 1e30, most = -1e30;
      for (size_t i = 0; i < k.size(); ++i) {
        const double value = v[i][kv_head * v_dim + j];
        o[head * kValueDim + j] += p[i] / sum * value;
        least = std::min(least, value);
        most = std::max(most, value);
      }
      range[head * kValueDim + j] = most - least;
    }
  }
  return o;
}

std::vector<Token> Stretch(int sequence, int position, int count) {
  std::vector<Token> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back({sequence, position + i});
  return tokens;
}

// Both sides of a run and of a block (16), of a chunk (32), and of the sums
// that 16 bits hold (256).
std::vector<std::vector<Token>> Batches() {
  std::vector<Token> mixed = Stretch(1, 30, 19);
  mixed.push_back({0, 100});
  mixed.push_back({2, 0});
  for (const Token& token : Stretch(3, 14, 5)) mixed.push_back(token);
  return {{},
          {{3, 0}},
          {{0, 15}, {1, 16}, {2, 31}, {3, 32}},
          {{0, 255}, {1, 256}, {2, 319}},
          Stretch(0, 0, 16),
          Stretch(0, 0, 17),
          mixed};
}

std::vector<Case> Cases(int attention_bits) {
  std::vector<Case> cases;
  for (const CacheFormat format :
       {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
    if (attention_bits > 0 && format == CacheFormat::kBF16) continue;
    const CacheOptions cache = {format, attention_bits};
    cases.push_back({cache, false, 0, true});
    cases.push_back({cache, true, 0, true});
    cases.push_back({cache, false, 20, true});
    cases.push_back({cache, false, 0, false});
  }
  return cases;
}

TEST(PackedAttentionTest, AttendsToWhatTheCacheStandsFor) {
  for (const Case& c : Cases(/*attention_bits=*/0)) {
    for (const std::vector<Token>& tokens : Batches()) {
      SCOPED_TRACE(ToText(c.cache.format));
      const auto one = RunPacked(1, c, tokens);
      const auto three = RunPacked(3, c, tokens);
      ASSERT_THAT(one, IsOk());
      ASSERT_THAT(three, IsOk());
      EXPECT_EQ(*one, *three);
      for (size_t i = 0; i < tokens.size(); ++i) {
        std::vector<double> range;
        const std::vector<double> want = Plain(c, tokens[i], range);
        for (size_t j = 0; j < want.size(); ++j) {
          // A score is 40 products of a size of 4 or less, so off by 40 * 4 *
          // 2^-24 = 1e-5 at most, times the scale 0.2; a mean of values, of up
          // to 4, by twice that share and its own roundings.
          ASSERT_NEAR((*one)[i * want.size() + j], want[j], 2e-5);
        }
      }
    }
  }
}

TEST(PackedAttentionTest, KeepsMeansInPowersOfTwoWithinTheirBound) {
  for (const int bits : {4, 5, 6}) {
    for (const Case& c : Cases(bits)) {
      for (const std::vector<Token>& tokens : Batches()) {
        SCOPED_TRACE(ToText(c.cache.format));
        const auto one = RunPacked(1, c, tokens);
        ASSERT_THAT(one, IsOk());
        EXPECT_EQ(*one, *RunPacked(3, c, tokens));
        for (size_t i = 0; i < tokens.size(); ++i) {
          std::vector<double> range;
          const std::vector<double> want = Plain(c, tokens[i], range);
          for (size_t j = 0; j < want.size(); ++j) {
            // Of up to 320 tokens each may be dropped, at 2^-15.5 of the
            // largest in probability, or in the largest value of its group
            // (of up to 5, in a range of at least as much for long texts).
            const double dropped = (tokens[i].position + 1) * 5 * 4.4e-5;
            ASSERT_NEAR(
                (*one)[i * want.size() + j], want[j],
                LogLevels(bits).MaxMeanError() * range[j] + dropped + 2e-5);
          }
        }
      }
    }
  }
}

// One token has nothing to be rounded against.
TEST(PackedAttentionTest, GivesTheOnlyValueAsItIs) {
  for (const Case& c : Cases(/*attention_bits=*/4)) {
    const auto o = RunPacked(1, c, {{2, 0}});
    ASSERT_THAT(o, IsOk());
    std::vector<double> range;
    EXPECT_EQ(*o, Plain(c, {2, 0}, range));
  }
}

TEST(PackedAttentionTest, ATokenIsTheSameBitForBitInAnyBatchAndPlace) {
  for (const int bits : {0, 4}) {
    for (Case c : Cases(bits)) {
      for (const std::vector<Token>& tokens : Batches()) {
        c.shuffled = true;
        const auto batch = RunPacked(2, c, tokens);
        ASSERT_THAT(batch, IsOk());
        c.shuffled = false;
        for (size_t i = 0; i < tokens.size(); i += 7) {
          const auto alone = RunPacked(1, c, {tokens[i]});
          ASSERT_THAT(alone, IsOk());
          const auto first = batch->begin() + i * alone->size();
          ASSERT_EQ(*alone, std::vector<double>(first, first + alone->size()))
              << "token " << i << " of " << tokens.size();
        }
      }
    }
  }
}

TEST(PackedAttentionTest, MakesNoNumberOfANaN) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const int bits : {0, 4}) {
    const Case c = {{CacheFormat::kInt8, bits}};
    const auto before = RunPacked(1, c, {{0, 2}}, nan);
    const auto after = RunPacked(1, c, {{0, 3}}, nan);
    ASSERT_THAT(before, IsOk());
    ASSERT_THAT(after, IsOk());
    // Values of the first group of the first KV head.
    EXPECT_TRUE(std::isfinite((*before)[0]));
    EXPECT_FALSE(std::isfinite((*after)[0]));
    EXPECT_TRUE(std::isfinite((*after)[32]));
    EXPECT_TRUE(std::isfinite((*after)[3 * kValueDim]));
  }
}

TEST(PackedAttentionTest, RejectsWhatIsNotInTheTableOrTheCache) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const Case c = {{CacheFormat::kInt8, 0}};
  EXPECT_THAT(RunPacked(1, c, {{0, 1}, {4, 0}}),
              StatusIs(kInvalid, HasSubstr("token 1 is at position 0 of "
                                           "sequence 4; want 0 to 319 of 0")));
  EXPECT_THAT(RunPacked(1, c, {{0, 320}}),
              StatusIs(kInvalid, HasSubstr("position 320")));
  Case in_one_piece = c;
  in_one_piece.paged = false;
  EXPECT_THAT(RunPacked(1, in_one_piece, {{0, -1}}),
              StatusIs(kInvalid, HasSubstr("position -1 from cache row 0")));
}

// A graph whose operands are what a test leaves of good ones.
struct Operands {
  int64_t heads = 4, kv_heads = 2, q_width = 32;
  int64_t k_bytes = 68, v_bytes = 68, slots = 32, block_size = 16;
  double scale = 1;
  int attention_bits = 0;
};
absl::Status Build(const Operands& x) {
  GraphBuilder b;
  const Dim t = Static(3);
  PackedAttentionOptions options;
  options.heads = {x.heads, x.kv_heads, x.scale, 0};
  options.value_dim = 4;
  options.block_size = x.block_size;
  options.cache = {CacheFormat::kInt8, x.attention_bits};
  PackedAttention(
      b, b.Input("q", DType::kF32, {t, Static(x.q_width)}),
      b.State("k", DType::kU8, {Static(x.slots), Static(x.k_bytes)}),
      b.State("v", DType::kU8, {Static(x.slots), Static(x.v_bytes)}),
      b.Input("table", DType::kI32, {Static(2), Static(2)}),
      b.Input("where", DType::kI32, {t}), b.Input("position", DType::kI32, {t}),
      options);
  return b.Finish().status();
}

TEST(PackedAttentionTest, RejectsOperandsThatDoNotFit) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Build({}), IsOk());
  Operands x;
  x.kv_heads = 3;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("multiple of")));
  x = {};
  x.q_width = 33;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("33 columns")));
  x = {};
  x.k_bytes = 64;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("want rows of 68 bytes")));
  x = {};
  x.v_bytes = 34;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("v_cache")));
  x = {};
  x.slots = 33;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("blocks of 16")));
  x = {};
  x.scale = 0;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("scale is 0")));
  x = {};
  x.attention_bits = 9;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("have 9 bits")));
}

}  // namespace
}  // namespace strata
