#include "core/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

struct Case {
  int64_t num_heads, num_kv_heads, key_dim, value_dim;
  std::vector<double> lengths;  // Of the sequences.
  int64_t window = 0;

  int64_t t() const {
    return static_cast<int64_t>(
        std::accumulate(lengths.begin(), lengths.end(), 0.0));
  }
  double scale() const { return 1 / std::sqrt(key_dim); }
  AttentionOptions options() const {
    return {num_heads, num_kv_heads, scale(), window};
  }
  std::vector<double> seq_start() const {
    std::vector<double> start = {0};
    for (const double length : lengths) start.push_back(start.back() + length);
    return start;
  }
};

// Lengths on both sides of a block of queries (32), of keys (128) and of a
// piece of work (256), and sequences of no token.
std::vector<Case> Cases() {
  return {{1, 1, 1, 1, {1}},
          {2, 1, 8, 4, {0, 3, 0, 1, 5}},
          {4, 2, 16, 16, {31, 32, 33, 2}},
          {3, 3, 20, 12, {127, 128, 17}},
          {2, 1, 20, 40, {129}},
          {2, 2, 4, 8, {257, 10}},
          {6, 2, 32, 32, {0}},
          // Windows of one token, within a block, and across blocks of both.
          {2, 1, 8, 4, {33, 5}, 1},
          {4, 2, 16, 16, {31, 70}, 5},
          {2, 1, 20, 40, {290}, 130}};
}

constexpr int64_t kBound = 300;

struct Arrays {
  std::vector<double> q, k, v, dout;

  explicit Arrays(const Case& c)
      : q(Normal(c.t() * c.num_heads * c.key_dim, 1)),
        k(Normal(c.t() * c.num_kv_heads * c.key_dim, 2)),
        v(Normal(c.t() * c.num_kv_heads * c.value_dim, 3)),
        dout(Normal(c.t() * c.num_heads * c.value_dim, 4)) {}
};

// Attention and its gradients by the definition, a token and a head at a time.
struct PlainAttention {
  std::vector<double> o, lse, dq, dk, dv;

  PlainAttention(const Case& c, const Arrays& in)
      : o(in.dout.size()),
        lse(c.t() * c.num_heads),
        dq(in.q.size()),
        dk(in.k.size()),
        dv(in.v.size()) {
    const std::vector<double> start = c.seq_start();
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      for (auto i = static_cast<int64_t>(start[s]); i < start[s + 1]; ++i) {
        for (int64_t head = 0; head < c.num_heads; ++head) {
          Token(c, in, static_cast<int64_t>(start[s]), i, head);
        }
      }
    }
  }

  void Token(const Case& c, const Arrays& in, int64_t first, int64_t i,
             int64_t head) {
    const int64_t kv_head = head / (c.num_heads / c.num_kv_heads);
    const auto q_at = [&](int64_t j) {
      return (i * c.num_heads + head) * c.key_dim + j;
    };
    const auto o_at = [&](int64_t j) {
      return (i * c.num_heads + head) * c.value_dim + j;
    };
    const auto k_at = [&](int64_t row, int64_t j) {
      return (row * c.num_kv_heads + kv_head) * c.key_dim + j;
    };
    const auto v_at = [&](int64_t row, int64_t j) {
      return (row * c.num_kv_heads + kv_head) * c.value_dim + j;
    };
    if (c.window > 0) first = std::max(first, i - c.window + 1);
    std::vector<double> p(i - first + 1);
    double sum = 0;
    for (int64_t r = first; r <= i; ++r) {
      double score = 0;
      for (int64_t j = 0; j < c.key_dim; ++j) {
        score += in.q[q_at(j)] * in.k[k_at(r, j)];
      }
      p[r - first] = std::exp(c.scale() * score);
      sum += p[r - first];
    }
    lse[i * c.num_heads + head] = std::log(sum);
    double delta = 0;
    for (int64_t r = first; r <= i; ++r) {
      p[r - first] /= sum;
      for (int64_t j = 0; j < c.value_dim; ++j) {
        o[o_at(j)] += p[r - first] * in.v[v_at(r, j)];
      }
    }
    for (int64_t j = 0; j < c.value_dim; ++j) {
      delta += in.dout[o_at(j)] * o[o_at(j)];
    }
    for (int64_t r = first; r <= i; ++r) {
      double dp = 0;
      for (int64_t j = 0; j < c.value_dim; ++j) {
        dp += in.dout[o_at(j)] * in.v[v_at(r, j)];
        dv[v_at(r, j)] += p[r - first] * in.dout[o_at(j)];
      }
      const double ds = c.scale() * p[r - first] * (dp - delta);
      for (int64_t j = 0; j < c.key_dim; ++j) {
        dq[q_at(j)] += ds * in.k[k_at(r, j)];
        dk[k_at(r, j)] += ds * in.q[q_at(j)];
      }
    }
  }
};

