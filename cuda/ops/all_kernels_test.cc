#include "cuda/ops/all_kernels.h"

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/ops/elementwise.h"
#include "core/ops/expert_placement.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_gate.h"
#include "core/ops/fused_latent.h"
#include "core/ops/quant_fused.h"
#include "core/passes/autodiff.h"
#include "core/passes/fuse/fuse.h"
#include "core/passes/pack_caches.h"
#include "core/passes/partition/partition_experts.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using Mode = DecoderOptions::Mode;

// Those of the decoder's loss by all its parameters.
void AddGradients(GraphBuilder& b, const Decoder& decoder) {
  std::vector<ValueId> parameters;
  for (size_t id = 0; id < b.graph().values().size(); ++id) {
    if (b.graph().value(id).role == Role::kParameter) parameters.push_back(id);
  }
  ASSERT_THAT(Differentiate(b, {Seed{decoder.total_loss, strata::Fill(b, 1)}},
                            parameters),
              IsOk());
}

class PresetTest
    : public testing::TestWithParam<std::tuple<const char*, Mode>> {};

// Needs no GPU: that there is a kernel for every node, not what it does.
TEST_P(PresetTest, EveryOperatorHasAKernel) {
  const auto [preset, mode] = GetParam();
  GraphBuilder b;
  DecoderOptions options;
  options.mode = mode;
  options.max_tokens = 64;
  const Decoder decoder = BuildDecoder(b, *ModelPreset(preset), options);
  if (mode == Mode::kTrain) AddGradients(b, decoder);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  const KernelTable table = AllCudaKernels();
  for (const Node& node : graph->nodes()) {
    EXPECT_NE(table.Find(node.op->name).run, nullptr) << node.op->name;
  }
}

// What a GPU trains: with operators that stand for several, and their
// gradients.
TEST(FusedTrainingTest, EveryOperatorHasAKernel) {
  GraphBuilder b;
  DecoderOptions options;
  options.mode = Mode::kTrain;
  options.max_tokens = 64;
  options.fused = true;
  const ModelConfig config = *ModelPreset("strata-1b");
  const Decoder decoder = BuildDecoder(b, config, options);
  AddGradients(b, decoder);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  const KernelTable table = AllCudaKernels();
  int64_t gradients = 0;
  for (const Node& node : graph->nodes()) {
    EXPECT_NE(table.Find(node.op->name).run, nullptr) << node.op->name;
    gradients += node.op->name == kExpertContextGrad.name;
  }
  EXPECT_EQ(gradients, config.num_layers() *
                           config.moe().hierarchical().tier_experts_size());
}

// A graph of a preset that generates.
absl::StatusOr<Graph> Generating(const ModelConfig& config) {
  GraphBuilder b;
  DecoderOptions options;
  options.mode = Mode::kGenerate;
  options.max_tokens = 64;
  BuildDecoder(b, config, options);
  return b.Finish();
}

// What fusion makes of a graph by the kernels that are here, how often by name;
// each has one.
std::map<std::string, int64_t> FusedOperators(const Graph& graph) {
  const KernelTable table = AllCudaKernels();
  FuseOptions fuse;
  fuse.has_kernel = [&](const OpDef& op, DType) {
    return table.Find(op.name).run != nullptr;
  };
  const Graph fused = Fuse(graph, fuse);
  std::map<std::string, int64_t> count;
  for (const Node& node : fused.nodes()) {
    const std::string name(node.op->name);
    EXPECT_NE(table.Find(name).run, nullptr) << name;
    ++count[name];
  }
  return count;
}

TEST(FusedPresetTest, GatesAreOneOperator) {
  const ModelConfig config = *ModelPreset("strata-1b");
  const auto graph = Generating(config);
  ASSERT_THAT(graph, IsOk());
  EXPECT_EQ(
      FusedOperators(*graph)[std::string(kTierGate.name)],
      config.num_layers() * config.moe().hierarchical().tier_experts_size());
}

// And latent attention over a cache in BF16 two, also with packed weights.
TEST(FusedPresetTest, LatentsInBf16AreTwoOperators) {
  const ModelConfig config = *ModelPreset("deepseek-v3");
  const auto graph = Generating(config);
  ASSERT_THAT(graph, IsOk());
  const auto packed = PackCaches(*graph, {CacheFormat::kBF16});
  ASSERT_THAT(packed, IsOk());
  std::map<std::string, int64_t> count = FusedOperators(*packed);
  EXPECT_EQ(count[std::string(kLatentQkv.name)], config.num_layers());
  EXPECT_EQ(count[std::string(kPackedLatentAttendProject.name)],
            config.num_layers());
  const KernelTable table = AllCudaKernels();
  for (const OpDef* const op :
       {&kQuantLatentQkv, &kQuantPackedLatentAttendProject}) {
    EXPECT_NE(table.Find(op->name).run, nullptr) << op->name;
  }
}

// Over heads in every format, also with packed weights.
TEST(FusedPresetTest, HeadsOverPackedCachesAreTwoOperators) {
  const ModelConfig config = *ModelPreset("strata-1b");
  const auto graph = Generating(config);
  ASSERT_THAT(graph, IsOk());
  for (const CacheFormat format :
       {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
    const auto packed = PackCaches(*graph, {format});
    ASSERT_THAT(packed, IsOk());
    std::map<std::string, int64_t> count = FusedOperators(*packed);
    EXPECT_EQ(count[std::string(kNormQkv.name)], config.num_layers());
    EXPECT_EQ(count[std::string(kPackedAttendProject.name)],
              config.num_layers());
  }
  EXPECT_NE(AllCudaKernels().Find(kQuantPackedAttendProject.name).run, nullptr);
}

// What a rank runs whose experts move: choices become slots, and an update sums
// over copies and knows every expert once.
TEST(RebalancedGraphTest, EveryOperatorHasAKernel) {
  GraphBuilder b;
  DecoderOptions options;
  options.max_tokens = 64;
  BuildDecoder(b, *ModelPreset("small"), options);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  const auto rank = PartitionExperts(*graph, /*ep=*/4, /*ep_rank=*/1,
                                     {/*movable=*/true, /*spare=*/1});
  ASSERT_THAT(rank, IsOk());
  GraphBuilder update(DType::kF32);
  const SlotTable slots = {update.State("table", DType::kI32, {Static(8)}),
                           /*experts=*/4, 4};
  const ValueId grad =
      update.State("grad", DType::kF32, {Static(2), Static(3)});
  SumCopies(update, {grad}, slots, "ep");
  update.Output(
      "norm", ExpertNorm(update, {grad}, strata::Fill(update, 1), slots, "ep"));
  const auto summed = update.Finish();
  ASSERT_THAT(summed, IsOk());
  const KernelTable table = AllCudaKernels();
  int64_t placed = 0;
  for (const Graph* const each : {&rank->graph, &*summed}) {
    for (const Node& node : each->nodes()) {
      EXPECT_NE(table.Find(node.op->name).run, nullptr) << node.op->name;
      placed += node.op->name == kPlaceChoices.name;
    }
  }
  EXPECT_GT(placed, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Presets, PresetTest,
    testing::Combine(
        testing::Values("demo", "small", "strata-1b", "deepseek-v3"),
        testing::Values(Mode::kTrain, Mode::kEvaluate, Mode::kGenerate)));

}  // namespace
}  // namespace strata::gpu
