#include "core/cpu/attend/full_attention.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/full_attention.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHeads = 4, kKvHeads = 2, kKeyDim = 12, kValueDim = 8;
constexpr double kScale = 0.3;

absl::StatusOr<std::vector<double>> RunFull(DType dtype, int num_threads,
                                            const std::vector<int>& start) {
  const auto result = RunGraph(
      dtype, num_threads, {RegisterFullAttentionKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(400, b.Input("n", DType::kI32, {}));
        const auto input = [&](const char* name, int64_t width) {
          return b.Input(name, dtype, {t, Static(width)});
        };
        b.Output("o", FullAttention(
                          b, input("q", kHeads * kKeyDim),
                          input("k", kKvHeads * kKeyDim),
                          input("v", kKvHeads * kValueDim),
                          b.Input("start", DType::kI32,
                                  {Static(static_cast<int64_t>(start.size()))}),
                          {kHeads, kKvHeads, kScale}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(start.back())}, view);
        if (name == "start") {
          Copy(std::vector<double>(start.begin(), start.end()), view);
        }
        if (name == "q") Copy(Normal(400 * kHeads * kKeyDim, 1), view);
        if (name == "k") Copy(Normal(400 * kKvHeads * kKeyDim, 2), view);
        if (name == "v") Copy(Normal(400 * kKvHeads * kValueDim, 3), view);
      });
  if (!result.ok()) return result.status();
  return result->at("o");
}

std::vector<double> Plain(const std::vector<int>& start) {
  const std::vector<double> q = Normal(400 * kHeads * kKeyDim, 1);
  const std::vector<double> k = Normal(400 * kKvHeads * kKeyDim, 2);
  const std::vector<double> v = Normal(400 * kKvHeads * kValueDim, 3);
  std::vector<double> o(start.back() * kHeads * kValueDim);
  for (size_t s = 0; s + 1 < start.size(); ++s) {
    for (int i = start[s]; i < start[s + 1]; ++i) {
      for (int64_t head = 0; head < kHeads; ++head) {
        const int64_t kv_head = head / (kHeads / kKvHeads);
        double sum = 0;
        std::vector<double> p;
        for (int j = start[s]; j < start[s + 1]; ++j) {
          double score = 0;
          for (int64_t c = 0; c < kKeyDim; ++c) {
            score += q[(i * kHeads + head) * kKeyDim + c] *
                     k[(j * kKvHeads + kv_head) * kKeyDim + c];
          }
          p.push_back(std::exp(kScale * score));
          sum += p.back();
        }
        for (int j = start[s]; j < start[s + 1]; ++j) {
          for (int64_t c = 0; c < kValueDim; ++c) {
            o[(i * kHeads + head) * kValueDim + c] +=
                p[j - start[s]] / sum *
                v[(j * kKvHeads + kv_head) * kValueDim + c];
          }
        }
      }
    }
  }
  return o;
}

// Both sides of a block of queries (32) and of keys (128), no rows, none of a
// sequence.
TEST(FullAttentionTest, AttendsToTheWholeSequence) {
  for (const std::vector<int>& start : std::vector<std::vector<int>>{
           {0, 0}, {0, 1}, {0, 31, 63}, {0, 32, 32, 65}, {0, 127, 256, 385}}) {
    const auto exact = RunFull(DType::kF64, 2, start);
    const auto one = RunFull(DType::kF32, 1, start);
    const auto three = RunFull(DType::kF32, 3, start);
    ASSERT_THAT(exact, IsOk());
    ASSERT_THAT(one, IsOk());
    EXPECT_EQ(*one, *three);
    const std::vector<double> want = Plain(start);
    ASSERT_EQ(exact->size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR((*exact)[i], want[i], 1e-13);
      // Scores are sums of 12 products of up to 16: off by 12 * 16 * 2^-24
      // times the scale, 4e-6; means of values up to 4 by twice that share.
      ASSERT_NEAR((*one)[i], want[i], 3e-5);
    }
  }
}

TEST(FullAttentionTest, RejectsSequencesThatAreNotTheRows) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(RunFull(DType::kF32, 1, {1, 5}),
              StatusIs(kInvalid, HasSubstr("runs from 1 to 5; want 0 to 5")));
  EXPECT_THAT(RunFull(DType::kF32, 1, {0, 7, 5}),
              StatusIs(kInvalid, HasSubstr("sequence 1 has rows 7 to 5")));
}

absl::Status Build(int64_t heads, int64_t k_width, int64_t v_width,
                   double scale) {
  GraphBuilder b;
  const auto input = [&](const char* name, int64_t width) {
    return b.Input(name, DType::kF32, {Static(5), Static(width)});
  };
  FullAttention(b, input("q", 32), input("k", k_width), input("v", v_width),
                b.Input("start", DType::kI32, {Static(2)}), {heads, 2, scale});
  return b.Finish().status();
}

TEST(FullAttentionTest, RejectsOperandsThatDoNotFit) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Build(4, 16, 8, 1), IsOk());
  EXPECT_THAT(Build(3, 16, 8, 1), StatusIs(kInvalid, HasSubstr("multiple")));
  EXPECT_THAT(Build(4, 15, 8, 1), StatusIs(kInvalid, HasSubstr("k is")));
  EXPECT_THAT(Build(4, 16, 7, 1), StatusIs(kInvalid, HasSubstr("v has 7")));
  EXPECT_THAT(Build(4, 16, 8, 0), StatusIs(kInvalid, HasSubstr("scale is 0")));
}

}  // namespace
}  // namespace strata
