#include "core/ops/embedding.h"

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

class EmbeddingTest : public testing::Test {
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

TEST_F(EmbeddingTest, InfersARowAnId) {
  const ValueId table = b_.Parameter("table", {Static(100), Static(4)});
  const ValueId ids = Int("ids", {t_});
  const ValueId rows = Embedding(b_, table, ids);
  EXPECT_EQ(Text(rows), "F32[t<=30, 4]");
  EXPECT_EQ(
      Text(b_.Add1(kEmbeddingGrad, {rows, ids}, {{"vocab", int64_t{100}}})),
      "F32[100, 4]");
}

TEST_F(EmbeddingTest, WantsIntegerIds) {
  Embedding(b_, b_.Parameter("table", {Static(100), Static(4)}),
            Float("ids", {t_}));
  ExpectError("ids is F32[t<=30]; want I32 of rank 1");
}

TEST_F(EmbeddingTest, ReadsOnlyTheRowsThatAreNamed) {
  const ValueId ids = Int("ids", {t_});
  const ValueId rows =
      Embedding(b_, b_.Parameter("table", {Static(100), Static(4)}), ids);
  EXPECT_EQ(LatestCost(20).flops, 0);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (20 * 4 + 20));
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 20 * 4);
  b_.Add1(kEmbeddingGrad, {rows, ids}, {{"vocab", int64_t{100}}});
  EXPECT_EQ(LatestCost(20).flops, 20 * 4);
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 100 * 4);
}

}  // namespace
}  // namespace strata
