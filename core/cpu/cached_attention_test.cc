#include "core/cpu/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/attention.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

constexpr int64_t kHeads = 6, kKvHeads = 2, kKeyDim = 24, kValueDim = 16;
constexpr int64_t kSlots = 200;
constexpr double kScale = 0.2;

struct Token {
  double first_row, position;
};

// Attention of `tokens` to a random cache.
absl::StatusOr<RunResult> RunCached(DType dtype, int num_threads,
                                    const std::vector<Token>& tokens) {
  return RunGraph(
      dtype, num_threads, {RegisterAttentionKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(200, b.Input("n", DType::kI32, {}));
        const ValueId q = b.Input("q", dtype, {t, Static(kHeads * kKeyDim)});
        const ValueId k =
            b.State("k", dtype, {Static(kSlots), Static(kKvHeads * kKeyDim)});
        const ValueId v =
            b.State("v", dtype, {Static(kSlots), Static(kKvHeads * kValueDim)});
        const ValueId first_row = b.Input("first_row", DType::kI32, {t});
        const ValueId position = b.Input("position", DType::kI32, {t});
        b.Output("o", CachedAttention(b, q, k, v, first_row, position,
                                      {kHeads, kKvHeads, kScale}));
      },
      [&](const std::string& name, const TensorView& view) {
        const auto t = static_cast<int64_t>(tokens.size());
        std::vector<double> first_row, position;
        for (const Token& token : tokens) {
          first_row.push_back(token.first_row);
          position.push_back(token.position);
        }
        if (name == "n") Copy({static_cast<double>(t)}, view);
        if (name == "q") Copy(Normal(t * kHeads * kKeyDim, 1), view);
        if (name == "k") Copy(Normal(kSlots * kKvHeads * kKeyDim, 2), view);
        if (name == "v") Copy(Normal(kSlots * kKvHeads * kValueDim, 3), view);
        if (name == "first_row") Copy(first_row, view);
        if (name == "position") Copy(position, view);
      });
}

std::vector<double> PlainCached(const std::vector<Token>& tokens) {
  const auto t = static_cast<int64_t>(tokens.size());
  const std::vector<double> q = Normal(t * kHeads * kKeyDim, 1);
  const std::vector<double> k = Normal(kSlots * kKvHeads * kKeyDim, 2);
  const std::vector<double> v = Normal(kSlots * kKvHeads * kValueDim, 3);
  std::vector<double> o(t * kHeads * kValueDim);
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t head = 0; head < kHeads; ++head) {
      const int64_t kv_head = head / (kHeads / kKvHeads);
      std::vector<double> p;
      double sum = 0;
      for (int64_t r = 0; r <= tokens[i].position; ++r) {
        const int64_t slot = static_cast<int64_t>(tokens[i].first_row) + r;
        double score = 0;
        for (int64_t j = 0; j < kKeyDim; ++j) {
          score += q[(i * kHeads + head) * kKeyDim + j] *
                   k[(slot * kKvHeads + kv_head) * kKeyDim + j];
        }
        p.push_back(std::exp(kScale * score));
        sum += p.back();
      }
      for (size_t r = 0; r < p.size(); ++r) {
        const int64_t slot = static_cast<int64_t>(tokens[i].first_row) + r;
        for (int64_t j = 0; j < kValueDim; ++j) {
          o[(i * kHeads + head) * kValueDim + j] +=
              p[r] / sum * v[(slot * kKvHeads + kv_head) * kValueDim + j];
        }
      }
    }
  }
  return o;
}

// `count` tokens of one sequence from `position` on.
std::vector<Token> Stretch(double first_row, double position, int count) {
  std::vector<Token> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back({first_row, position + i});
  return tokens;
}

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_FALSE(std::isnan(got[i])) << i;
    worst = std::max(worst, std::abs(got[i] - want[i]));
  }
  EXPECT_LE(worst, tolerance);
}

TEST(CachedAttentionTest, AttendsToTheRowsOfItsSequence) {
  // No token, one, a batch that decodes, prefills on both sides of a block
  // (32), and both at once.
  std::vector<Token> mixed = Stretch(100, 10, 3);
  mixed.push_back({0, 40});
  mixed.push_back({0, 0});
  mixed.push_back({50, 1});
  for (const std::vector<Token>& tokens :
       {std::vector<Token>{},
        {{3, 0}},
        {{0, 9}, {20, 150}, {20, 30}, {199, 0}},
        Stretch(0, 0, 63),
        Stretch(5, 0, 64),
        Stretch(5, 7, 65),
        Stretch(30, 0, 130),
        mixed}) {
    SCOPED_TRACE(tokens.size());
    const std::vector<double> want = PlainCached(tokens);
    const auto exact = RunCached(DType::kF64, 2, tokens);
    const auto one = RunCached(DType::kF32, 1, tokens);
    const auto three = RunCached(DType::kF32, 3, tokens);
    ASSERT_THAT(exact, IsOk());
    ExpectNear(exact->at("o"), want, 1e-13);
    ASSERT_THAT(one, IsOk());
    ExpectNear(one->at("o"), want, 1e-5);
    ASSERT_THAT(three, IsOk());
    EXPECT_EQ(one->at("o"), three->at("o"));
  }
}

