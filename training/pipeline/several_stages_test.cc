// Schedules that give a rank several stages against one rank: the same losses,
// weights and loads.

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/balance/balance_rule.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/metrics.h"
#include "training/pipeline/pipeline_fixture.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/routing_fixture.h"
#include "training/testing/mesh_runs.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr PipelineKind kSchedules[] = {PipelineKind::kInterleaved,
                                       PipelineKind::kDualPipe,
                                       PipelineKind::kDualPipeV};

// All meshes of at most 8 ranks that 8 layers and 16 micro-batches allow.
class SeveralStagesTest : public ::testing::TestWithParam<PipelineKind> {
 protected:
  static constexpr int kLayers = 8;
  static constexpr int kMicroBatches = 16;

  void ExpectAllMeshesTrainAsOne(const ModelConfig& model) {
    const PipelineKind schedule = GetParam();
    const Way alone = WayOf(PipelineKind::k1F1B, kMicroBatches);
    const RankRun one =
        Train(model, DType::kF64, /*mesh=*/nullptr, kSteps, alone);
    ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
    int runs = 0;
    for (const int pp : {2, 4, 8}) {
      for (const int ep : {1, 2, 4}) {
        for (const int dp : {1, 2, 4}) {
          const MeshShape shape = MeshOf(dp, ep, pp, schedule);
          if (shape.size() > 8) continue;
          const int micro_batches = kMicroBatches / (dp * ep);
          if (!PlanPipeline({schedule}, shape, micro_batches, kLayers).ok()) {
            continue;
          }
          SCOPED_TRACE(ToText(shape));
          ExpectSameRun(shape, one,
                        TrainOnMesh(model, DType::kF64, shape, kSteps,
                                    WayOf(schedule, kMicroBatches)));
          ++runs;
        }
      }
    }
    EXPECT_EQ(runs, schedule == PipelineKind::kDualPipe ? 10 : 9);
  }
};

TEST_P(SeveralStagesTest, HierarchicalLayersTrainAsOnOneRank) {
  ExpectAllMeshesTrainAsOne(Hierarchical(kLayers));
}

TEST_P(SeveralStagesTest, FlatLayersTrainAsOnOneRank) {
  ExpectAllMeshesTrainAsOne(Flat(kLayers));
}

TEST_P(SeveralStagesTest, RepeatsBitForBit) {
  const Way way = WayOf(GetParam(), 16);
  for (const MeshShape& shape :
       {MeshOf(1, 1, 4, GetParam()), MeshOf(2, 2, 2, GetParam())}) {
    SCOPED_TRACE(ToText(shape));
    const ModelConfig model = Hierarchical(8);
    const auto first = TrainOnMesh(model, DType::kF32, shape, 10, way);
    const auto second = TrainOnMesh(model, DType::kF32, shape, 10, way);
    EXPECT_EQ(WholeState(shape, first), WholeState(shape, second));
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(first[0].steps[i].loss, second[1].steps[i].loss);
    }
  }
}

// The module and the output layer of the last stage read the embedding of the
// first, which is on the same rank, or on another, or on both.
TEST_P(SeveralStagesTest, APredictionModuleSharesTheEmbedding) {
  constexpr int kFew = 8;
  for (const bool tied : {true, false}) {
    SCOPED_TRACE(tied);
    ModelConfig model = Flat(4);
    model.set_tie_embeddings(tied);
    model.set_num_dense_layers(1);
    model.set_dense_width(32);
    model.mutable_mtp()->set_num_layers(1);
    model.mutable_mtp()->set_loss_weight(0.3);
    const Way way = WayOf(GetParam(), 8);
    const RankRun one = Train(model, DType::kF64, nullptr, kFew, way);
    for (const MeshShape& shape :
         {MeshOf(1, 1, 2, GetParam()), MeshOf(1, 2, 2, GetParam())}) {
      SCOPED_TRACE(ToText(shape));
      ExpectSameRun(shape, one,
                    TrainOnMesh(model, DType::kF64, shape, kFew, way));
    }
  }
}

// The moments of each parameter are on one of the ranks of its stage; of
// DualPipe on one of either rank's.
TEST_P(SeveralStagesTest, RanksShareTheOptimizerOut) {
  constexpr int kFew = 8;
  const ModelConfig model = Hierarchical(4);
  Way way = WayOf(GetParam(), 16);
  way.shard_optimizer = true;
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew, way);
  const MeshShape shape = MeshOf(2, 2, 2, GetParam());
  const auto runs = TrainOnMesh(model, DType::kF64, shape, kFew, way);
  ExpectSameRun(shape, one, runs);
  size_t sum = 0;
  for (const RankRun& run : runs) sum += NumMoments(run);
  const size_t tied = one.state.at("model.embed_tokens.weight").size();
  switch (GetParam()) {
    case PipelineKind::kDualPipe:
      EXPECT_EQ(sum, 2 * NumMoments(one));
      break;
    case PipelineKind::kInterleaved:
      EXPECT_EQ(sum, NumMoments(one) + tied);
      break;
    default:  // Both of its stages are on one rank.
      EXPECT_EQ(sum, NumMoments(one));
  }
}

TEST_P(SeveralStagesTest, ExpertsMoveMeanwhile) {
  constexpr int kFew = 12;
  const ModelConfig model = Flat(4);
  Way way = WayOf(GetParam(), 8);
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew, way);
  for (const int spare : {0, 1}) {
    SCOPED_TRACE(spare);
    way.balance.when = BalanceRule::When::kEvery;
    way.balance.steps = 3;
    way.balance.spare = spare;
    const auto runs =
        TrainOnMesh(model, DType::kF64, MeshOf(1, 2, 2, GetParam()), kFew, way);
    size_t moves = 0;
    for (const RankRun& run : runs) {
      ASSERT_EQ(run.steps.size(), one.steps.size());
      for (int i = 0; i < kFew; ++i) {
        moves += run.steps[i].moves.size();
        ASSERT_NEAR(run.steps[i].loss, one.steps[i].loss, 1e-9) << i;
        ASSERT_NEAR(run.steps[i].grad_norm, one.steps[i].grad_norm, 1e-9) << i;
      }
    }
    EXPECT_GT(moves, 0u);
  }
}

