// Paced steps by virtual clocks, which nothing but the schedule, the graphs'
// costs and the exchanges between ranks decide: against the prediction from the
// graphs, against the simulator's replay of what was recorded, and against the
// closed formulas of bubbles.

#include "training/paced/paced_run.h"

#include <string>
#include <vector>

#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"
#include "training/paced/paced_example.h"
#include "training/paced/paced_rank.h"

namespace strata {
namespace {

constexpr double kOneRankSeconds = 8;

class PacedRunTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_THAT(corpus_, IsOk()); }

  PacedSetup Setup(const MeshShape& shape, PipelineKind schedule,
                   const std::string& scope = "") {
    PacedSetup setup = PacedExample(shape, schedule);
    setup.pace.scope = scope;
    const auto pace = PaceOf(setup, kOneRankSeconds);
    EXPECT_THAT(pace, IsOk());
    setup.pace = *pace;
    return setup;
  }

  PacedRun Run(const PacedSetup& setup) {
    auto run = RunPaced(setup, *corpus_, PacedRank::Clock::kVirtual,
                        /*num_steps=*/1);
    EXPECT_THAT(run, IsOk());
    return *std::move(run);
  }

  const absl::StatusOr<Corpus> corpus_ = PacedCorpus();
};

TEST_F(PacedRunTest, StepsTakeWhatGraphsAndScheduleSay) {
  const std::vector<MeshShape> shapes = {{1, 1, 1}, {2, 1, 1}, {1, 2, 1},
                                         {1, 1, 2}, {1, 1, 4}, {2, 2, 1},
                                         {1, 2, 2}};
  for (const MeshShape& shape : shapes) {
    SCOPED_TRACE(ToText(shape));
    const PacedSetup setup = Setup(shape, PipelineKind::k1F1B);
    const auto want = PredictPaced(setup);
    ASSERT_THAT(want, IsOk());
    const PacedRun run = Run(setup);
    EXPECT_NEAR(run.step_seconds, want->step_seconds,
                2e-3 * want->step_seconds);
    // Durations are whole microseconds.
    const auto replayed = ReplaySeconds(run.traces);
    ASSERT_THAT(replayed, IsOk());
    EXPECT_NEAR(*replayed, run.step_seconds, 1e-4 * run.step_seconds);
  }
}

// On a network on which all gradients take a tenth of one rank's step.
TEST_F(PacedRunTest, ExchangesBesideOtherWorkTakeWhatGraphsSay) {
  struct Case {
    MeshShape shape;
    bool to_owners = false;
    double hidden;  // At least so much of what is exposed otherwise.
  };
  const std::vector<Case> cases = {{{2, 1, 1}, false, 0.5},
                                   {{4, 1, 1}, false, 0.5},
                                   {{4, 1, 1}, true, 0.25},
                                   {{2, 2, 1}, false, 0.25}};
  for (const Case& c : cases) {
    SCOPED_TRACE(ToText(c.shape) + (c.to_owners ? ", to owners" : ""));
    double exposed[2] = {};
    for (const bool beside : {false, true}) {
      SCOPED_TRACE(beside ? "beside" : "after");
      PacedSetup setup = Setup(c.shape, PipelineKind::k1F1B);
      setup.model.mutable_moe()->set_shared_width(32);
      setup.pace.wire_bytes_per_second = 1.5e6;
      setup.overlap_sums = setup.overlap_rows = beside;
      setup.shard_optimizer = c.to_owners;
      const auto want = PredictPaced(setup);
      ASSERT_THAT(want, IsOk());
      const PacedRun run = Run(setup);
      EXPECT_NEAR(run.step_seconds, want->step_seconds,
                  5e-3 * want->step_seconds);
      EXPECT_NEAR(run.exposed_seconds, want->exposed_seconds,
                  5e-3 * want->step_seconds);
      exposed[beside] = run.exposed_seconds;
      // It has all-to-alls as messages, which cost otherwise there.
      if (c.shape.ep > 1) continue;
      const auto replayed =
          ReplaySeconds(run.traces, setup.pace.wire_bytes_per_second);
      ASSERT_THAT(replayed, IsOk());
      EXPECT_NEAR(*replayed, run.step_seconds, 0.02 * run.step_seconds);
    }
    EXPECT_LT(exposed[1], (1 - c.hidden) * exposed[0]);
  }
}

