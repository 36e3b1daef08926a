#include "training/pipeline/pipeline_plan.h"

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

MeshShape Pipeline(int pp, bool mirrored = false) {
  return {/*dp=*/1, /*ep=*/1, pp, mirrored};
}

TEST(PipelinePlanTest, SaysWhichStagesARankHas) {
  const auto stages = [](const PipelineOptions& options, int pp, int rank) {
    const auto schedule =
        PlanPipeline(options, Pipeline(pp, IsMirrored(options.schedule)),
                     /*micro_batches=*/8, /*num_layers=*/12);
    EXPECT_THAT(schedule, IsOk());
    return StagesOf(*schedule, rank);
  };
  EXPECT_THAT(stages({PipelineKind::k1F1B}, 4, 2), ElementsAre(2));
  EXPECT_THAT(stages({PipelineKind::kInterleaved}, 4, 2), ElementsAre(2, 6));
  EXPECT_THAT(stages({PipelineKind::kInterleaved, /*chunks=*/3}, 4, 0),
              ElementsAre(0, 4, 8));
  EXPECT_THAT(stages({PipelineKind::kDualPipe}, 4, 1), ElementsAre(1, 2));
  EXPECT_THAT(stages({PipelineKind::kDualPipe}, 4, 2), ElementsAre(2, 1));
  EXPECT_THAT(stages({PipelineKind::kDualPipeV}, 4, 1), ElementsAre(1, 6));
}

TEST(PipelinePlanTest, WantsWhatAScheduleCanRun) {
  const auto error = [](const PipelineOptions& options, const MeshShape& shape,
                        int micro_batches, int layers = 12) {
    const auto schedule = PlanPipeline(options, shape, micro_batches, layers);
    EXPECT_EQ(schedule.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(schedule.status().message());
  };
  EXPECT_EQ(error({PipelineKind::kInterleaved}, Pipeline(1), 4),
            "--schedule=interleaved gives each rank of a pipeline several "
            "stages, and --pp is 1");
  EXPECT_EQ(error({PipelineKind::kInterleaved, /*chunks=*/1}, Pipeline(2), 4),
            "--schedule=interleaved gives a rank 2 or more stages; --chunks is "
            "1");
  EXPECT_EQ(error({PipelineKind::kZbH1, /*chunks=*/2}, Pipeline(2), 4),
            "--schedule=zb-h1 gives a rank 1 stage; --chunks is 2");
  EXPECT_EQ(error({PipelineKind::kDualPipe, /*chunks=*/3}, Pipeline(2), 4),
            "--schedule=dualpipe gives a rank 2 stages; --chunks is 3");
  EXPECT_EQ(error({PipelineKind::kDualPipe}, Pipeline(3), 6),
            "--schedule=dualpipe has each stage on two ranks; --pp is 3, want "
            "an even number");
  EXPECT_EQ(error({PipelineKind::kInterleaved}, Pipeline(4), 6),
            "--schedule=interleaved wants a multiple of pp = 4 micro-batches, "
            "train.accumulation over dp x ep, in a step; there are 6");
  EXPECT_EQ(error({PipelineKind::kDualPipe}, Pipeline(4, true), 6),
            "--schedule=dualpipe wants an even number of at least 2 x pp = 8 "
            "micro-batches, train.accumulation over dp x ep, in a step; there "
            "are 6");
  EXPECT_THAT(error({PipelineKind::kDualPipe}, Pipeline(2, true), 5),
              HasSubstr("wants an even number"));
  EXPECT_THAT(error({PipelineKind::kDualPipeV}, Pipeline(4), 7),
              HasSubstr("wants at least 2 x pp = 8 micro-batches"));
  EXPECT_EQ(error({PipelineKind::kInterleaved, /*chunks=*/3}, Pipeline(4), 8,
                  /*layers=*/11),
            "--schedule=interleaved has 3 stages on each of pp = 4 ranks; "
            "there are 11 layers, want at least 12");
  EXPECT_THAT(error({PipelineKind::kDualPipe}, Pipeline(2), 4),
              HasSubstr("is for a mirrored mesh"));
  EXPECT_THAT(error({PipelineKind::k1F1B}, Pipeline(2, true), 4),
              HasSubstr("is not for a mirrored mesh"));
}

TEST(PipelinePlanTest, TheFirstAndTheLastStageMayBeOnOneRank) {
  EXPECT_TRUE(EndsAreApart(PipelineKind::k1F1B));
  EXPECT_TRUE(EndsAreApart(PipelineKind::kInterleaved));
  EXPECT_FALSE(EndsAreApart(PipelineKind::kDualPipe));
  EXPECT_FALSE(EndsAreApart(PipelineKind::kDualPipeV));
}

TEST(PipelinePlanTest, StagesEndWithTheirLastWeightGradients) {
  for (const PipelineKind kind :
       {PipelineKind::k1F1B, PipelineKind::kZbH1, PipelineKind::kInterleaved,
        PipelineKind::kDualPipe, PipelineKind::kDualPipeV}) {
    SCOPED_TRACE(Name(kind));
    const auto schedule =
        PlanPipeline({kind}, Pipeline(2, IsMirrored(kind)), 8, 8);
    ASSERT_THAT(schedule, IsOk());
    for (int device = 0; device < 2; ++device) {
      const std::vector<PipelineItem>& items = schedule->items[device];
      const std::vector<int> last = LastWeightGrads(*schedule, device);
      ASSERT_EQ(static_cast<int>(last.size()), schedule->num_chunks);
      for (int chunk = 0; chunk < schedule->num_chunks; ++chunk) {
        ASSERT_TRUE(items[last[chunk]].has_weight_grad());
        EXPECT_EQ(BackwardChunk(items[last[chunk]]), chunk);
        for (size_t i = last[chunk] + 1; i < items.size(); ++i) {
          EXPECT_FALSE(items[i].has_weight_grad() &&
                       BackwardChunk(items[i]) == chunk);
        }
      }
      // All of a device's items are done when its last stage has ended.
      EXPECT_EQ(last[ChunksByEnd(last).back()] + 1,
                static_cast<int>(items.size()));
    }
  }
  EXPECT_EQ(ChunksByEnd({7, 3, 5}), (std::vector<int>{1, 2, 0}));
}

TEST(PipelinePlanTest, SchedulesGoByTheirNames) {
  const auto options = ParsePipeline("interleaved", 3);
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->schedule, PipelineKind::kInterleaved);
  EXPECT_EQ(options->chunks, 3);
  EXPECT_THAT(ParsePipeline("fifo", 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no pipeline schedule \"fifo\"")));
}

}  // namespace
}  // namespace strata
