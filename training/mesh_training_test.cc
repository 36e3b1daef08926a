// Several ranks against one: the same losses, weights and loads.

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/testing/mesh_runs.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

std::vector<MeshShape> Meshes() {
  return {{1, 1, 1}, {2, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 4, 1},
          {2, 2, 1}, {1, 1, 2}, {2, 1, 2}, {1, 2, 2}};
}

class MeshTrainingTest : public ::testing::TestWithParam<ModelConfig> {};

// In F64, where other roundings of sums are too small to tip a choice of
// experts. Loads, biases and their history are among what is compared.
TEST_P(MeshTrainingTest, RanksTrainAsOneDoes) {
  const RankRun one = Train(GetParam(), DType::kF64, /*mesh=*/nullptr, kSteps);
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  for (const MeshShape& shape : Meshes()) {
    SCOPED_TRACE(ToText(shape));
    ExpectSameRun(shape, one, TrainOnMesh(GetParam(), DType::kF64, shape));
  }
}

TEST_P(MeshTrainingTest, RepeatsBitForBit) {
  for (const MeshShape& shape :
       {MeshShape{2, 1, 1}, MeshShape{1, 2, 1}, MeshShape{2, 2, 2}}) {
    SCOPED_TRACE(ToText(shape));
    const auto first = TrainOnMesh(GetParam(), DType::kF32, shape, 10);
    const auto second = TrainOnMesh(GetParam(), DType::kF32, shape, 10);
    EXPECT_EQ(WholeState(shape, first), WholeState(shape, second));
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(first[0].steps[i].loss, second[1].steps[i].loss);
    }
  }
}

std::vector<ModelConfig> Models() {
  ModelConfig hierarchical = TinyHierarchical();
  hierarchical.set_name("hierarchical");
  HierarchicalRouterConfig& tiers =
      *hierarchical.mutable_moe()->mutable_hierarchical();
  tiers.set_tier_experts(1, 8);  // For 4 ranks.
  ModelConfig flat = WithFlatGates(hierarchical);
  flat.set_name("flat");
  return {hierarchical, flat};
}

INSTANTIATE_TEST_SUITE_P(Models, MeshTrainingTest,
                         ::testing::ValuesIn(Models()),
                         [](const auto& info) { return info.param.name(); });

// All ways to lay 8 ranks out. Small, as each is run in turn: 8 layers of 8
// experts, 8 micro-batches of 32 tokens.
TEST_P(MeshTrainingTest, EightRanksTrainAsOneDoes) {
  ModelConfig model = GetParam();
  model.set_num_layers(8);
  if (model.moe().has_hierarchical()) {
    HierarchicalRouterConfig& tiers =
        *model.mutable_moe()->mutable_hierarchical();
    for (int i = 0; i < 2; ++i) tiers.set_tier_experts(i, 8);
  }
  Way way;
  way.train.set_accumulation(8);
  way.train.set_batch_size(2);
  way.train.set_seq_len(16);
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kSteps, way);
  for (const int dp : {1, 2, 4, 8}) {
    for (const int ep : {1, 2, 4, 8}) {
      if (8 % (dp * ep) != 0) continue;
      const MeshShape shape = {dp, ep, 8 / (dp * ep)};
      SCOPED_TRACE(ToText(shape));
      ExpectSameRun(shape, one,
                    TrainOnMesh(model, DType::kF64, shape, kSteps, way));
    }
  }
}

// Every way in which a block combines its experts, for a few steps.
TEST(SharedOutTest, AllKindsOfBlocksCanBeSharedOut) {
  std::vector<ModelConfig> models;
  ModelConfig side_by_side = Models()[0];
  side_by_side.set_name("concat");
  side_by_side.mutable_moe()->mutable_hierarchical()->set_combine(
      HierarchicalRouterConfig::CONCAT);
  models.push_back(side_by_side);
  ModelConfig fed = Models()[0];
  fed.set_name("fed tiers beside a shared expert");
  fed.mutable_moe()->mutable_hierarchical()->set_tier_input(
      HierarchicalRouterConfig::FED);
  fed.mutable_moe()->set_shared_width(16);
  models.push_back(fed);
  ModelConfig dense = Models()[1];
  dense.set_name("a dense layer below, a prediction module above");
  dense.set_num_dense_layers(1);
  dense.set_dense_width(32);
  dense.mutable_mtp()->set_num_layers(1);
  dense.mutable_mtp()->set_loss_weight(0.3);
  models.push_back(dense);
  for (const ModelConfig& model : models) {
    SCOPED_TRACE(model.name());
    constexpr int kFew = 5;
    const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
    for (const MeshShape& shape : {MeshShape{1, 2, 1}, MeshShape{1, 2, 2}}) {
      SCOPED_TRACE(ToText(shape));
      ExpectSameRun(shape, one, TrainOnMesh(model, DType::kF64, shape, kFew));
    }
  }
}