TEST(CachedAttentionTest, RejectsRowsOutsideTheCache) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(RunCached(DType::kF32, 1, {{0, 1}, {100, 100}}),
              StatusIs(kInvalid, HasSubstr("token 1 is at position 100 from "
                                           "cache row 100")));
  EXPECT_THAT(RunCached(DType::kF32, 1, {{-1, 1}}), StatusIs(kInvalid, _));
  EXPECT_THAT(RunCached(DType::kF32, 1, {{1, -1}}), StatusIs(kInvalid, _));
}

// A prompt written to the cache and attended from there gives what attention
// over the sequence gives.
TEST(CachedAttentionTest, AgreesWithAttentionOverTheSequence) {
  constexpr int64_t kTokens = 150, kFirst = 20;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const auto result = RunGraph(
        dtype, 2, {RegisterAttentionKernels},
        [&](GraphBuilder& b) {
          const Dim t = Static(kTokens);
          const AttentionOptions options = {kHeads, kKvHeads, kScale};
          const ValueId q = b.Input("q", dtype, {t, Static(kHeads * kKeyDim)});
          const ValueId k =
              b.Input("k", dtype, {t, Static(kKvHeads * kKeyDim)});
          const ValueId v =
              b.Input("v", dtype, {t, Static(kKvHeads * kValueDim)});
          const ValueId start = b.Input("seq_start", DType::kI32, {Static(2)});
          b.Output("full", Attention(b, q, k, v, start, options));

          const ValueId k_cache = b.State(
              "k_cache", dtype, {Static(kSlots), Static(kKvHeads * kKeyDim)});
          const ValueId v_cache = b.State(
              "v_cache", dtype, {Static(kSlots), Static(kKvHeads * kValueDim)});
          const ValueId row = b.Input("row", DType::kI32, {t});
          CacheWrite(b, k_cache, k, row);
          CacheWrite(b, v_cache, v, row);
          b.Output(
              "cached",
              CachedAttention(b, q, k_cache, v_cache,
                              b.Input("first_row", DType::kI32, {t}),
                              b.Input("position", DType::kI32, {t}), options));
        },
        [&](const std::string& name, const TensorView& view) {
          if (name.size() == 1) {
            Copy(Normal(view.num_elements(), static_cast<uint32_t>(name[0])),
                 view);
          }
          if (name == "seq_start") Copy({0, kTokens}, view);
          for (int32_t i = 0; i < kTokens; ++i) {
            if (name == "row") view.as<int32_t>()[i] = kFirst + i;
            if (name == "first_row") view.as<int32_t>()[i] = kFirst;
            if (name == "position") view.as<int32_t>()[i] = i;
          }
        });
    ASSERT_THAT(result, IsOk());
    ExpectNear(result->at("cached"), result->at("full"),
               dtype == DType::kF32 ? 1e-5 : 1e-13);
  }
}

TEST(CacheWriteTest, StoresRowsAndRejectsOthersThanThose) {
  const auto write = [](double second_row) {
    return RunGraph(
        DType::kF32, 1, {RegisterAttentionKernels},
        [](GraphBuilder& b) {
          CacheWrite(b, b.State("cache", DType::kF32, {Static(3), Static(2)}),
                     b.Input("rows", DType::kF32, {Static(2), Static(2)}),
                     b.Input("row", DType::kI32, {Static(2)}));
        },
        [&](const std::string& name, const TensorView& view) {
          if (name == "rows") Copy({1, 2, 3, 4}, view);
          if (name == "row") Copy({2, second_row}, view);
        });
  };

  const auto result = write(0);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->at("cache"), ::testing::ElementsAre(3, 4, 0, 0, 1, 2));
  for (const double row : {-1.0, 3.0}) {
    EXPECT_THAT(write(row), StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr("token 1 goes to cache row")));
  }
}

TEST(CopyCacheRowsTest, CopiesRowsAndRejectsOthersThanThose) {
  const auto copy = [](double from, double to) {
    return RunGraph(
        DType::kF32, 1, {RegisterAttentionKernels},
        [](GraphBuilder& b) {
          CopyCacheRows(b,
                        b.State("cache", DType::kF32, {Static(4), Static(2)}),
                        b.Input("from", DType::kI32, {Static(2)}),
                        b.Input("to", DType::kI32, {Static(2)}));
        },
        [&](const std::string& name, const TensorView& view) {
          if (name == "cache") Copy({1, 2, 3, 4, 5, 6, 7, 8}, view);
          if (name == "from") Copy({0, from}, view);
          if (name == "to") Copy({2, to}, view);
        });
  };

  const auto result = copy(1, 3);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->at("cache"),
              ::testing::ElementsAre(1, 2, 3, 4, 1, 2, 3, 4));
  for (const double row : {-1.0, 4.0}) {
    for (const auto& wrong : {copy(row, 3), copy(1, row)}) {
      EXPECT_THAT(wrong, StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("is to be copied; want 0 to 3")));
    }
  }
}

}  // namespace
}  // namespace strata
