#include "sim/workload/model_graph.h"

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

double Total(const ModelGraph& graph) {
  double total = 0;
  for (int layer = kOutput; layer < graph.config().num_layers(); ++layer) {
    total += graph.parameters(layer).total();
  }
  return total;
}

TEST(ModelGraphTest, HoldsEveryParameterOfTheModelOnce) {
  for (const char* name : {"demo", "small", "strata-1b", "deepseek-v3"}) {
    const ModelConfig config = *ModelPreset(name);
    const absl::StatusOr<ModelGraph> graph = ModelGraph::Create(config);
    ASSERT_THAT(graph, IsOk());
    EXPECT_EQ(Total(*graph), static_cast<double>(CountParameters(config)))
        << name;
  }
}

// Layers of two matrices of attention's kind and a dense half, so that every
// product can be counted by hand.
ModelConfig Dense() {
  ModelConfig config;
  config.set_name("dense");
  config.set_vocab_size(1000);
  config.set_d_model(64);
  config.set_num_layers(2);
  config.set_max_seq_len(4096);
  config.set_norm_eps(1e-5);
  config.mutable_attention()->set_num_heads(4);
  config.mutable_attention()->set_num_kv_heads(2);
  config.mutable_attention()->set_head_dim(16);
  config.mutable_attention()->set_rope_theta(10000);
  config.set_num_dense_layers(2);
  config.set_dense_width(128);
  return config;
}

TEST(ModelGraphTest, CountsSixFlopsAParameterAndTokenForProducts) {
  const absl::StatusOr<ModelGraph> graph = ModelGraph::Create(Dense());
  ASSERT_THAT(graph, IsOk());

  const ModelGraph::Flops flops = graph->FlopsOfSequence(100);

  // A layer: q and o 64 x 64, k and v 64 x 32, three of 64 x 128; the output.
  const double weights =
      2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 64 * 1000;
  EXPECT_EQ(flops.products, 6 * 100 * weights);
  // Two products of 100 * 101 / 2 pairs, 4 heads of 16, forward; twice that
  // backward.
  EXPECT_EQ(flops.causal_attention, 2 * 3 * 2 * 2 * 5050.0 * 4 * 16);
}

TEST(ModelGraphTest, CutsWhatTensorParallelismCuts) {
  const absl::StatusOr<ModelGraph> graph = ModelGraph::Create(Dense());
  ASSERT_THAT(graph, IsOk());

  const ModelGraph::Parameters& layer = graph->parameters(0);
  EXPECT_EQ(layer.dense_cut, 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128);
  EXPECT_EQ(layer.dense_whole, 2 * 64);  // Gains of two norms.
  EXPECT_EQ(layer.experts, 0);
}

TEST(ModelGraphTest, CutsSpreadToActivationsAndTheirGradients) {
  const absl::StatusOr<ModelGraph> graph = ModelGraph::Create(Dense());
  ASSERT_THAT(graph, IsOk());
  int forward = 0;
  int backward = 0;
  for (const Node& node : graph->graph().nodes()) {
    if (node.op->name == "Attention") {
      ++forward;
      EXPECT_TRUE(graph->IsCut(node.outputs[0], 1));
    }
    if (node.op->name == "AttentionGrad") {
      ++backward;
      for (const int output : {0, 1, 2}) {
        EXPECT_TRUE(graph->IsCut(node.outputs[output], 1));
      }
    }
    // What is normalised is whole.
    if (node.op->name == "RmsNorm") {
      EXPECT_FALSE(graph->IsCut(node.outputs[0], 1));
    }
  }
  EXPECT_EQ(forward, 2);
  EXPECT_EQ(backward, 2);
}

TEST(ModelGraphTest, FindsEveryGate) {
  const absl::StatusOr<ModelGraph> flat =
      ModelGraph::Create(*ModelPreset("deepseek-v3"));
  ASSERT_THAT(flat, IsOk());
  ASSERT_EQ(flat->gates().size(), 58u);
  EXPECT_EQ(flat->gates()[0].layer, 3);
  EXPECT_EQ(flat->gates()[0].num_experts, 256);
  EXPECT_EQ(flat->gates()[0].rows_per_token, 8);

  const absl::StatusOr<ModelGraph> tiers =
      ModelGraph::Create(*ModelPreset("demo"));
  ASSERT_THAT(tiers, IsOk());
  ASSERT_EQ(tiers->gates().size(), 4u);
  EXPECT_EQ(tiers->gates()[1].tier, 1);
  EXPECT_EQ(tiers->gates()[1].num_experts, 16);
}

TEST(ModelGraphTest, RejectsAConfigThatIsNotValid) {
  ModelConfig config = Dense();
  config.set_num_layers(0);
  EXPECT_FALSE(ModelGraph::Create(config).ok());
}

}  // namespace
}  // namespace strata::sim