// Three stages, of which the one in the middle has no share in the embedding
// that the others tie, by each schedule.
TEST(SharedOutTest, AllSchedulesGiveTheSameSteps) {
  ModelConfig model = Models()[0];
  model.set_num_layers(3);
  ASSERT_TRUE(model.tie_embeddings());
  constexpr int kFew = 8;
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
  for (const PipelineKind schedule :
       {PipelineKind::kGPipe, PipelineKind::k1F1B, PipelineKind::kZbH1,
        PipelineKind::kZb1p}) {
    SCOPED_TRACE(Name(schedule));
    Way way;
    way.schedule = schedule;
    const MeshShape shape = {1, 1, 3};
    ExpectSameRun(shape, one,
                  TrainOnMesh(model, DType::kF64, shape, kFew, way));
  }
}

// The moments of each parameter are on one of the ranks that hold it.
TEST(SharedOutTest, RanksShareTheOptimizerOut) {
  Way way;
  way.shard_optimizer = true;
  constexpr int kFew = 8;
  const ModelConfig model = Models()[0];
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
  for (const MeshShape& shape :
       {MeshShape{4, 1, 1}, MeshShape{1, 4, 1}, MeshShape{2, 2, 2}}) {
    SCOPED_TRACE(ToText(shape));
    const auto runs = TrainOnMesh(model, DType::kF64, shape, kFew, way);
    ExpectSameRun(shape, one, runs);
    size_t sum = 0;
    size_t most = 0;
    for (const RankRun& run : runs) {
      sum += NumMoments(run);
      most = std::max(most, NumMoments(run));
    }
    // Of a pipeline, both ends have those of the tied embedding.
    const size_t tied =
        shape.pp == 1 ? 0 : one.state.at("model.embed_tokens.weight").size();
    EXPECT_EQ(sum, NumMoments(one) + tied);
    // Whole parameters, so not quite even; stages are not even anyway.
    if (shape.pp > 1) continue;
    EXPECT_LE(most * runs.size(), sum * 3 / 2);
  }
}

// Gradients summed within the last micro-batch: of two a rank, which has a
// program of its own, and of one.
TEST(SharedOutTest, SumsWithinTheBackwardPassAreTheSame) {
  constexpr int kFew = 8;
  for (const ModelConfig& model : Models()) {
    SCOPED_TRACE(model.name());
    const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
    for (const MeshShape& shape :
         {MeshShape{2, 1, 1}, MeshShape{1, 2, 1}, MeshShape{2, 2, 1}}) {
      SCOPED_TRACE(ToText(shape));
      for (const bool shards : {false, true}) {
        Way way;
        way.overlap_sums = true;
        way.shard_optimizer = shards;
        ExpectSameRun(shape, one,
                      TrainOnMesh(model, DType::kF64, shape, kFew, way));
      }
    }
  }
}

// Beside the backward pass or after it, the sums are the same bits: also those
// of owners alone, and in buckets of other sizes.
TEST(SharedOutTest, SumsBesideTheBackwardPassChangeNoBit) {
  constexpr int kFew = 5;
  for (const bool shards : {false, true}) {
    for (const MeshShape& shape : {MeshShape{2, 1, 1}, MeshShape{1, 2, 1},
                                   MeshShape{4, 1, 1}, MeshShape{2, 2, 1}}) {
      SCOPED_TRACE(ToText(shape));
      Way after, beside;
      after.shard_optimizer = beside.shard_optimizer = shards;
      beside.overlap_sums = true;
      const auto want =
          TrainOnMesh(Models()[1], DType::kF32, shape, kFew, after);
      const auto got =
          TrainOnMesh(Models()[1], DType::kF32, shape, kFew, beside);
      EXPECT_EQ(WholeState(shape, got), WholeState(shape, want));
      for (int i = 0; i < kFew; ++i) {
        EXPECT_EQ(got[0].steps[i].loss, want[0].steps[i].loss);
        EXPECT_EQ(got[0].steps[i].grad_norm, want[0].steps[i].grad_norm);
      }
    }
  }
}

