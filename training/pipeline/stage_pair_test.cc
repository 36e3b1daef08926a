// Pairs of a forward and a backward as one program: the bits of one after the
// other, and the steps of one rank.

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

class StagePairTest : public ::testing::TestWithParam<PipelineKind> {
 protected:
  // Held to one after the other, where nothing runs beside anything.
  void ExpectTheSameBits(const ModelConfig& model, DType dtype,
                         const MeshShape& shape, Way way) {
    constexpr int kFew = 4;
    SCOPED_TRACE(ToText(shape));
    const auto want = TrainOnMesh(model, dtype, shape, kFew, way);
    way.overlap_rows = true;
    const auto got = TrainOnMesh(model, dtype, shape, kFew, way);
    EXPECT_EQ(WholeState(shape, got), WholeState(shape, want));
    for (int i = 0; i < kFew; ++i) {
      EXPECT_EQ(got[0].steps[i].loss, want[0].steps[i].loss);
      EXPECT_EQ(got[0].steps[i].grad_norm, want[0].steps[i].grad_norm);
    }
  }
};

TEST_P(StagePairTest, ChangesNoBit) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const bool flat : {true, false}) {
      SCOPED_TRACE(std::string(Name(dtype)) + (flat ? ", flat" : ", tiers"));
      const ModelConfig model = flat ? Flat(8) : Hierarchical(8);
      for (const MeshShape& shape :
           {MeshOf(1, 2, 2, GetParam()), MeshOf(1, 2, 4, GetParam())}) {
        ExpectTheSameBits(model, dtype, shape,
                          WayOf(GetParam(), kMicroBatches));
      }
    }
  }
}

TEST_P(StagePairTest, ChangesNoBitOfFourRanksOfExpertsAndTwoOfData) {
  for (const MeshShape& shape :
       {MeshOf(1, 4, 2, GetParam()), MeshOf(2, 2, 2, GetParam())}) {
    ExpectTheSameBits(Flat(4), DType::kF32, shape,
                      WayOf(GetParam(), 2 * kMicroBatches));
  }
}

// Shared experts, dense layers, a prediction module on an embedding that both
// of a rank's stages read; moments and sums that are shared out; sums that the
// last weight gradients begin.
TEST_P(StagePairTest, ChangesNoBitBesideAllElse) {
  ModelConfig model = Flat(4);
  model.set_num_dense_layers(1);
  model.set_dense_width(32);
  model.mutable_moe()->set_shared_width(16);
  model.mutable_mtp()->set_num_layers(1);
  model.mutable_mtp()->set_loss_weight(0.3);
  for (const bool sums : {false, true}) {
    SCOPED_TRACE(sums);
    Way way = WayOf(GetParam(), kMicroBatches);
    way.overlap_sums = sums;
    way.shard_optimizer = sums;
    ExpectTheSameBits(model, DType::kF32, MeshOf(1, 2, 2, GetParam()), way);
  }
}

TEST_P(StagePairTest, ChangesNoBitWhereExpertsMove) {
  Way way = WayOf(GetParam(), kMicroBatches);
  way.balance.when = BalanceRule::When::kEvery;
  way.balance.steps = 2;
  way.balance.spare = 1;
  ExpectTheSameBits(Flat(4), DType::kF32, MeshOf(1, 2, 2, GetParam()), way);
}

TEST_P(StagePairTest, TrainsAsOneRankDoes) {
  const ModelConfig model = Hierarchical(8);
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kSteps,
                            WayOf(PipelineKind::k1F1B, kMicroBatches));
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  Way way = WayOf(GetParam(), kMicroBatches);
  way.overlap_rows = true;
  for (const MeshShape& shape :
       {MeshOf(1, 2, 2, GetParam()), MeshOf(1, 2, 4, GetParam())}) {
    SCOPED_TRACE(ToText(shape));
    ExpectSameRun(shape, one,
                  TrainOnMesh(model, DType::kF64, shape, kSteps, way));
  }
}

INSTANTIATE_TEST_SUITE_P(Schedules, StagePairTest,
                         ::testing::Values(PipelineKind::kDualPipe,
                                           PipelineKind::kDualPipeV),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

}  // namespace
}  // namespace strata
