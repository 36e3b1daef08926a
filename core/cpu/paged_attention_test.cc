#include "core/cpu/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/paged_attention.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHeads = 6, kKeyDim = 20, kValueDim = 12, kKvHeads = 2;
constexpr int64_t kBlockSize = 16, kBlocks = 40, kSequences = 4;
constexpr int64_t kMaxBlocks = 10, kSlots = kBlocks * kBlockSize;
constexpr double kScale = 0.2;

struct Token {
  int sequence;
  int position;
};

struct Case {
  bool latent = false;  // Values are the first kValueDim columns of the keys.
  int64_t window = 0;
  // Blocks in a random order, or one after another.
  bool shuffled = true;

  int64_t kv_heads() const { return latent ? 1 : kKvHeads; }
};

// The blocks of all sequences, no two the same.
std::vector<int> Table(const Case& c) {
  std::vector<int> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::mt19937 rng(5);
  if (c.shuffled) std::shuffle(blocks.begin(), blocks.end(), rng);
  blocks.resize(kSequences * kMaxBlocks);
  return blocks;
}

// What token `position` of a sequence has in the cache: the same wherever it
// lies.
const std::vector<double>& Row(int sequence, int position, int64_t width,
                               int seed) {
  static auto& rows =
      *new std::map<std::pair<int64_t, int>, std::vector<double>>();
  const int stream = seed + 1000 * sequence + position;
  std::vector<double>& row = rows[{width, stream}];
  if (row.empty()) row = Normal(width, stream);
  return row;
}
std::vector<double> Query(const Token& token) {
  return Normal(kHeads * kKeyDim,
                7'000'000 + 1000 * token.sequence + token.position);
}

absl::StatusOr<std::vector<double>> RunPaged(DType dtype, int num_threads,
                                             const Case& c,
                                             const std::vector<Token>& tokens) {
  const int64_t k_width = c.kv_heads() * kKeyDim;
  const int64_t v_width = c.kv_heads() * kValueDim;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    std::vector<double> x;
    if (name == "n") x = {static_cast<double>(tokens.size())};
    if (name == "table") {
      const std::vector<int> table = Table(c);
      x.assign(table.begin(), table.end());
    }
    if (name == "k" || name == "v") {
      const int64_t width = name == "k" ? k_width : v_width;
      const int seed = name == "k" ? 1'000'000 : 2'000'000;
      x.assign(kSlots * width, 1e30);  // What nobody may read.
      const std::vector<int> table = Table(c);
      for (int s = 0; s < kSequences; ++s) {
        for (int i = 0; i < kMaxBlocks * kBlockSize; ++i) {
          const std::vector<double>& row = Row(s, i, width, seed);
          const int64_t slot =
              table[s * kMaxBlocks + i / kBlockSize] * kBlockSize +
              i % kBlockSize;
          std::copy(row.begin(), row.end(), x.begin() + slot * width);
        }
      }
    }
    for (const Token& token : tokens) {
      if (name == "sequence") x.push_back(token.sequence);
      if (name == "position") x.push_back(token.position);
      if (name == "q") {
        const std::vector<double> row = Query(token);
        x.insert(x.end(), row.begin(), row.end());
      }
    }
    Copy(x, view);
  };
  const auto result = RunGraph(
      dtype, num_threads, {RegisterPagedAttentionKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(300, b.Input("n", DType::kI32, {}));
        const ValueId q = b.Input("q", dtype, {t, Static(kHeads * kKeyDim)});
        const ValueId k =
            b.State("k", dtype, {Static(kSlots), Static(k_width)});
        Pages pages;
        pages.block_table = b.Input("table", DType::kI32,
                                    {Static(kSequences), Static(kMaxBlocks)});
        pages.sequence = b.Input("sequence", DType::kI32, {t});
        pages.block_size = kBlockSize;
        const ValueId position = b.Input("position", DType::kI32, {t});
        if (c.latent) {
          b.Output("o",
                   PagedLatentAttention(b, q, k, pages, position,
                                        {kHeads, kValueDim, kScale, c.window}));
          return;
        }
        const ValueId v =
            b.State("v", dtype, {Static(kSlots), Static(v_width)});
        b.Output("o", PagedAttention(b, q, k, v, pages, position,
                                     {kHeads, kKvHeads, kScale, c.window}));
      },
      fill);
  if (!result.ok()) return result.status();
  return result->at("o");
}

std::vector<double> Plain(const Case& c, const Token& token) {
  std::vector<double> o(kHeads * kValueDim);
  const std::vector<double> q = Query(token);
  const int first =
      c.window == 0 ? 0 : std::max<int>(0, token.position + 1 - c.window);
  for (int64_t head = 0; head < kHeads; ++head) {
    const int64_t kv_head = head / (kHeads / c.kv_heads());
    std::vector<double> p;
    double sum = 0;
    for (int i = first; i <= token.position; ++i) {
      const std::vector<double>& k =
          Row(token.sequence, i, c.kv_heads() * kKeyDim, 1'000'000);
      double score = 0;
      for (int64_t j = 0; j < kKeyDim; ++j) {
        score += q[head * kKeyDim + j] * k[kv_head * kKeyDim + j];
      }
      p.push_back(std::exp(kScale * score));
      sum += p.back();
    }
    for (int i = first; i <= token.position; ++i) {
      const std::vector<double>& v =
          c.latent ? Row(token.sequence, i, kKeyDim, 1'000'000)
                   : Row(token.sequence, i, kKvHeads * kValueDim, 2'000'000);
      for (int64_t j = 0; j < kValueDim; ++j) {
        o[head * kValueDim + j] +=
            p[i - first] / sum * v[kv_head * kValueDim + j];
      }
    }
  }
  return o;
}