TEST_P(SeveralStagesTest, ValidatesAsOneRankDoes) {
  const Corpus corpus = TinyCorpus();
  const auto validate = [&](const Mesh* mesh) {
    TrainerOptions options;
    options.dtype = DType::kF64;
    options.mesh = mesh;
    if (mesh != nullptr) options.schedule = GetParam();
    auto trainer = Trainer::Create(Hierarchical(4), WayOf(GetParam(), 8).train,
                                   &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    EXPECT_THAT((*trainer)->Step(), IsOk());
    const auto metrics = (*trainer)->Validate();
    EXPECT_THAT(metrics, IsOk());
    return *metrics;
  };
  const ValidationMetrics one = validate(nullptr);
  OnMesh(MeshOf(1, 2, 2, GetParam()), [&](const Mesh& mesh) {
    const ValidationMetrics got = validate(&mesh);
    EXPECT_NEAR(got.nll, one.nll, 1e-9);
    EXPECT_EQ(got.accuracy, one.accuracy);
    EXPECT_EQ(got.experts.gini, one.experts.gini);
    EXPECT_EQ(got.experts.active_share, one.experts.active_share);
  });
}

// A checkpoint has each tensor once, and one rank, or another mesh, goes on
// from it with the same bits.
TEST_P(SeveralStagesTest, CheckpointsGoFromMeshToMesh) {
  const Corpus corpus = TinyCorpus();
  const std::string runs =
      absl::StrCat(::testing::TempDir(), "/several_", Name(GetParam()));
  std::filesystem::remove_all(runs);
  const auto make = [&](const Mesh* mesh, PipelineKind schedule) {
    TrainerOptions options;
    options.mesh = mesh;
    options.schedule = schedule;
    auto trainer = Trainer::Create(Hierarchical(4), WayOf(GetParam(), 8).train,
                                   &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  };
  const auto save = [&](Trainer& trainer, const std::string& to) {
    const auto saved =
        trainer.SaveCheckpoint(runs + to, nlohmann::json::object());
    EXPECT_THAT(saved, IsOk());
    return *saved;
  };
  OnMesh(MeshOf(1, 2, 2, GetParam()), [&](const Mesh& mesh) {
    const auto trainer = make(&mesh, GetParam());
    for (int i = 0; i < 2; ++i) ASSERT_THAT(trainer->Step(), IsOk());
    save(*trainer, "/several");
  });
  const auto alone = make(nullptr, PipelineKind::k1F1B);
  ASSERT_THAT(alone->Resume(runs + "/several/step-000002"), IsOk());
  const std::string whole = save(*alone, "/alone");
  const auto next = alone->Step();
  ASSERT_THAT(next, IsOk());
  // Through each schedule, and back to one rank.
  for (const PipelineKind schedule : kSchedules) {
    SCOPED_TRACE(Name(schedule));
    const std::string to = absl::StrCat("/by_", Name(schedule));
    OnMesh(MeshOf(2, 1, 2, schedule), [&](const Mesh& mesh) {
      const auto trainer = make(&mesh, schedule);
      ASSERT_THAT(trainer->Resume(runs + "/several/step-000002"), IsOk());
      save(*trainer, to);
      const auto metrics = trainer->Step();
      ASSERT_THAT(metrics, IsOk());
      // Forward alone: a loss near 5, of 24 bits.
      EXPECT_NEAR(metrics->loss, next->loss, 1e-5);
    });
    const auto again = make(nullptr, PipelineKind::k1F1B);
    ASSERT_THAT(again->Resume(absl::StrCat(runs, to, "/step-000002")), IsOk());
    const std::string back = save(*again, to + "_alone");
    for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) {
      const auto want = ReadFile(whole + file);
      const auto got = ReadFile(back + file);
      ASSERT_THAT(want, IsOk());
      ASSERT_THAT(got, IsOk());
      EXPECT_TRUE(*want == *got) << file;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schedules, SeveralStagesTest,
                         ::testing::ValuesIn(kSchedules), [](const auto& info) {
                           return std::string(Name(info.param));
                         });

// More than two stages a rank, and stages of several layers.
TEST(InterleavedTest, RanksHaveAsManyStagesAsIsSaid) {
  constexpr int kFew = 8;
  const ModelConfig model = Hierarchical(9);
  struct Case {
    int pp;
    int chunks;
  };
  for (const Case& one_case : {Case{2, 3}, Case{2, 4}, Case{3, 3}}) {
    SCOPED_TRACE(absl::StrCat(one_case.pp, " x ", one_case.chunks));
    const Way way = WayOf(PipelineKind::kInterleaved, 6, one_case.chunks);
    const RankRun one = Train(model, DType::kF64, nullptr, kFew, way);
    const MeshShape shape = {1, 1, one_case.pp};
    ExpectSameRun(shape, one,
                  TrainOnMesh(model, DType::kF64, shape, kFew, way));
  }
}

TEST(InterleavedTest, IsForAPipeline) {
  const Corpus corpus = TinyCorpus();
  TrainerOptions options;
  options.schedule = PipelineKind::kInterleaved;
  EXPECT_THAT(Trainer::Create(Hierarchical(4), WayOf(options.schedule, 4).train,
                              &corpus, 1, options)
                  .status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("several stages, and --pp is 1")));
}

}  // namespace
}  // namespace strata
