#include "core/quant/calibrate.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kOutputs = 24, kInputs = 64;

std::vector<float> Weights(uint64_t stream) {
  Random random(/*seed=*/3, stream);
  std::vector<float> w(kOutputs * kInputs);
  for (float& x : w) x = static_cast<float>(random.Normal());
  return w;
}

// Of inputs that go together, as those of a trained layer do: each the sum of
// 8 common parts and a tenth of its own.
InputMoments Correlated(int64_t count, uint64_t stream) {
  Random mix(/*seed=*/4, /*stream=*/0), random(/*seed=*/5, stream);
  std::vector<double> of_part(8 * kInputs);
  for (double& x : of_part) x = mix.Normal();
  InputMoments moments = {kInputs, count,
                          std::vector<float>(kInputs * kInputs)};
  for (int64_t i = 0; i < count; ++i) {
    std::vector<double> x(kInputs);
    for (int64_t p = 0; p < 8; ++p) {
      const double part = random.Normal();
      for (int64_t c = 0; c < kInputs; ++c) {
        x[c] += part * of_part[p * kInputs + c];
      }
    }
    for (double& number : x) number += 0.3 * random.Normal();
    for (int64_t r = 0; r < kInputs; ++r) {
      for (int64_t c = 0; c < kInputs; ++c) {
        moments.sum[r * kInputs + c] += static_cast<float>(x[r] * x[c]);
      }
    }
  }
  return moments;
}

double OutputError(const QuantFormat& format, CalibrationMethod method,
                   const std::vector<float>& judge) {
  ThreadPool pool(2);
  const std::vector<float> w = Weights(0);
  const auto m = Calibrate("w", w.data(), kOutputs, kInputs, format, method,
                           Correlated(512, 1).sum, pool);
  EXPECT_THAT(m, IsOk());
  const QuantError error = ErrorOf(w.data(), *m, judge, pool);
  return error.output_error / error.output;
}

TEST(CalibrateTest, EachMethodImprovesOnTheOneBeforeOnInputsThatItDidNotSee) {
  const std::vector<float> judge = Correlated(512, 2).sum;
  for (const QuantFormat format :
       {QuantFormat{4, 32, true}, QuantFormat{4, 0, true},
        QuantFormat{4, 32, false}, QuantFormat{2, 32, false}}) {
    SCOPED_TRACE(ToText(format));
    const double nearest =
        OutputError(format, CalibrationMethod::kNearest, judge);
    const double clip = OutputError(format, CalibrationMethod::kClip, judge);
    const double feedback =
        OutputError(format, CalibrationMethod::kFeedback, judge);
    const double learned =
        OutputError(format, CalibrationMethod::kLearned, judge);
    EXPECT_LT(clip, nearest);
    EXPECT_LT(feedback, 0.7 * clip);
    EXPECT_LT(learned, feedback);
  }
}

// Least squares and descent never take a step up on what they look at.
TEST(CalibrateTest, LearningLowersWhatFeedbackLeft) {
  ThreadPool pool(1);
  const std::vector<float> h = Correlated(256, 1).sum;
  for (uint64_t stream = 0; stream < 4; ++stream) {
    const std::vector<float> w = Weights(stream);
    const auto error = [&](CalibrationMethod method) {
      const auto m = Calibrate("w", w.data(), kOutputs, kInputs, {4, 32, true},
                               method, h, pool);
      EXPECT_THAT(m, IsOk());
      return ErrorOf(w.data(), *m, h, pool).output_error;
    };
    EXPECT_LT(error(CalibrationMethod::kLearned),
              error(CalibrationMethod::kFeedback));
  }
}

TEST(CalibrateTest, KeepsWhatTheFormatHolds) {
  ThreadPool pool(1);
  const std::vector<float> any = Weights(0);
  const QuantFormat format = {4, 32, true};
  const std::vector<float> held =
      RoundToNearest(any.data(), kOutputs, kInputs, format).Dequantize();
  for (const CalibrationMethod method :
       {CalibrationMethod::kNearest, CalibrationMethod::kClip,
        CalibrationMethod::kFeedback, CalibrationMethod::kLearned}) {
    // A row whose ends are both used has one scale that clips nothing: make
    // each group so.
    std::vector<float> w = held;
    for (size_t at = 0; at < w.size(); at += 32) w[at] = -8, w[at + 1] = 7;
    for (size_t i = 0; i < w.size(); ++i) w[i] = std::round(w[i]);
    const auto m = Calibrate("w", w.data(), kOutputs, kInputs, format, method,
                             Correlated(512, 1).sum, pool);
    ASSERT_THAT(m, IsOk());
    EXPECT_EQ(m->Dequantize(), w) << Name(method);
  }
}

TEST(CalibrateTest, DoesNotDependOnThreads) {
  const std::vector<float> w = Weights(0);
  const std::vector<float> h = Correlated(256, 1).sum;
  ThreadPool one(1), three(3);
  const auto a = Calibrate("w", w.data(), kOutputs, kInputs, QuantFormat(),
                           CalibrationMethod::kLearned, h, one);
  const auto b = Calibrate("w", w.data(), kOutputs, kInputs, QuantFormat(),
                           CalibrationMethod::kLearned, h, three);
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  EXPECT_EQ(a->code, b->code);
}

// 2 inputs of one's own and 2 pseudo-inputs of the layer's, whose mean is 1:
// (own + 2 * 1) / 4.
TEST(CalibrateTest, BlendsAnExpertsInputsWithTheLayers) {
  const InputMoments own = {2, 2, {6, 2, 2, 6}};
  const InputMoments all = {2, 10, {10, 0, 0, 10}};
  const auto blend = BlendMoments("w", own, all);
  ASSERT_THAT(blend, IsOk());
  EXPECT_EQ(*blend, (std::vector<float>{2, 0.5f, 0.5f, 2}));
  // Without any of its own, the layer's.
  const auto others = BlendMoments("w", {2, 0, {0, 0, 0, 0}}, all);
  ASSERT_THAT(others, IsOk());
  EXPECT_EQ(*others, (std::vector<float>{1, 0, 0, 1}));
  EXPECT_THAT(
      BlendMoments("w", own, {2, 0, {0, 0, 0, 0}}),
      StatusIs(kInvalid, AllOf(HasSubstr("\"w\""), HasSubstr("0 inputs"))));
}

TEST(CalibrateTest, RefusesInputsThatAreNoNumbers) {
  ThreadPool pool(1);
  const std::vector<float> w = Weights(0);
  std::vector<float> h = Correlated(8, 1).sum;
  h[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Calibrate("layer.w", w.data(), kOutputs, kInputs, QuantFormat(),
                        CalibrationMethod::kFeedback, h, pool),
              StatusIs(kInvalid, HasSubstr("layer.w")));
  EXPECT_THAT(CalibrationMethodOf("best"),
              StatusIs(kInvalid, HasSubstr("want nearest, clip")));
}

}  // namespace
}  // namespace strata
