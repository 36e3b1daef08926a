#include "core/ops/fed_norm.h"

#include <cstdint>
#include <string>
#include <vector>

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

class FedNormTest : public testing::Test {
 protected:
  // Of the latest node, when `t` of the ragged rows are there.
  Cost LatestCost(double t) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [t](ValueId, int64_t) { return t; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  ValueId Rows(const char* name, int64_t columns = 4) {
    return b_.Input(name, DType::kF32, {t_, Static(columns)});
  }
  ValueId Gain(const char* name, int64_t columns = 4) {
    return b_.Parameter(name, {Static(columns)});
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(FedNormTest, InfersRowsAndTheirScales) {
  const ValueId before = Rows("before"), rows = Rows("rows");
  const ValueId gain = Gain("gain"), fed_gain = Gain("fed_gain");
  const ValueId x = FedNorm(b_, before, rows, gain, fed_gain, 1e-5);
  EXPECT_EQ(Text(x), "F32[t<=30, 4]");
  const std::vector<ValueId> rstd(b_.graph().nodes().back().outputs.begin() + 1,
                                  b_.graph().nodes().back().outputs.end());
  ASSERT_EQ(rstd.size(), 2);
  EXPECT_EQ(Text(rstd[0]), "F32[t<=30]");
  EXPECT_EQ(Text(rstd[1]), "F32[t<=30]");
  // 10 FLOPs an element; three passes.
  EXPECT_EQ(LatestCost(20).flops, 10 * 20 * 4);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (2 * 20 * 4 + 2 * 4));
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * (20 * 4 + 2 * 20));

  const std::vector<ValueId> d =
      b_.Add(kFedNormInputGrad,
             {x, before, rows, gain, fed_gain, rstd[0], rstd[1], kNone, rows});
  EXPECT_EQ(Text(d[0]), "F32[t<=30, 4]");
  EXPECT_EQ(Text(d[1]), "F32[t<=30, 4]");
  EXPECT_EQ(LatestCost(20).flops, 17 * 20 * 4);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (4 * 20 * 4 + 2 * 4 + 2 * 20));

  const std::vector<ValueId> dgain =
      b_.Add(kFedNormWeightGrad, {x, before, rows, rstd[0], rstd[1]});
  EXPECT_EQ(Text(dgain[0]), "F32[4]");
  EXPECT_EQ(Text(dgain[1]), "F32[4]");
  EXPECT_EQ(LatestCost(20).flops, 7 * 20 * 4);
}

TEST_F(FedNormTest, WantsRowsOfOneType) {
  FedNorm(b_, Rows("before"), Rows("rows", 5), Gain("gain"), Gain("fed_gain"),
          1e-5);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("rows is F32[t<=30, 5]; want")));
}

TEST_F(FedNormTest, WantsGainsOfARowsColumns) {
  FedNorm(b_, Rows("before"), Rows("rows"), Gain("gain"), Gain("fed_gain", 2),
          1e-5);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("fed_gain is F32[2]; want F32[4]")));
}

TEST_F(FedNormTest, WantsAPositiveEps) {
  FedNorm(b_, Rows("before"), Rows("rows"), Gain("gain"), Gain("fed_gain"), 0);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("eps is 0; want more than 0")));
}

TEST_F(FedNormTest, WantsWhatItAddsToBeLikeItsResults) {
  const ValueId x = Rows("x"), gain = Gain("gain");
  const ValueId rstd = b_.Input("rstd", DType::kF32, {t_});
  b_.Add(kFedNormInputGrad,
         {x, x, x, gain, gain, rstd, rstd, kNone, Rows("wide", 5)});
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("to_rows is F32[t<=30, 5]; want")));
}

}  // namespace
}  // namespace strata
