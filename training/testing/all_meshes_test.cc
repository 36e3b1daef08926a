// Every mesh of two to eight ranks, by every schedule of one stage a rank,
// trains as one rank does. (Of several stages a rank:
// training/pipeline/several_stages_test.cc.)

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "gtest/gtest.h"
#include "training/routing_fixture.h"
#include "training/testing/mesh_runs.h"

namespace strata {
namespace {

constexpr PipelineKind kSchedules[] = {
    PipelineKind::k1F1B, PipelineKind::kGPipe, PipelineKind::kZbH1,
    PipelineKind::kZb1p};

// All ways to lay `ranks` out over dp, ep and pp.
std::vector<MeshShape> Meshes(int ranks) {
  std::vector<MeshShape> meshes;
  for (int dp = 1; dp <= ranks; ++dp) {
    for (int ep = 1; dp * ep <= ranks; ++ep) {
      if (ranks % (dp * ep) != 0) continue;
      meshes.push_back({dp, ep, ranks / (dp * ep)});
    }
  }
  return meshes;
}

// A layer for each stage, an expert or two for each rank.
ModelConfig ModelFor(int ranks) {
  ModelConfig model = WithFlatGates(TinyHierarchical());
  model.set_num_layers(ranks);
  model.mutable_moe()->mutable_flat()->set_num_experts(ranks < 5 ? 2 * ranks
                                                                 : ranks);
  return model;
}

Way WayFor(int ranks, PipelineKind schedule) {
  Way way;
  way.train.set_accumulation(ranks);
  way.train.set_batch_size(2);
  way.train.set_seq_len(16);
  way.schedule = schedule;
  return way;
}

class AllMeshesTest : public ::testing::TestWithParam<int> {};

TEST_P(AllMeshesTest, TrainAsOneRankDoes) {
  const int ranks = GetParam();
  const ModelConfig model = ModelFor(ranks);
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kSteps,
                            WayFor(ranks, PipelineKind::k1F1B));
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  for (const MeshShape& shape : Meshes(ranks)) {
    for (const PipelineKind schedule : kSchedules) {
      if (shape.pp == 1 && schedule != PipelineKind::k1F1B) continue;
      SCOPED_TRACE(ToText(shape) + " " + std::string(Name(schedule)));
      ExpectSameRun(shape, one,
                    TrainOnMesh(model, DType::kF64, shape, kSteps,
                                WayFor(ranks, schedule)));
    }
  }
}

double Largest(const std::vector<double>& x) {
  double largest = 0;
  for (const double v : x) largest = std::max(largest, std::abs(v));
  return largest;
}

// In F32 what ranks do otherwise is to add up in another order. So a gradient
// may be off from F64's by a few times what one rank's is, and by a rounding of
// its largest number where one rank's happens to be next to none.
TEST_P(AllMeshesTest, FirstGradientsInF32AreOneRanksWithinRounding) {
  constexpr double kTimes = 4;
  constexpr double kRounding = std::numeric_limits<float>::epsilon();
  const int ranks = GetParam();
  const ModelConfig model = ModelFor(ranks);
  const Way alone = WayFor(ranks, PipelineKind::k1F1B);
  const RankRun exact = Train(model, DType::kF64, nullptr, 1, alone);
  const RankRun one = Train(model, DType::kF32, nullptr, 1, alone);
  ASSERT_FALSE(exact.gradients.empty());
  for (const MeshShape& shape : Meshes(ranks)) {
    for (const PipelineKind schedule : kSchedules) {
      if (shape.pp == 1 && schedule != PipelineKind::k1F1B) continue;
      SCOPED_TRACE(ToText(shape) + " " + std::string(Name(schedule)));
      const auto got = WholeGradients(
          shape,
          TrainOnMesh(model, DType::kF32, shape, 1, WayFor(ranks, schedule)));
      ASSERT_EQ(got.size(), exact.gradients.size());
      for (const auto& [name, want] : exact.gradients) {
        const double largest = Largest(want);
        ASSERT_GT(largest, 0) << name;
        const double off_alone =
            LargestDifference(one.gradients.at(name), want);
        EXPECT_LE(LargestDifference(got.at(name), want),
                  kTimes * (off_alone + kRounding * largest))
            << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, AllMeshesTest, ::testing::Range(2, 9),
                         [](const auto& info) {
                           return std::to_string(info.param);
                         });

}  // namespace
}  // namespace strata