absl::StatusOr<RunResult> RunAttention(DType dtype, int num_threads,
                                       const Case& c,
                                       const std::vector<double>& seq_start) {
  const Arrays in(c);
  return RunGraph(
      dtype, num_threads, {RegisterAttentionKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
        const Dim heads_k = Static(c.num_heads * c.key_dim);
        const Dim heads_v = Static(c.num_heads * c.value_dim);
        const ValueId q = b.Input("q", dtype, {t, heads_k});
        const ValueId k =
            b.Input("k", dtype, {t, Static(c.num_kv_heads * c.key_dim)});
        const ValueId v =
            b.Input("v", dtype, {t, Static(c.num_kv_heads * c.value_dim)});
        const ValueId dout = b.Input("dout", dtype, {t, heads_v});
        const auto num_starts = static_cast<int64_t>(seq_start.size());
        const ValueId start =
            b.Input("seq_start", DType::kI32, {Static(num_starts)});
        const Attrs attrs = {{"num_heads", c.num_heads},
                             {"num_kv_heads", c.num_kv_heads},
                             {"scale", c.scale()},
                             {"window", c.window}};
        const std::vector<ValueId> out =
            b.Add(kAttention, {q, k, v, start}, attrs);
        b.Output("o", out[0]);
        b.Output("lse", out[1]);
        const std::vector<ValueId> grads = b.Add(
            kAttentionGrad, {dout, q, k, v, out[0], out[1], start}, attrs);
        b.Output("dq", grads[0]);
        b.Output("dk", grads[1]);
        b.Output("dv", grads[2]);
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(c.t())}, view);
        if (name == "q") Copy(in.q, view);
        if (name == "k") Copy(in.k, view);
        if (name == "v") Copy(in.v, view);
        if (name == "dout") Copy(in.dout, view);
        if (name == "seq_start") Copy(seq_start, view);
      });
}

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                double tolerance, const char* name) {
  ASSERT_EQ(got.size(), want.size()) << name;
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(got[i] - want[i]);
    worst = std::max(worst, error / (1 + std::abs(want[i])));
    ASSERT_FALSE(std::isnan(error)) << name << " " << i;
  }
  EXPECT_LE(worst, tolerance) << name;
}

TEST(AttentionTest, AttendsLikeItsDefinition) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(testing::Message()
                 << c.num_heads << " heads, " << c.t() << " tokens");
    const PlainAttention want(c, Arrays(c));
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const auto result = RunAttention(dtype, 2, c, c.seq_start());
      ASSERT_THAT(result, IsOk());
      // Up to 257 products of size about 1, and scores about 3 into exp.
      const double tolerance = dtype == DType::kF32 ? 1e-5 : 1e-13;
      ExpectNear(result->at("o"), want.o, tolerance, "o");
      ExpectNear(result->at("lse"), want.lse, tolerance, "lse");
      ExpectNear(result->at("dq"), want.dq, tolerance, "dq");
      ExpectNear(result->at("dk"), want.dk, tolerance, "dk");
      ExpectNear(result->at("dv"), want.dv, tolerance, "dv");
    }
  }
}

