#include "core/passes/partition/partition_experts.h"

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/collective_rows.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_matmul.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTokens = 10;
constexpr int64_t kPerToken = 2;
constexpr int64_t kExperts = 6;
constexpr int64_t kWidth = 8;

struct Block {
  ValueId x = kNone;
  ValueId y = kNone;    // Rows of the experts.
  ValueId sum = kNone;  // [t, kWidth]
};

// One block of experts, of `num_experts`.
Block AddBlock(GraphBuilder& b, int64_t num_experts) {
  GraphBuilder::Scope scope(b, "mlp");
  const ValueId t = b.Input("t", DType::kI32, {});
  Block block;
  block.x = b.Input("x", DType::kF32, {Ragged(kTokens, t), Static(kWidth)});
  const ValueId expert =
      b.Input("expert", DType::kI32, {Ragged(kTokens, t), Static(kPerToken)});
  const ValueId weight =
      b.Input("weight", DType::kF32, {Ragged(kTokens, t), Static(kPerToken)});
  const DispatchPlanResult plan = DispatchPlan(b, expert, num_experts);
  const ValueId up = b.Parameter(
      "up", {Static(num_experts), Static(2 * kWidth), Static(kWidth)});
  const ValueId down = b.Parameter(
      "down", {Static(num_experts), Static(kWidth), Static(kWidth)});
  const ValueId rows = DispatchRows(b, block.x, plan);
  const ValueId hidden = SwiGlu(b, GroupedMatMul(b, rows, up, plan.offset));
  block.y = GroupedMatMul(b, hidden, down, plan.offset);
  block.sum = CombineRows(b, block.y, plan, weight);
  return block;
}

std::map<std::string, int> CountOps(const Graph& graph) {
  std::map<std::string, int> count;
  for (const Node& node : graph.nodes()) ++count[std::string(node.op->name)];
  return count;
}

TEST(PartitionExpertsTest, SendsRowsOnceAndBringsThemBackOnce) {
  GraphBuilder b;
  const Block block = AddBlock(b, kExperts);
  b.Output("sum", block.sum);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto part = PartitionExperts(*graph, /*ep=*/3, /*ep_rank=*/1);

  ASSERT_THAT(part, IsOk());
  std::map<std::string, int> want = CountOps(*graph);
  want["ExchangePlan"] = want["SendRows"] = want["ReturnRows"] = 1;
  EXPECT_EQ(CountOps(part->graph), want);
  // Between the products nothing is sent: the hidden rows stay at the owner.
  const Node& back =
      part->graph.node(part->graph.value(part->value[block.y]).producer);
  EXPECT_EQ(back.op, &kReturnRows);
  const ValueType& at_owner = part->graph.value(back.inputs[0]).type;
  EXPECT_EQ(at_owner.dims[0].bound, 3 * kTokens * kPerToken);
  EXPECT_EQ(part->graph.outputs().at("sum"), part->value[block.sum]);
}

TEST(PartitionExpertsTest, ARankHoldsItsShareOfTheExperts) {
  GraphBuilder b;
  b.Output("sum", AddBlock(b, kExperts).sum);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto part = PartitionExperts(*graph, /*ep=*/3, /*ep_rank=*/1);

  ASSERT_THAT(part, IsOk());
  for (const char* name : {"up", "down"}) {
    const ValueId id = part->graph.FindSource(name);
    ASSERT_NE(id, kNone);
    EXPECT_EQ(part->graph.value(id).type.dims[0].bound, 2);
  }
  ASSERT_EQ(part->shards.size(), 2);
  EXPECT_EQ(part->shards[0].parameter, "up");
  EXPECT_EQ(part->shards[1].parameter, "down");
  for (const Shard& shard : part->shards) {
    EXPECT_EQ(shard.begin, 2);
    EXPECT_EQ(shard.end, 4);
    EXPECT_EQ(shard.whole, kExperts);
  }
}

TEST(PartitionExpertsTest, RowsThatAnotherOperatorReadsComeBackOnce) {
  GraphBuilder b;
  const Block block = AddBlock(b, kExperts);
  b.Output("sum", block.sum);
  b.Output("rows", block.y);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto part = PartitionExperts(*graph, /*ep=*/2, /*ep_rank=*/0);

  ASSERT_THAT(part, IsOk());
  EXPECT_EQ(CountOps(part->graph)["ReturnRows"], 1);
  EXPECT_EQ(part->graph.outputs().at("rows"), part->value[block.y]);
}

TEST(PartitionExpertsTest, OneRankKeepsTheGraph) {
  GraphBuilder b;
  b.Output("sum", AddBlock(b, kExperts).sum);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto part = PartitionExperts(*graph, /*ep=*/1, /*ep_rank=*/0);

  ASSERT_THAT(part, IsOk());
  EXPECT_EQ(ToText(part->graph), ToText(*graph));
  EXPECT_TRUE(part->shards.empty());
}

TEST(PartitionExpertsTest, WantsExpertsThatTheRanksCanShare) {
  GraphBuilder b;
  b.Output("sum", AddBlock(b, kExperts).sum);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  EXPECT_THAT(PartitionExperts(*graph, /*ep=*/4, /*ep_rank=*/0).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("mlp has 6 experts; want a multiple of ep = "
                                 "4")));
}

TEST(PartitionExpertsTest, WantsWeightsThatProductsAloneRead) {
  GraphBuilder b;
  const Block block = AddBlock(b, kExperts);
  b.Output("sum", block.sum);
  // Over all experts, though no rows were dispatched to them.
  b.Output("other", GroupedMatMul(b, block.x, b.graph().FindSource("down"),
                                  b.Input("offset", DType::kI32,
                                          {Static(kExperts + 1)})));
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  EXPECT_THAT(PartitionExperts(*graph, /*ep=*/2, /*ep_rank=*/0).status(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("GroupedMatMul reads the experts' weights "
                                 "down")));
}

}  // namespace
}  // namespace strata
