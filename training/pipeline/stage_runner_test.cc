#include "training/pipeline/stage_runner.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/mesh_fixture.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/routing_fixture.h"
#include "training/step_graph.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kSequences = 2;
constexpr int64_t kSeqLen = 16;

// A layer a stage.
ModelConfig Layers(int num_stages) {
  ModelConfig model = TinyFlat();
  model.set_num_layers(num_stages);
  return model;
}

PipelineSchedule MakeSchedule(PipelineKind kind, int devices, int micro_batches,
                              int chunks = 0) {
  const MeshShape shape = {1, 1, devices, IsMirrored(kind)};
  auto schedule =
      PlanPipeline({kind, chunks}, shape, micro_batches, /*num_layers=*/100);
  EXPECT_THAT(schedule, IsOk());
  return *std::move(schedule);
}

// Tokens that depend on the micro-batch, for whatever of them a program reads.
absl::Status FillInputs(int m, const ProgramPart& program) {
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

struct RankRun {
  int most_held = 0;
  std::map<int, double> losses;  // By micro-batch, where the last stage is.
};

// Two steps of each rank; what the second said.
std::vector<RankRun> RunRanks(const PipelineSchedule& schedule) {
  const int n = schedule.num_devices;
  const ModelConfig model = Layers(schedule.num_stages);
  const auto world = ThreadCommunicators(n, absl::Seconds(60));
  std::vector<RankRun> runs(n);
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const std::vector<int> stages = StagesOf(schedule, rank->rank());
      std::vector<StepGraph> steps;
      for (const int stage : stages) {
        auto step = BuildGradientGraph(
            model, kSequences, kSeqLen, DType::kF64, RouteSource::kGate,
            MeshPlace().OfStage(stage, schedule.num_stages));
        ASSERT_THAT(step, IsOk());
        steps.push_back(*std::move(step));
      }
      CpuBackend backend(1, AllCpuKernels());
      StateStore state(backend);
      auto runner = StageRunner::Create(steps, schedule, backend, state, *rank);
      ASSERT_THAT(runner, IsOk());
      InitializeParameters(model, /*seed=*/1, state);
      RankRun& run = runs[rank->rank()];
      for (int i = 0; i < 2; ++i) {
        run.losses.clear();
        const auto look = [&](int m, int chunk, const Program& forward) {
          if (stages[chunk] != schedule.num_stages - 1) return;
          run.losses[m] = *forward.Output("loss").as<double>();
        };
        ASSERT_THAT((*runner)->Run(FillInputs, look), IsOk());
      }
      run.most_held = (*runner)->most_held();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return runs;
}

std::vector<int> MostHeld(const PipelineSchedule& schedule) {
  std::vector<int> held;
  for (const RankRun& run : RunRanks(schedule)) held.push_back(run.most_held);
  return held;
}

// Of all micro-batches, in order.
std::vector<double> Losses(const PipelineSchedule& schedule) {
  std::map<int, double> losses;
  for (const RankRun& run : RunRanks(schedule)) {
    losses.insert(run.losses.begin(), run.losses.end());
  }
  EXPECT_EQ(static_cast<int>(losses.size()), schedule.num_micro_batches);
  std::vector<double> in_order;
  for (const auto& [m, loss] : losses) in_order.push_back(loss);
  return in_order;
}

TEST(StageRunnerTest, HoldsAsManyMicroBatchesAsTheScheduleSays) {
  EXPECT_THAT(MostHeld(MakeSchedule(PipelineKind::kGPipe, 3, 6)), Each(6));
  // The last stage runs each backward at once, the first waits for all.
  EXPECT_THAT(MostHeld(MakeSchedule(PipelineKind::k1F1B, 3, 6)),
              ElementsAre(3, 2, 1));
}

// Of several stages a rank, one each: as many as the table of
// core/parallel/pipeline_schedule.h has for the first rank, and as many as the
// simulator reckons with on each.
TEST(StageRunnerTest, HoldsAsManyActivationsAsTheSimulatorReckons) {
  struct Case {
    PipelineSchedule schedule;
    int first_rank;
  };
  const std::vector<Case> cases = {
      // v p + p - 1
      {MakeSchedule(PipelineKind::kInterleaved, 2, 6), 2 * 2 + 1},
      {MakeSchedule(PipelineKind::kInterleaved, 2, 6, /*chunks=*/3), 3 * 2 + 1},
      {MakeSchedule(PipelineKind::kInterleaved, 3, 6), 2 * 3 + 2},
      {MakeSchedule(PipelineKind::kDualPipe, 2, 6), 2 + 1},
      {MakeSchedule(PipelineKind::kDualPipe, 4, 8), 4 + 1},
      {MakeSchedule(PipelineKind::kDualPipeV, 2, 6), 2 * 2 + 1},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(absl::StrCat(Name(one.schedule.kind), " over ",
                              one.schedule.num_devices));
    const auto timeline = RunPipeline(one.schedule, EvenCosts({}));
    ASSERT_THAT(timeline, IsOk());
    const std::vector<int> held = MostHeld(one.schedule);
    EXPECT_EQ(held[0], one.first_rank);
    for (int rank = 0; rank < one.schedule.num_devices; ++rank) {
      EXPECT_EQ(held[rank], timeline->peak_activations[rank]) << rank;
    }
  }
}

TEST(StageRunnerTest, AStepLeavesNothingBehind) {
  // Weights stand still, so that both steps say the same.
  const std::vector<double> gpipe =
      Losses(MakeSchedule(PipelineKind::kGPipe, 3, 6));
  EXPECT_EQ(Losses(MakeSchedule(PipelineKind::k1F1B, 3, 6)), gpipe);
  EXPECT_EQ(Losses(MakeSchedule(PipelineKind::kZbH1, 3, 6)), gpipe);
  EXPECT_GT(*std::min_element(gpipe.begin(), gpipe.end()), 0);
}

// Four stages, on four ranks or two.
TEST(StageRunnerTest, StagesOfOneRankSayWhatThoseOfSeveralDo) {
  const std::vector<double> apart =
      Losses(MakeSchedule(PipelineKind::k1F1B, 4, 8));
  EXPECT_EQ(Losses(MakeSchedule(PipelineKind::kInterleaved, 2, 8)), apart);
  EXPECT_EQ(Losses(MakeSchedule(PipelineKind::kDualPipe, 4, 8)), apart);
  EXPECT_EQ(Losses(MakeSchedule(PipelineKind::kDualPipeV, 2, 8)), apart);
}

// The second of two copies of a pipeline begins when the first is at its last
// item: the sums of the stage that ended before were begun without it, and are
// no wait. Were they one, neither would go on.
TEST(StageRunnerTest, SumsOverRanksWaitForNobodyBeforeTheLastItem) {
  const PipelineSchedule schedule =
      MakeSchedule(PipelineKind::kInterleaved, 2, 4);
  const MeshShape shape = {/*dp=*/2, /*ep=*/1, /*pp=*/2};
  const ModelConfig model = Layers(schedule.num_stages);
  absl::Notification at_last_item[2];  // By rank of the pipeline.
  OnMesh(shape, [&](const Mesh& mesh) {
    MeshPlace place;
    place.shape = shape;
    place.dp_rank = mesh.dp().rank();
    const int pp_rank = mesh.pp().rank();
    GradientSums sums;
    sums.made = sums.small_buckets = true;
    std::vector<StepGraph> steps, last;
    for (const int stage : StagesOf(schedule, pp_rank)) {
      for (const bool made : {false, true}) {
        auto step = BuildGradientGraph(
            model, kSequences, kSeqLen, DType::kF64, RouteSource::kGate,
            place.OfStage(stage, schedule.num_stages),
            made ? sums : GradientSums());
        ASSERT_THAT(step, IsOk());
        (made ? last : steps).push_back(*std::move(step));
      }
    }
    CpuBackend backend(1, AllCpuKernels());
    backend.set_mesh(&mesh);
    StateStore state(backend);
    auto runner =
        StageRunner::Create(steps, schedule, backend, state, mesh.pp(), last);
    ASSERT_THAT(runner, IsOk());
    InitializeParameters(model, /*seed=*/1, state);
    int left = 0;  // Programs to be filled.
    for (const PipelineItem& item : schedule.items[pp_rank]) {
      left += static_cast<int>(item.has_forward()) +
              static_cast<int>(item.has_input_grad()) +
              static_cast<int>(item.has_weight_grad());
    }
    const bool is_first = place.dp_rank == 0;
    if (!is_first) {
      for (const auto& there : at_last_item) there.WaitForNotification();
    }
    const auto fill = [&](int m, const ProgramPart& program) {
      if (--left == 0 && is_first) at_last_item[pp_rank].Notify();
      return FillInputs(m, program);
    };
    EXPECT_THAT((*runner)->Run(fill, [](int, int, const Program&) {}), IsOk());
    if (left > 0 && is_first) at_last_item[pp_rank].Notify();
  });
}

}  // namespace
}  // namespace strata