TEST(AttentionTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  const Case c = {4, 2, 16, 16, {100, 130, 7}};
  const auto one = RunAttention(DType::kF32, 1, c, c.seq_start());
  ASSERT_THAT(one, IsOk());
  for (const int num_threads : {2, 3}) {
    const auto more = RunAttention(DType::kF32, num_threads, c, c.seq_start());
    ASSERT_THAT(more, IsOk());
    EXPECT_EQ(*one, *more);
  }
}

TEST(AttentionTest, RejectsSequencesThatDoNotDivideTheRows) {
  const Case c = {1, 1, 4, 4, {5}};
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(RunAttention(DType::kF32, 1, c, {0, 4}),
              StatusIs(kInvalid, HasSubstr("from 0 to 4; want 0 to 5")));
  EXPECT_THAT(
      RunAttention(DType::kF32, 1, c, {0, 3, 2, 5}),
      StatusIs(kInvalid, HasSubstr("seq_start[2] is 2; want at least 3")));
}

TEST(AttentionTest, GradientsMatchDifferences) {
  GradCheckOptions options;
  options.fill = [](const std::string& name, const TensorView& view) {
    if (name != "seq_start") return false;
    Copy({0, 3, 3, 70}, view);  // The last has more than one block.
    return true;
  };
  options.max_probes = 24;
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const Dim t = Static(70);
            const ValueId q = b.Input("q", DType::kF64, {t, Static(4 * 3)});
            const ValueId k = b.Input("k", DType::kF64, {t, Static(2 * 3)});
            const ValueId v = b.Input("v", DType::kF64, {t, Static(2 * 5)});
            const ValueId start =
                b.Input("seq_start", DType::kI32, {Static(4)});
            return {Attention(b, q, k, v, start, {4, 2, 0.6})};
          },
          {RegisterAttentionKernels, RegisterElementwiseKernels}, options),
      IsOk());
}

TEST(LatentKeyValueTest, PutsTheSharedRotaryPartBehindEachHead) {
  // Two heads of nope 2 and value 1, rope 2, one token and one behind the
  // count.
  const auto result = RunGraph(
      DType::kF32, 2, {RegisterAttentionKernels},
      [](GraphBuilder& b) {
        const Dim t = Ragged(2, b.Input("n", DType::kI32, {}));
        const LatentKv out =
            LatentKeyValue(b, b.Input("kv", DType::kF32, {t, Static(6)}),
                           b.Input("k_rope", DType::kF32, {t, Static(2)}),
                           /*num_heads=*/2, /*nope=*/2, /*value=*/1);
        b.Output("k", out.k);
        b.Output("v", out.v);
      },
      [](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({1}, view);
        if (name == "kv") Copy({1, 2, 3, 4, 5, 6}, view);
        if (name == "k_rope") Copy({8, 9}, view);
      });

  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->at("k"), ::testing::ElementsAre(1, 2, 8, 9, 4, 5, 8, 9));
  EXPECT_THAT(result->at("v"), ::testing::ElementsAre(3, 6));
}

TEST(LatentKeyValueTest, GradientsMatchDifferences) {
  for (const bool use_k : {false, true}) {
    for (const bool use_v : {false, true}) {
      if (!use_k && !use_v) continue;
      EXPECT_THAT(CheckGradients(
                      [&](GraphBuilder& b) -> std::vector<ValueId> {
                        const Dim t = Static(3);
                        const LatentKv out = LatentKeyValue(
                            b, b.Input("kv", DType::kF64, {t, Static(2 * 7)}),
                            b.Input("k_rope", DType::kF64, {t, Static(2)}),
                            /*num_heads=*/2, /*nope=*/3, /*value=*/4);
                        std::vector<ValueId> outputs;
                        if (use_k) outputs.push_back(out.k);
                        if (use_v) outputs.push_back(out.v);
                        return outputs;
                      },
                      {RegisterAttentionKernels, RegisterElementwiseKernels}),
                  IsOk());
    }
  }
}

}  // namespace
}  // namespace strata
