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
#include "core/ops/expert_placement.h"
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
  ValueId offset = kNone;
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
  block.offset = plan.offset;
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

// Rows go by slot; the counts that others read stay those of experts.
TEST(PartitionExpertsTest, MovableExpertsAreFoundByATable) {
  GraphBuilder b;
  const Block block = AddBlock(b, kExperts);
  b.Output("sum", block.sum);
  b.Output("offset", block.offset);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto part = PartitionExperts(*graph, /*ep=*/3, /*ep_rank=*/1,
                                     {/*movable=*/true, /*spare=*/1});

  ASSERT_THAT(part, IsOk());
  const Graph& got = part->graph;
  const ValueId table = got.FindSource(PlacementName("mlp"));
  ASSERT_NE(table, kNone);
  EXPECT_EQ(got.value(table).type.dims[0].bound, kExperts + 3);
  EXPECT_EQ(got.value(got.FindSource("up")).type.dims[0].bound, 2 + 1);
  EXPECT_EQ(part->shards[0].placement, PlacementName("mlp"));
  EXPECT_EQ(part->shards[0].spare, 1);
  EXPECT_EQ(part->shards[0].begin, 2);

  const auto producer = [&](ValueId id) -> const Node& {
    return got.node(got.value(id).producer);
  };
  const Node& by_expert = producer(got.outputs().at("offset"));
  EXPECT_EQ(by_expert.op, &kDispatchPlan);
  EXPECT_EQ(by_expert.attrs.Int("num_experts"), kExperts);
  const Node& combine = producer(got.outputs().at("sum"));
  const Node& by_slot = producer(combine.inputs[2]);
  EXPECT_EQ(by_slot.op, &kDispatchPlan);
  EXPECT_EQ(by_slot.attrs.Int("num_experts"), kExperts + 3);
  const Node& placed = producer(by_slot.inputs[0]);
  EXPECT_EQ(placed.op, &kPlaceChoices);
  EXPECT_EQ(placed.inputs[0], by_expert.inputs[0]);
  EXPECT_EQ(placed.inputs[1], table);
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
