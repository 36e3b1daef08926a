#include "core/ops/attention.h"

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

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class AttentionTest : public testing::Test {
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

TEST_F(AttentionTest, InfersOutputsAndGradients) {
  const ValueId q = Float("q", {t_, Static(4 * 6)});
  const ValueId k = Float("k", {t_, Static(2 * 6)});
  const ValueId v = Float("v", {t_, Static(2 * 5)});
  const ValueId start = Int("start", {Static(4)});
  const ValueId o = Attention(b_, q, k, v, start, {4, 2, 0.5});
  EXPECT_EQ(Text(o), "F32[t<=30, 20]");
  const Node node = b_.graph().nodes().back();
  EXPECT_EQ(Text(node.outputs[1]), "F32[t<=30, 4]");
  const std::vector<ValueId> grads = b_.Add(
      kAttentionGrad, {o, q, k, v, o, node.outputs[1], start}, node.attrs);
  EXPECT_EQ(Text(grads[0]), Text(q));
  EXPECT_EQ(Text(grads[1]), Text(k));
  EXPECT_EQ(Text(grads[2]), Text(v));
}

// What is wrong with q [30, 24], k [30, 12], v [30, 10] and `options`.
class AttentionErrorTest : public AttentionTest {
 protected:
  void Attend(int64_t k_columns, int64_t v_columns, AttentionOptions options) {
    Attention(b_, Float("q", {t_, Static(24)}),
              Float("k", {t_, Static(k_columns)}),
              Float("v", {t_, Static(v_columns)}), Int("start", {Static(4)}),
              options);
  }
};

TEST_F(AttentionErrorTest, WantsEqualGroupsOfHeads) {
  Attend(12, 10, {4, 3, 0.5});
  ExpectError("num_heads is 4; want a multiple of num_kv_heads, which is 3");
}

TEST_F(AttentionErrorTest, WantsAPositiveScale) {
  Attend(12, 10, {4, 2, 0});
  ExpectError("scale is 0; want more than 0");
}

TEST_F(AttentionErrorTest, WantsWholeHeads) {
  Attend(12, 10, {5, 5, 1});
  ExpectError("q is F32[t<=30, 24]; want 5 heads");
}

TEST_F(AttentionErrorTest, WantsKeysAsWideAsQueries) {
  Attend(14, 10, {4, 2, 1});
  ExpectError("k is F32[t<=30, 14]; want 2 heads of 6 columns");
}

TEST_F(AttentionErrorTest, WantsWholeHeadsOfValues) {
  Attend(12, 9, {4, 2, 1});
  ExpectError("v is F32[t<=30, 9]; want 2 heads");
}

TEST_F(AttentionErrorTest, WantsRowsOfOneCount) {
  const Dim other = Static(30);
  Attention(b_, Float("q", {t_, Static(8)}), Float("k", {other, Static(8)}),
            Float("v", {other, Static(8)}), Int("start", {Static(2)}),
            {1, 1, 1});
  ExpectError("q is F32[t<=30, 8] and k F32[30, 8]; want one row count");
}

TEST_F(AttentionErrorTest, WantsAStartAndAnEnd) {
  const ValueId x = Float("x", {t_, Static(8)});
  Attention(b_, x, x, x, Int("start", {Static(1)}), {1, 1, 1});
  ExpectError(
      "seq_start is I32[1]; want the first row of each sequence and the row "
      "count");
}

TEST_F(AttentionTest, CostsTheProductsBelowTheDiagonal) {
  const ValueId q = Float("q", {t_, Static(4 * 6)});
  const ValueId k = Float("k", {t_, Static(2 * 6)});
  const ValueId v = Float("v", {t_, Static(2 * 5)});
  const ValueId start = Int("start", {Static(4)});  // Three sequences.
  const ValueId o = Attention(b_, q, k, v, start, {4, 2, 0.5});

  // 21 tokens in sequences of 7: 3 * (1 + ... + 7) pairs, for each of 4 heads 6
  // multiply-adds for the score and 5 for the value.
  EXPECT_EQ(LatestCost(21).flops, 2 * 3 * 28 * 4 * (6 + 5));
  EXPECT_EQ(LatestCost(0).flops, 0);
  const Node node = b_.graph().nodes().back();
  b_.Add(kAttentionGrad, {o, q, k, v, o, node.outputs[1], start}, node.attrs);
  EXPECT_EQ(LatestCost(21).flops, 2 * 2 * 3 * 28 * 4 * (6 + 5));
}

TEST_F(AttentionTest, CacheWriteStoresRowsInPlace) {
  const ValueId cache = b_.State("cache", DType::kF32, {Static(50), Static(8)});
  CacheWrite(b_, cache, Float("rows", {t_, Static(8)}), Int("row", {t_}));
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_THAT(b_.graph().nodes().back().mutates, ElementsAre(0));
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (20 * 8 + 20));
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 20 * 8);
}