// Sums of stages beside what their ranks still do, and the pipeline's drain:
// all gradients of a stage would take a twentieth of one rank's step.
TEST_F(PacedRunTest, SumsOfStagesBesideTheirItemsTakeWhatGraphsSay) {
  struct Case {
    PipelineKind kind;
    MeshShape shape;
    bool to_owners = false;
  };
  const std::vector<Case> cases = {{PipelineKind::k1F1B, {2, 1, 2}, false},
                                   {PipelineKind::k1F1B, {2, 1, 2}, true},
                                   {PipelineKind::kGPipe, {2, 1, 4}, false},
                                   {PipelineKind::kZbH1, {2, 1, 4}, false}};
  for (const Case& c : cases) {
    SCOPED_TRACE(ToText(c.shape) + (c.to_owners ? ", to owners" : ""));
    double step[2] = {};
    for (const bool beside : {false, true}) {
      SCOPED_TRACE(beside ? "beside" : "after");
      PacedSetup setup = Setup(c.shape, c.kind);
      setup.pace.wire_bytes_per_second = 1.5e6;
      setup.overlap_sums = beside;
      setup.shard_optimizer = c.to_owners;
      const auto want = PredictPaced(setup);
      ASSERT_THAT(want, IsOk());
      const PacedRun run = Run(setup);
      EXPECT_NEAR(run.step_seconds, want->step_seconds,
                  5e-3 * want->step_seconds);
      const auto replayed =
          ReplaySeconds(run.traces, setup.pace.wire_bytes_per_second);
      ASSERT_THAT(replayed, IsOk());
      EXPECT_NEAR(*replayed, run.step_seconds, 0.02 * run.step_seconds);
      step[beside] = run.step_seconds;
    }
    EXPECT_LT(step[1], step[0]);
  }
}

TEST_F(PacedRunTest, StepsOfSeveralStagesTakeWhatGraphsAndScheduleSay) {
  for (const PipelineKind kind :
       {PipelineKind::kInterleaved, PipelineKind::kDualPipe,
        PipelineKind::kDualPipeV}) {
    SCOPED_TRACE(Name(kind));
    MeshShape shape = {1, 1, 4};
    shape.mirrored = kind == PipelineKind::kDualPipe;
    const PacedSetup setup = Setup(shape, kind);
    const auto want = PredictPaced(setup);
    ASSERT_THAT(want, IsOk());
    const PacedRun run = Run(setup);
    EXPECT_NEAR(run.step_seconds, want->step_seconds,
                5e-3 * want->step_seconds);
    // With DualPipeV a rank sends to itself.
    const auto replayed = ReplaySeconds(run.traces);
    ASSERT_THAT(replayed, IsOk());
    EXPECT_NEAR(*replayed, run.step_seconds, 5e-3 * run.step_seconds);
  }
}

// Rows of one half of a pair beside the work of the other: where all gradients
// of the model take a fifth of one rank's step to leave a rank.
TEST_F(PacedRunTest, PairsOfOneProgramHideRowsThatNothingElseDoes) {
  for (const PipelineKind kind :
       {PipelineKind::kDualPipe, PipelineKind::kDualPipeV}) {
    SCOPED_TRACE(Name(kind));
    const auto step = [&](bool overlap_rows, bool join_pairs) {
      MeshShape shape = {1, 2, 2};
      shape.mirrored = kind == PipelineKind::kDualPipe;
      PacedSetup setup = Setup(shape, kind);
      setup.pace.wire_bytes_per_second = 0.75e6;
      setup.overlap_rows = overlap_rows;
      setup.join_pairs = join_pairs;
      const auto want = PredictPaced(setup);
      EXPECT_THAT(want, IsOk());
      const double step_seconds = Run(setup).step_seconds;
      EXPECT_NEAR(step_seconds, want->step_seconds, 0.01 * step_seconds);
      return step_seconds;
    };
    const double after = step(false, false);
    const double beside = step(true, false);
    const double in_pairs = step(true, true);
    EXPECT_LE(beside, after);
    EXPECT_LT(in_pairs, 0.98 * beside);
  }
}

TEST_F(PacedRunTest, BubblesAreThoseOfTheFormulas) {
  for (const PipelineKind kind : {PipelineKind::kGPipe, PipelineKind::k1F1B,
                                  PipelineKind::kZbH1, PipelineKind::kZb1p}) {
    SCOPED_TRACE(Name(kind));
    const MeshShape shape = {1, 1, 4};
    const PacedSetup setup = Setup(shape, kind, "model.layers.");
    const auto stage = PredictPaced(setup);
    ASSERT_THAT(stage, IsOk());
    const double busy =
        static_cast<double>(setup.train.accumulation()) *
        (stage->forward + stage->input_grad + stage->weight_grad);
    const double bubble = Run(setup).step_seconds - busy - stage->update;
    const double formula = FormulaBubble(kind, shape.pp, *stage);
    EXPECT_NEAR(bubble, formula, 0.01 * formula);
    EXPECT_NEAR(stage->bubble, formula, 0.01 * formula);
  }
}

}  // namespace
}  // namespace strata
