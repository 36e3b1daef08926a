#include "training/pipeline/stage_runner.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/routing_fixture.h"
#include "training/step_graph.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kStages = 3;
constexpr int kMicroBatches = 6;
constexpr int64_t kSequences = 2;
constexpr int64_t kSeqLen = 16;

ModelConfig ThreeLayers() {
  ModelConfig model = TinyFlat();
  model.set_num_layers(kStages);
  return model;
}

PipelineSchedule MakeSchedule(PipelineKind kind) {
  PipelineShape shape;
  shape.kind = kind;
  shape.num_devices = kStages;
  shape.num_micro_batches = kMicroBatches;
  auto schedule = MakePipelineSchedule(shape);
  EXPECT_THAT(schedule, IsOk());
  return *std::move(schedule);
}

// Tokens that depend on the micro-batch, for whatever of them a program reads.
absl::Status FillInputs(int m, Program& program) {
  const int64_t t = kSequences * kSeqLen;
  const auto fill = [&](const char* name, auto value) {
    if (!program.HasInput(name)) return;
    const auto span = program.Input(name).span<int32_t>();
    for (size_t i = 0; i < span.size(); ++i) {
      span[i] = static_cast<int32_t>(value(static_cast<int64_t>(i)));
    }
  };
  fill("num_tokens", [&](int64_t i) { return t; });
  fill("ids", [&](int64_t i) { return (7 * i + 13 * m) % 97; });
  fill("target", [&](int64_t i) { return (7 * (i + 1) + 13 * m) % 97; });
  fill("position", [&](int64_t i) { return i % kSeqLen; });
  fill("seq_start", [&](int64_t i) { return i * kSeqLen; });
  return absl::OkStatus();
}

struct StageRun {
  int most_held = 0;
  std::vector<double> losses;  // By micro-batch, of the last stage.
};

// Two steps of each stage; what the second said.
std::vector<StageRun> RunStages(PipelineKind kind) {
  const auto world = ThreadCommunicators(kStages, absl::Seconds(60));
  std::vector<StageRun> runs(kStages);
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      MeshPlace place;
      place.shape.pp = kStages;
      place.pp_rank = rank->rank();
      auto step = BuildGradientGraph(ThreeLayers(), kSequences, kSeqLen,
                                     DType::kF64, RouteSource::kGate, place);
      ASSERT_THAT(step, IsOk());
      CpuBackend backend(1, AllCpuKernels());
      StateStore state(backend);
      auto runner =
          StageRunner::Create(*step, MakeSchedule(kind), backend, state, *rank);
      ASSERT_THAT(runner, IsOk());
      InitializeParameters(ThreeLayers(), /*seed=*/1, state);
      StageRun& run = runs[rank->rank()];
      for (int i = 0; i < 2; ++i) {
        run.losses.assign(kMicroBatches, 0);
        ASSERT_THAT((*runner)->Run(FillInputs,
                                   [&](int m, const Program& forward) {
                                     if (!place.is_last_stage()) return;
                                     run.losses[m] =
                                         *forward.Output("loss").as<double>();
                                   }),
                    IsOk());
      }
      run.most_held = (*runner)->most_held();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return runs;
}

std::vector<int> MostHeld(PipelineKind kind) {
  std::vector<int> held;
  for (const StageRun& run : RunStages(kind)) held.push_back(run.most_held);
  return held;
}

TEST(StageRunnerTest, HoldsAsManyMicroBatchesAsTheScheduleSays) {
  EXPECT_THAT(MostHeld(PipelineKind::kGPipe), Each(kMicroBatches));
  // The last stage runs each backward at once, the first waits for all.
  EXPECT_THAT(MostHeld(PipelineKind::k1F1B), ElementsAre(3, 2, 1));
}

TEST(StageRunnerTest, AStepLeavesNothingBehind) {
  // Weights stand still, so that both steps say the same.
  const std::vector<double> gpipe = RunStages(PipelineKind::kGPipe)[2].losses;
  EXPECT_EQ(RunStages(PipelineKind::k1F1B)[2].losses, gpipe);
  EXPECT_EQ(RunStages(PipelineKind::kZbH1)[2].losses, gpipe);
  EXPECT_GT(*std::min_element(gpipe.begin(), gpipe.end()), 0);
}

TEST(StageRunnerTest, RunsSchedulesOfOneStageARank) {
  PipelineShape shape;
  shape.num_devices = 2;
  shape.num_micro_batches = 4;
  for (const PipelineKind kind : {PipelineKind::kGPipe, PipelineKind::k1F1B,
                                  PipelineKind::kZbH1, PipelineKind::kZb1p}) {
    shape.kind = kind;
    EXPECT_THAT(CheckRunnable(shape), IsOk());
  }
  shape.kind = PipelineKind::kDualPipe;
  EXPECT_THAT(CheckRunnable(shape),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("dualpipe gives a rank several stages")));
}

}  // namespace
}  // namespace strata