TEST_F(AttentionTest, CacheWriteWantsRowsOfTheCache) {
  const ValueId cache = b_.State("cache", DType::kF32, {Static(50), Static(8)});
  CacheWrite(b_, cache, Float("rows", {t_, Static(6)}), Int("row", {t_}));
  ExpectError("rows is F32[t<=30, 6]; want F32[t<=30, 8]");
}

TEST_F(AttentionTest, CachedAttentionCostsAtMostTheWholeCache) {
  const ValueId k = b_.State("k", DType::kF32, {Static(50), Static(2 * 6)});
  const ValueId v = b_.State("v", DType::kF32, {Static(50), Static(2 * 5)});
  const ValueId o =
      CachedAttention(b_, Float("q", {t_, Static(4 * 6)}), k, v,
                      Int("first", {t_}), Int("position", {t_}), {4, 2, 1});
  EXPECT_EQ(Text(o), "F32[t<=30, 20]");
  EXPECT_EQ(LatestCost(3).flops, 2 * 3 * 50 * 4 * (6 + 5));
}

TEST_F(AttentionTest, CachedAttentionWantsAPositionARow) {
  const ValueId k = b_.State("k", DType::kF32, {Static(50), Static(8)});
  CachedAttention(b_, Float("q", {t_, Static(8)}), k, k, Int("first", {t_}),
                  Int("position", {Static(3)}), {1, 1, 1});
  ExpectError("position is I32[3]; want I32[t<=30]");
}

TEST_F(AttentionTest, LatentKeyValueSplitsHeads) {
  const ValueId kv = Float("kv", {t_, Static(3 * (4 + 5))});
  const ValueId k_rope = Float("k_rope", {t_, Static(2)});
  const LatentKv out = LatentKeyValue(b_, kv, k_rope, 3, 4, 5);
  EXPECT_EQ(Text(out.k), "F32[t<=30, 18]");
  EXPECT_EQ(Text(out.v), "F32[t<=30, 15]");
  const std::vector<ValueId> grads = b_.Add(kLatentKeyValueGrad, {out.k, out.v},
                                            {{"num_heads", int64_t{3}},
                                             {"nope", int64_t{4}},
                                             {"value", int64_t{5}},
                                             {"rope", int64_t{2}}});
  EXPECT_EQ(Text(grads[0]), Text(kv));
  EXPECT_EQ(Text(grads[1]), Text(k_rope));
  EXPECT_EQ(LatestCost(20).flops, 20 * 3 * 2);
}

TEST_F(AttentionTest, LatentKeyValueWantsItsColumns) {
  LatentKeyValue(b_, Float("kv", {t_, Static(26)}),
                 Float("k_rope", {t_, Static(2)}), 3, 4, 5);
  ExpectError("kv is F32[t<=30, 26]; want 3 heads of 4 + 5 columns");
}

}  // namespace
}  // namespace strata