std::vector<Token> Stretch(int sequence, int position, int count) {
  std::vector<Token> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back({sequence, position + i});
  return tokens;
}

// Prefills on both sides of a run (16) and of a block (16), single tokens, and
// all at once.
std::vector<std::vector<Token>> Batches() {
  std::vector<Token> mixed = Stretch(1, 30, 21);
  mixed.push_back({0, 100});
  mixed.push_back({2, 0});
  for (const Token& token : Stretch(3, 14, 5)) mixed.push_back(token);
  return {{},
          {{3, 0}},
          {{0, 15}, {1, 16}, {2, 17}, {3, 159}},
          Stretch(0, 0, 15),
          Stretch(0, 0, 16),
          Stretch(0, 0, 17),
          Stretch(2, 60, 100),
          mixed};
}

std::vector<Case> Cases() {
  return {{false, 0}, {false, 20}, {true, 0}, {true, 20}};
}

TEST(PagedAttentionTest, AttendsToTheTokensOfItsSequence) {
  for (const Case& c : Cases()) {
    for (const std::vector<Token>& tokens : Batches()) {
      SCOPED_TRACE(tokens.size());
      const auto exact = RunPaged(DType::kF64, 2, c, tokens);
      const auto one = RunPaged(DType::kF32, 1, c, tokens);
      const auto three = RunPaged(DType::kF32, 3, c, tokens);
      ASSERT_THAT(exact, IsOk());
      ASSERT_THAT(one, IsOk());
      ASSERT_THAT(three, IsOk());
      EXPECT_EQ(*one, *three);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const std::vector<double> want = Plain(c, tokens[i]);
        for (size_t j = 0; j < want.size(); ++j) {
          ASSERT_NEAR((*exact)[i * want.size() + j], want[j], 1e-13);
          ASSERT_NEAR((*one)[i * want.size() + j], want[j], 1e-5);
        }
      }
    }
  }
}

TEST(PagedAttentionTest, ATokenIsTheSameBitForBitInAnyBatchAndPlace) {
  for (Case c : Cases()) {
    for (const std::vector<Token>& tokens : Batches()) {
      c.shuffled = true;
      const auto batch = RunPaged(DType::kF32, 2, c, tokens);
      ASSERT_THAT(batch, IsOk());
      c.shuffled = false;
      for (size_t i = 0; i < tokens.size(); ++i) {
        const auto alone = RunPaged(DType::kF32, 1, c, {tokens[i]});
        ASSERT_THAT(alone, IsOk());
        const auto first = batch->begin() + i * alone->size();
        ASSERT_EQ(*alone, std::vector<double>(first, first + alone->size()))
            << "token " << i << " of " << tokens.size();
      }
    }
  }
}

TEST(PagedAttentionTest, RejectsWhatIsNotInTheTableOrTheCache) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(RunPaged(DType::kF32, 1, {}, {{0, 1}, {4, 0}}),
              StatusIs(kInvalid, HasSubstr("token 1 is at position 0 of "
                                           "sequence 4; want 0 to 159 of 0 to "
                                           "3")));
  EXPECT_THAT(RunPaged(DType::kF32, 1, {}, {{-1, 0}}),
              StatusIs(kInvalid, HasSubstr("sequence -1")));
  EXPECT_THAT(RunPaged(DType::kF32, 1, {}, {{0, 160}}),
              StatusIs(kInvalid, HasSubstr("position 160")));
  EXPECT_THAT(RunPaged(DType::kF32, 1, {}, {{0, -1}}),
              StatusIs(kInvalid, HasSubstr("position -1")));
}

// A graph whose operands are what `change` leaves of good ones.
struct Operands {
  int64_t heads = 4, kv_heads = 2, q_width = 32, k_width = 16, v_width = 8;
  int64_t slots = 32, block_size = 16, window = 0;
  double scale = 1;
};
absl::Status Build(const Operands& x) {
  GraphBuilder b;
  const Dim t = Static(3);
  Pages pages;
  pages.block_table = b.Input("table", DType::kI32, {Static(2), Static(2)});
  pages.sequence = b.Input("sequence", DType::kI32, {t});
  pages.block_size = x.block_size;
  PagedAttention(
      b, b.Input("q", DType::kF32, {t, Static(x.q_width)}),
      b.State("k", DType::kF32, {Static(x.slots), Static(x.k_width)}),
      b.State("v", DType::kF32, {Static(x.slots), Static(x.v_width)}), pages,
      b.Input("position", DType::kI32, {t}),
      {x.heads, x.kv_heads, x.scale, x.window});
  return b.Finish().status();
}

TEST(PagedAttentionTest, RejectsOperandsThatDoNotFit) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Build({}), IsOk());
  Operands x;
  x.kv_heads = 3;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("multiple of")));
  x = {};
  x.k_width = 12;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("2 heads of 8")));
  x = {};
  x.v_width = 7;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("2 heads of 3")));
  x = {};
  x.slots = 33;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("blocks of 16")));
  x = {};
  x.block_size = 0;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("block_size is 0")));
  x = {};
  x.window = -1;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("window -1")));
  x = {};
  x.scale = 0;
  EXPECT_THAT(Build(x), StatusIs(kInvalid, HasSubstr("scale is 0")));
}

}  // namespace
}  // namespace strata
