#include "core/cpu/activation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/activation.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int64_t kBound = 300;
constexpr double kScale = 0.5;

double SigmoidOf(double x) { return 1 / (1 + std::exp(-x)); }

// Of each row of n, the columns j with (row + j) % 3 != 0; none of row 4.
bool Kept(int64_t row, int64_t j) { return row != 4 && (row + j) % 3 != 0; }

// Everything of this family on `count` rows of x [kBound, 2n]; the gradients'
// dy is x as well.
absl::StatusOr<RunResult> RunActivations(DType dtype, int num_threads,
                                         int64_t count, int64_t n) {
  return RunGraph(
      dtype, num_threads, {RegisterActivationKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
        const ValueId x = b.Input("x", dtype, {t, Static(2 * n)});
        const ValueId dy = b.Input("dy", dtype, {t, Static(n)});
        const ValueId mask = b.Input("mask", DType::kU8, {t, Static(n)});
        b.Output("swiglu", SwiGlu(b, x));
        b.Output("swiglu_grad", b.Add1(kSwiGluGrad, {dy, x}));
        b.Output("sigmoid", Sigmoid(b, x));
        b.Output("sigmoid_grad", b.Add1(kSigmoidGrad, {x, x}));
        b.Output("softmax", MaskedSoftmax(b, dy, kNone, kScale));
        const ValueId masked = MaskedSoftmax(b, dy, mask, kScale);
        b.Output("masked", masked);
        b.Output("masked_grad",
                 b.Add1(kMaskedSoftmaxGrad, {dy, masked}, {{"scale", kScale}}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(count)}, view);
        if (name == "x") Copy(Normal(count * 2 * n, 1), view);
        if (name == "dy") Copy(Normal(count * n, 2), view);
        if (name == "mask") {
          std::vector<double> mask;
          for (int64_t i = 0; i < count * n; ++i) {
            mask.push_back(Kept(i / n, i % n));
          }
          Copy(mask, view);
        }
      });
}

// 300 rows of 66 columns are more than one chunk (16384 elements).
TEST(ActivationTest, ActivatesLikeAPlainLoop) {
  for (const int64_t count : {0, 1, 300}) {
    for (const int64_t n : {1, 4, 66}) {
      SCOPED_TRACE(testing::Message() << count << " rows of " << n);
      const std::vector<double> x = Normal(count * 2 * n, 1);
      const std::vector<double> dy = Normal(count * n, 2);
      for (const DType dtype : {DType::kF32, DType::kF64}) {
        const auto result = RunActivations(dtype, 2, count, n);
        ASSERT_THAT(result, IsOk());
        const double tolerance = dtype == DType::kF32 ? 4e-6 : 1e-14;
        const auto near = [&](const char* name, int64_t at, double want) {
          EXPECT_NEAR(result->at(name)[at], want,
                      tolerance * (1 + std::abs(want)))
              << name << " " << at;
        };
        ASSERT_EQ(result->at("swiglu").size(), dy.size());
        for (int64_t i = 0; i < count; ++i) {
          double sum = 0, kept_sum = 0, delta = 0;
          for (int64_t j = 0; j < n; ++j) {
            const double e = std::exp(kScale * dy[i * n + j]);
            sum += e;
            if (Kept(i, j)) {
              kept_sum += e;
              delta += e * dy[i * n + j];
            }
          }
          delta = kept_sum == 0 ? 0 : delta / kept_sum;
          for (int64_t j = 0; j < n; ++j) {
            const int64_t at = i * n + j;
            const int64_t gate_at = i * 2 * n + j, up_at = gate_at + n;
            const double gate = x[gate_at], up = x[up_at];
            const double s = SigmoidOf(gate);
            near("swiglu", at, gate * s * up);
            near("swiglu_grad", gate_at,
                 dy[at] * up * s * (1 + gate * (1 - s)));
            near("swiglu_grad", up_at, dy[at] * gate * s);
            near("sigmoid", gate_at, s);
            near("sigmoid_grad", gate_at, gate * gate * (1 - gate));
            const double e = std::exp(kScale * dy[at]);
            near("softmax", at, e / sum);
            const double y = Kept(i, j) ? e / kept_sum : 0;
            near("masked", at, y);
            if (!Kept(i, j)) {
              EXPECT_EQ(result->at("masked")[at], 0);
            }
            near("masked_grad", at, kScale * y * (dy[at] - delta));
          }
        }
      }
    }
  }
}

TEST(ActivationTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  const auto one = RunActivations(DType::kF32, 1, 300, 66);
  ASSERT_THAT(one, IsOk());
  for (const int num_threads : {2, 3}) {
    const auto more = RunActivations(DType::kF32, num_threads, 300, 66);
    ASSERT_THAT(more, IsOk());
    EXPECT_EQ(*one, *more);
  }
}

TEST(ActivationTest, GradientsMatchDifferences) {
  GradCheckOptions options;
  options.fill = [](const std::string& name, const TensorView& view) {
    if (name != "mask") return false;
    for (int64_t i = 0; i < 30; ++i) view.as<uint8_t>()[i] = Kept(i / 5, i % 5);
    return true;
  };
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const Dim t = Static(6);
            const ValueId h = b.Input("h", DType::kF64, {t, Static(10)});
            const ValueId x = b.Input("x", DType::kF64, {t, Static(5)});
            const ValueId mask = b.Input("mask", DType::kU8, {t, Static(5)});
            return {SwiGlu(b, h), Sigmoid(b, x), MaskedSoftmax(b, x, mask, 0.7),
                    MaskedSoftmax(b, x, kNone, 1.3)};
          },
          {RegisterActivationKernels, RegisterElementwiseKernels}, options),
      IsOk());
}

}  // namespace
}  // namespace strata
