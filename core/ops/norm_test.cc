#include "core/ops/norm.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class NormTest : public testing::Test {
 protected:
  // Of the latest node, when `t` of the ragged rows are there.
  Cost LatestCost(double t) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [t](ValueId, int64_t) { return t; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  ValueId Float(const char* name, Dims dims) {
    return b_.Input(name, DType::kF32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(NormTest, InfersRowsAndTheirScales) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId gain = b_.Parameter("gain", {Static(4)});
  EXPECT_EQ(Text(RmsNorm(b_, x, gain, 1e-5)), "F32[t<=30, 4]");
  const Node node = b_.graph().nodes().back();
  const ValueId rstd = node.outputs[1];
  EXPECT_EQ(Text(rstd), "F32[t<=30]");
  EXPECT_EQ(Text(b_.Add1(kRmsNormInputGrad, {x, x, gain, rstd})),
            "F32[t<=30, 4]");
  EXPECT_EQ(Text(b_.Add1(kRmsNormWeightGrad, {x, x, gain, rstd})), "F32[4]");
}

TEST_F(NormTest, WantsAGainOfARowsColumns) {
  RmsNorm(b_, Float("x", {t_, Static(4)}), b_.Parameter("gain", {Static(5)}),
          1e-5);
  ExpectError("gain is F32[5]; want F32[4]");
}

TEST_F(NormTest, WantsRows) {
  RmsNorm(b_, Float("x", {Static(4)}), b_.Parameter("gain", {Static(4)}), 1e-5);
  ExpectError("x is F32[4]; want floating point of rank 2");
}

TEST_F(NormTest, WantsAPositiveEps) {
  RmsNorm(b_, Float("x", {t_, Static(4)}), b_.Parameter("gain", {Static(4)}),
          0);
  ExpectError("eps is 0; want more than 0");
}

TEST_F(NormTest, AddsRowsLikeItsInputsGradient) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId gain = b_.Parameter("gain", {Static(4)});
  const ValueId rstd = Float("rstd", {t_});
  EXPECT_EQ(Text(b_.Add1(kRmsNormInputGrad, {x, x, gain, rstd, x, x})),
            "F32[t<=30, 4]");
  // Two FLOPs and two passes more.
  EXPECT_EQ(LatestCost(20).flops, 9 * 20 * 4);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (4 * 20 * 4 + 4 + 20));
  b_.Add1(kRmsNormInputGrad, {x, x, gain, rstd, kNone, x});
  ExpectError("b is added without a");
}

TEST_F(NormTest, CostsAFewFlopsAnElement) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId gain = b_.Parameter("gain", {Static(4)});
  RmsNorm(b_, x, gain, 1e-5);
  EXPECT_EQ(LatestCost(20).flops, 4 * 20 * 4);
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * (20 * 4 + 20));
  const ValueId rstd = b_.graph().nodes().back().outputs[1];
  b_.Add1(kRmsNormInputGrad, {x, x, gain, rstd});
  EXPECT_EQ(LatestCost(20).flops, 7 * 20 * 4);
  b_.Add1(kRmsNormWeightGrad, {x, x, gain, rstd});
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 4);
}

}  // namespace
}  // namespace strata
