#include "core/cpu/loss.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/loss.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBound = 70;

absl::StatusOr<RunResult> RunLoss(DType dtype, int num_threads, int64_t vocab,
                                  const std::vector<double>& logits,
                                  const std::vector<double>& target) {
  return RunGraph(
      dtype, num_threads, {RegisterLossKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
        const ValueId x = b.Input("logits", dtype, {t, Static(vocab)});
        const ValueId y = b.Input("target", DType::kI32, {t});
        const ValueId dloss = b.Input("dloss", dtype, {});
        const std::vector<ValueId> out = b.Add(kCrossEntropy, {x, y});
        b.Output("loss", out[0]);
        b.Output("nll", out[1]);
        b.Output("lse", out[2]);
        b.Output("hit", out[3]);
        b.Output("dlogits", b.Add1(kCrossEntropyGrad, {dloss, x, y, out[2]}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(target.size())}, view);
        if (name == "logits") Copy(logits, view);
        if (name == "target") Copy(target, view);
        if (name == "dloss") Copy({3}, view);
      });
}

// Every fifth token is left out.
std::vector<double> Targets(int64_t t, int64_t vocab) {
  std::vector<double> target(t);
  for (int64_t i = 0; i < t; ++i) {
    target[i] = i % 5 == 2 ? -1 : i * i % vocab;
  }
  return target;
}

TEST(CrossEntropyTest, AveragesLikeAPlainLoop) {
  for (const int64_t t : {0, 1, 3, 70}) {
    for (const int64_t vocab : {1, 17, 256, 1000}) {
      SCOPED_TRACE(testing::Message() << t << " tokens of " << vocab);
      const std::vector<double> target = Targets(t, vocab);
      std::vector<double> logits = Normal(t * vocab, 1);
      for (double& x : logits) x = 4 * x + 100;  // exp(100) overflows floats.
      int64_t count = 0;
      double loss = 0;
      for (const double y : target) count += y >= 0;
      for (const DType dtype : {DType::kF32, DType::kF64}) {
        const auto result = RunLoss(dtype, 2, vocab, logits, target);
        ASSERT_THAT(result, IsOk());
        // Logits of 100 carry their own rounding into nll and lse.
        const double tolerance = dtype == DType::kF32 ? 3e-5 : 1e-12;
        loss = 0;
        for (int64_t i = 0; i < t; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < vocab; ++j) {
            sum += std::exp(logits[i * vocab + j] - 100);
          }
          const auto y = static_cast<int64_t>(target[i]);
          const double lse = std::log(sum) + 100;
          const double nll = y < 0 ? 0 : lse - logits[i * vocab + y];
          loss += nll / count;
          EXPECT_NEAR(result->at("lse")[i], lse, tolerance);
          EXPECT_NEAR(result->at("nll")[i], nll, tolerance);
          for (int64_t j = 0; j < vocab; ++j) {
            const double p = std::exp(logits[i * vocab + j] - lse);
            const double want = y < 0 ? 0 : 3 * (p - (j == y)) / count;
            EXPECT_NEAR(result->at("dlogits")[i * vocab + j], want, tolerance);
          }
        }
        EXPECT_NEAR(result->at("loss")[0], loss, tolerance);
      }
    }
  }
}

TEST(CrossEntropyTest, AHitIsTheFirstOfTheLargestLogits) {
  const auto result = RunLoss(
      DType::kF32, 1, 3, {1, 3, 3, 1, 3, 3, 1, 3, 3, 4, 0, 0}, {1, 2, -1, 0});

  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->at("hit"), ::testing::ElementsAre(1, 0, 0, 1));
}

TEST(CrossEntropyTest, IsZeroWithoutTargets) {
  const auto result = RunLoss(DType::kF32, 1, 3, {1, 2, 3, 4, 5, 6}, {-1, -1});

  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->at("loss"), ::testing::ElementsAre(0));
  EXPECT_THAT(result->at("dlogits"), ::testing::Each(0));
}

TEST(CrossEntropyTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  const std::vector<double> logits = Normal(70 * 1000, 1);
  const std::vector<double> target = Targets(70, 1000);
  const auto one = RunLoss(DType::kF32, 1, 1000, logits, target);
  ASSERT_THAT(one, IsOk());
  for (const int num_threads : {2, 3}) {
    const auto more = RunLoss(DType::kF32, num_threads, 1000, logits, target);
    ASSERT_THAT(more, IsOk());
    EXPECT_EQ(*one, *more);
  }
}

TEST(CrossEntropyTest, RejectsATargetOutsideTheVocabulary) {
  EXPECT_THAT(
      RunLoss(DType::kF32, 1, 3, {1, 2, 3, 4, 5, 6}, {0, 3}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("token 1 has target 3; want -1 (left out) to 2")));
}

TEST(CrossEntropyTest, GradientsMatchDifferences) {
  GradCheckOptions options;
  options.fill = [](const std::string& name, const TensorView& view) {
    if (name != "target") return false;
    Copy({0, 5, -1, 6}, view);
    return true;
  };
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const ValueId logits =
                b.Input("logits", DType::kF64, {Static(4), Static(7)});
            return {CrossEntropy(b, logits,
                                 b.Input("target", DType::kI32, {Static(4)}))
                        .loss};
          },
          {RegisterLossKernels, RegisterElementwiseKernels}, options),
      IsOk());
}

// Sequences of three rows, none, one and two; the second row of the first has
// no target, as before a document's end.
TEST(NextTargetTest, LooksOneRowAheadWithinASequence) {
  const auto result = RunGraph(
      DType::kF32, 1, {RegisterLossKernels},
      [](GraphBuilder& b) {
        const ValueId target = b.Input("target", DType::kI32, {Static(6)});
        const ValueId start = b.Input("seq_start", DType::kI32, {Static(5)});
        const NextTargetResult next = NextTarget(b, target, start);
        b.Output("ids", next.ids);
        b.Output("next", next.next);
      },
      [](const std::string& name, const TensorView& view) {
        if (name == "target") Copy({4, -1, 6, 7, 8, 9}, view);
        if (name == "seq_start") Copy({0, 3, 3, 4, 6}, view);
      });
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->at("ids"), (std::vector<double>{4, 0, 6, 7, 8, 9}));
  EXPECT_EQ(result->at("next"), (std::vector<double>{-1, -1, -1, -1, 9, -1}));
}

}  // namespace
}  // namespace strata
