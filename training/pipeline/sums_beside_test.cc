// Gradients of stages that are summed over ranks beside what these still do
// (--overlap-sums with --pp): the bits of sums after it, and the steps of one
// rank.

#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "gtest/gtest.h"
#include "training/balance/balance_rule.h"
#include "training/pipeline/pipeline_fixture.h"
#include "training/testing/mesh_runs.h"

namespace strata {
namespace {

constexpr int kMicroBatches = 16;

class SumsBesideTest : public ::testing::TestWithParam<PipelineKind> {
 protected:
  void ExpectTheSameBits(const ModelConfig& model, const MeshShape& shape,
                         Way way) {
    constexpr int kFew = 4;
    const auto want = TrainOnMesh(model, DType::kF32, shape, kFew, way);
    way.overlap_sums = true;
    const auto got = TrainOnMesh(model, DType::kF32, shape, kFew, way);
    EXPECT_EQ(WholeState(shape, got), WholeState(shape, want));
    for (int i = 0; i < kFew; ++i) {
      EXPECT_EQ(got[0].steps[i].loss, want[0].steps[i].loss);
      EXPECT_EQ(got[0].steps[i].grad_norm, want[0].steps[i].grad_norm);
    }
  }
};

TEST_P(SumsBesideTest, TrainAsOneRankDoes) {
  const Way alone = WayOf(PipelineKind::k1F1B, kMicroBatches);
  const ModelConfig model = Hierarchical(4);
  const RankRun one =
      Train(model, DType::kF64, /*mesh=*/nullptr, kSteps, alone);
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  for (const bool shards : {false, true}) {
    Way way = WayOf(GetParam(), kMicroBatches);
    way.overlap_sums = true;
    way.overlap_rows = true;
    way.shard_optimizer = shards;
    const MeshShape shape = MeshOf(2, 2, 2, GetParam());
    SCOPED_TRACE(shards ? "to owners" : "to all");
    ExpectSameRun(shape, one,
                  TrainOnMesh(model, DType::kF64, shape, kSteps, way));
  }
}

// To all ranks and to owners, of stages that tie the embedding.
TEST_P(SumsBesideTest, ChangeNoBit) {
  for (const bool shards : {false, true}) {
    for (const MeshShape& shape :
         {MeshOf(2, 1, 2, GetParam()), MeshOf(1, 2, 2, GetParam()),
          MeshOf(2, 2, 2, GetParam()), MeshOf(2, 1, 4, GetParam())}) {
      SCOPED_TRACE(ToText(shape) + (shards ? ", to owners" : ""));
      Way way = WayOf(GetParam(), kMicroBatches);
      way.shard_optimizer = shards;
      ExpectTheSameBits(Flat(8), shape, way);
    }
  }
}

// Where a stage has no gate, its sums are the last nodes of its program; rows
// are on their way beside other work too.
TEST_P(SumsBesideTest, ChangeNoBitOfDenseLayersAndRowsOnTheirWay) {
  ModelConfig model = Flat(4);
  model.set_tie_embeddings(false);
  model.set_num_dense_layers(2);
  model.set_dense_width(32);
  model.mutable_moe()->set_shared_width(16);
  Way way = WayOf(GetParam(), kMicroBatches);
  way.overlap_rows = true;
  ExpectTheSameBits(model, MeshOf(2, 2, 2, GetParam()), way);
}

TEST_P(SumsBesideTest, ChangeNoBitWhereExpertsMove) {
  Way way = WayOf(GetParam(), kMicroBatches);
  way.balance.when = BalanceRule::When::kEvery;
  way.balance.steps = 2;
  way.balance.spare = 1;
  way.shard_optimizer = true;
  ExpectTheSameBits(Flat(4), MeshOf(2, 2, 2, GetParam()), way);
}

INSTANTIATE_TEST_SUITE_P(
    Schedules, SumsBesideTest,
    ::testing::Values(PipelineKind::kGPipe, PipelineKind::k1F1B,
                      PipelineKind::kZbH1, PipelineKind::kZb1p,
                      PipelineKind::kInterleaved, PipelineKind::kDualPipe,
                      PipelineKind::kDualPipeV),
    [](const auto& info) {
      std::string name(Name(info.param));
      for (char& c : name) {
        if (c == '-') c = '_';
      }
      return name;
    });

}  // namespace
}  // namespace strata
