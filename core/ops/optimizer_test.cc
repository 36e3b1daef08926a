#include "core/ops/optimizer.h"

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

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class OptimizerTest : public testing::Test {
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
  ValueId Int(const char* name, Dims dims) {
    return b_.Input(name, DType::kI32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(OptimizerTest, UpdatesStateInItsOwnPhase) {
  const Dims dims = {Static(3), Static(5)};
  const ValueId param = b_.Parameter("param", dims);
  const ValueId m = b_.State("m", DType::kF32, dims);
  const ValueId v = b_.State("v", DType::kF32, dims);
  const ValueId sum = b_.State("sum", DType::kF32, dims);
  const ValueId scalar = Float("scalar", {});

  Accumulate(b_, sum, Float("grad", dims), scalar);
  const ValueId norm = GlobalNorm(b_, {sum, param}, scalar);
  AdamW(b_, param, m, v, sum, norm, scalar, scalar, Int("step", {}), {});

  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(Text(norm), "F32[]");
  for (const Node& node : b_.graph().nodes()) {
    EXPECT_EQ(node.phase, Phase::kUpdate) << node.op->name;
  }
  EXPECT_EQ(b_.phase(), Phase::kForward);
  EXPECT_THAT(b_.graph().nodes()[0].mutates, ElementsAre(0));
  EXPECT_THAT(b_.graph().nodes()[2].mutates, ElementsAre(0, 1, 2));
  EXPECT_THAT(b_.Finish(), IsOk());
}

TEST_F(OptimizerTest, AccumulatesWhatIsOfOneType) {
  Accumulate(b_, b_.State("sum", DType::kF32, {Static(3)}),
             Float("grad", {Static(4)}), Float("keep", {}));
  ExpectError("value is F32[4]; want F32[3]");
}

TEST_F(OptimizerTest, AccumulatesCountsThatAreIntegers) {
  const ValueId sum = b_.State("sum", DType::kI32, {Static(3)});
  AccumulateCounts(b_, sum, Int("value", {Static(3)}), Float("keep", {}));
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_THAT(b_.graph().nodes()[0].mutates, ElementsAre(0));
  AccumulateCounts(b_, sum, Float("x", {Static(3)}), Float("k", {}));
  ExpectError("value is F32[3]; want I32[3]");
}

TEST_F(OptimizerTest, NormsGradientsOfOneDtype) {
  GlobalNorm(b_, {b_.Input("g", DType::kF64, {Static(4)})}, Float("d", {}));
  ExpectError("grad 0 is F64[4]; want F32 like the divisor");
}

TEST_F(OptimizerTest, AdamWWantsMomentsOfTheParametersType) {
  const ValueId param = b_.Parameter("param", {Static(3)});
  const ValueId scalar = Float("scalar", {});
  AdamW(b_, param, param, b_.State("v", DType::kF32, {Static(4)}), param,
        scalar, scalar, scalar, Int("step", {}), {});
  ExpectError("v is F32[4]; want F32[3]");
}

TEST_F(OptimizerTest, AdamWWantsDecaysBelowOne) {
  const ValueId param = b_.Parameter("param", {Static(3)});
  const ValueId scalar = Float("scalar", {});
  AdamWOptions options;
  options.beta2 = 1;
  AdamW(b_, param, param, param, param, scalar, scalar, scalar, Int("step", {}),
        options);
  ExpectError("beta2 is 1; want it in [0, 1)");
}

TEST_F(OptimizerTest, CostsAFewFlopsAnElement) {
  const ValueId param = b_.Parameter("param", {Static(5), Static(2)});
  const ValueId scalar = Float("scalar", {});
  Accumulate(b_, param, param, scalar);
  EXPECT_EQ(LatestCost(20).flops, 2 * 10);
  GlobalNorm(b_, {param, param, scalar}, scalar);
  EXPECT_EQ(LatestCost(20).flops, 2 * (10 + 10 + 1));
  AdamW(b_, param, param, param, param, scalar, scalar, scalar, Int("step", {}),
        {});
  EXPECT_EQ(LatestCost(20).flops, 17 * 10);
  // param, m, v and grad are read, the first three written.
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (4 * 10 + 4));
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 3 * 10);
}

}  // namespace
}  // namespace strata
