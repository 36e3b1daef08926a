#include "core/ops/matmul.h"

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

class MatMulTest : public testing::Test {
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

TEST_F(MatMulTest, InfersAnyTransposition) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId y = Float("y", {t_, Static(6)});
  const ValueId w = Float("w", {Static(6), Static(4)});

  EXPECT_EQ(Text(Linear(b_, x, w)), "F32[t<=30, 6]");
  EXPECT_EQ(Text(MatMul(b_, y, w)), "F32[t<=30, 4]");
  EXPECT_EQ(Text(MatMul(b_, y, x, /*transpose_lhs=*/true)), "F32[6, 4]");
}

TEST_F(MatMulTest, WantsEqualInnerExtents) {
  const ValueId w = Float("w", {Static(6), Static(4)});
  MatMul(b_, w, w, true, true);
  ExpectError(
      "lhs is F32[6, 4] transposed and rhs F32[6, 4] transposed; want one "
      "dtype and equal inner extents");
}

TEST_F(MatMulTest, WantsTheSameCountOnBothSidesOfASum) {
  MatMul(b_, Float("x", {t_, Static(4)}), Float("y", {Static(30), Static(6)}),
         /*transpose_lhs=*/true);
  ExpectError("want one dtype and equal inner extents");
}

TEST_F(MatMulTest, WantsOneDtype) {
  MatMul(b_, Float("x", {Static(2), Static(3)}),
         b_.Input("y", DType::kF64, {Static(3), Static(6)}));
  ExpectError("rhs F64[3, 6]; want one dtype");
}

TEST_F(MatMulTest, WantsStaticColumns) {
  const ValueId x = Float("x", {t_, Static(4)});
  MatMul(b_, x, x, false, /*transpose_rhs=*/true);
  ExpectError("want columns of the result to be static");
}

TEST_F(MatMulTest, CostsTwoFlopsAMultiplyAdd) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId y = Float("y", {t_, Static(6)});
  Linear(b_, x, Float("w", {Static(6), Static(4)}));
  EXPECT_EQ(LatestCost(20).flops, 2 * 20 * 6 * 4);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (20 * 4 + 6 * 4));
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 20 * 6);
  MatMul(b_, y, x, /*transpose_lhs=*/true);
  EXPECT_EQ(LatestCost(20).flops, 2 * 20 * 6 * 4);
  EXPECT_EQ(LatestCost(0).flops, 0);
}

TEST_F(MatMulTest, PutsGradientsOfWeightsIntoTheirOwnPhase) {
  const ValueId x = Float("x", {t_, Static(4)});
  const ValueId w = b_.Parameter("w", {Static(6), Static(4)});
  const ValueId dy = Float("dy", {t_, Static(6)});
  Linear(b_, x, w);
  const Node node = b_.graph().nodes().back();
  GradContext g(b_, node, {dy}, {true, true});

  node.op->gradient(g);

  EXPECT_EQ(Text(g.input_grads()[0]), "F32[t<=30, 4]");
  EXPECT_EQ(Text(g.input_grads()[1]), "F32[6, 4]");
  const auto& nodes = b_.graph().nodes();
  EXPECT_EQ(nodes[nodes.size() - 2].phase, Phase::kInputGrad);
  EXPECT_EQ(nodes[nodes.size() - 1].phase, Phase::kWeightGrad);
}

}  // namespace
}  // namespace strata