// Rows on their way beside other work are the same rows: with shared experts
// and without, in one graph and in the pieces of a pipeline's.
TEST(SharedOutTest, RowsOnTheirWayBesideOtherWorkChangeNoBit) {
  constexpr int kFew = 5;
  std::vector<ModelConfig> models = {Models()[1], Models()[0], Models()[0]};
  models[0].mutable_moe()->set_shared_width(16);
  models[2].mutable_moe()->set_shared_width(16);
  for (const ModelConfig& model : models) {
    for (const MeshShape& shape :
         {MeshShape{1, 2, 1}, MeshShape{2, 2, 1}, MeshShape{1, 2, 2}}) {
      SCOPED_TRACE(model.name() + ", " + ToText(shape));
      Way beside;
      beside.overlap_rows = beside.overlap_sums = true;
      const auto want = TrainOnMesh(model, DType::kF32, shape, kFew);
      const auto got = TrainOnMesh(model, DType::kF32, shape, kFew, beside);
      EXPECT_EQ(WholeState(shape, got), WholeState(shape, want));
      for (int i = 0; i < kFew; ++i) {
        EXPECT_EQ(got[0].steps[i].loss, want[0].steps[i].loss);
      }
    }
  }
}

// A validation runs in the rank's own graph, where tokens may leave a tier; the
// ranks of a stage share its batches out.
TEST(SharedOutTest, ValidatesAsOneRankDoes) {
  const Corpus corpus = TinyCorpus();
  const auto validate = [&](const Mesh* mesh) {
    TrainerOptions options;
    options.dtype = DType::kF64;
    options.mesh = mesh;
    auto trainer =
        Trainer::Create(Models()[0], FourMicroBatches(), &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    EXPECT_THAT((*trainer)->Step(), IsOk());
    const auto metrics = (*trainer)->Validate();
    EXPECT_THAT(metrics, IsOk());
    return *metrics;
  };
  const ValidationMetrics one = validate(nullptr);
  for (const MeshShape& shape :
       {MeshShape{1, 2, 1}, MeshShape{1, 2, 2}, MeshShape{4, 1, 1},
        MeshShape{2, 2, 1}, MeshShape{2, 1, 2}}) {
    SCOPED_TRACE(ToText(shape));
    OnMesh(shape, [&](const Mesh& mesh) {
      const ValidationMetrics got = validate(&mesh);
      EXPECT_NEAR(got.nll, one.nll, 1e-9);
      EXPECT_EQ(got.accuracy, one.accuracy);
      EXPECT_EQ(got.experts.gini, one.experts.gini);
      EXPECT_EQ(got.experts.active_share, one.experts.active_share);
    });
  }
}

TEST(SharedOutTest, WantsWhatRanksCanShare) {
  const Corpus corpus = TinyCorpus();
  const TrainConfig train = FourMicroBatches();
  const auto error = [&](const MeshShape& shape) {
    std::vector<std::string> errors(shape.size());
    OnMesh(shape, [&](const Mesh& mesh) {
      TrainerOptions options;
      options.mesh = &mesh;
      errors[mesh.world().rank()] = std::string(
          Trainer::Create(TinyHierarchical(), train, &corpus, 1, options)
              .status()
              .message());
    });
    return errors[0];
  };
  EXPECT_THAT(
      error({3, 1, 1}),
      HasSubstr("train.accumulation is 4; want a multiple of dp x ep = 3"));
  EXPECT_THAT(error({1, 4, 1}),
              HasSubstr("model.layers.0.mlp.tier.1 has 6 experts; want a "
                        "multiple of ep = 4"));
  EXPECT_THAT(error({1, 1, 3}),
              HasSubstr("there are 2 layers; want at least pp = 3"));
}

}  // namespace
}  // namespace strata
