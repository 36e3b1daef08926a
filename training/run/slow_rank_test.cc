// A rank that is slower than the others is named.

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/runtime/backend.h"
#include "core/runtime/observed_backend.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/metrics.h"
#include "training/run/training_run.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Case {
  std::string name;
  MeshShape shape;
  bool overlap_sums = false;
  // Milliseconds that each tenth node takes longer on each rank, so much that
  // no other process on the machine hides it: first, and once the first rank
  // has done `first_steps`.
  std::vector<int> first, then;
  int first_steps = 0;
  int steps = 6;
};

class Sleeps : public NodeObserver {
 public:
  Sleeps(const Case& one_case, int rank, const std::atomic<int>& steps)
      : case_(one_case), rank_(rank), steps_(steps) {}

  void Begin(const Node& node) override {
    if (++num_nodes_ % 10 != 0) return;
    const bool is_first = steps_ < case_.first_steps;
    std::this_thread::sleep_for(std::chrono::milliseconds(
        (is_first ? case_.first : case_.then)[rank_]));
  }

 private:
  const Case& case_;
  const int rank_;
  const std::atomic<int>& steps_;
  int num_nodes_ = 0;
};

// What the first rank tells of slow ones.
std::vector<nlohmann::json> EventsOf(const Case& one_case) {
  const int steps = one_case.steps;
  std::atomic<int> steps_done = 0;
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * i % 97 + 30);
  const Corpus corpus = *MakeCorpus({{"a", {{"a", text}}}});
  RunOptions options;
  options.model = *ModelPreset("demo");
  options.model.set_d_model(32);
  options.model.set_num_layers(2);
  options.model.mutable_moe()->set_expert_width(8);
  options.model.mutable_moe()->mutable_hierarchical()->set_energy_groups(8);
  options.train = *TrainPreset("demo");
  options.train.set_steps(steps);
  options.train.set_seq_len(16);
  options.train.set_batch_size(1);
  options.train.set_accumulation(2);
  options.train.set_warmup_steps(1);
  options.train.set_validation_tokens(16);
  options.train.set_validation_interval(steps);
  options.train.set_checkpoint_interval(steps);
  options.overwrite = true;  // What a run before has left.
  options.out = absl::StrCat(::testing::TempDir(), "/slow_", one_case.name);
  std::vector<nlohmann::json> events;
  OnMesh(one_case.shape, [&](const Mesh& mesh) {
    Sleeps sleeps(one_case, mesh.world().rank(), steps_done);
    RunOptions mine = options;
    mine.mesh = &mesh;
    mine.overlap_sums = one_case.overlap_sums;
    mine.backend = [&]() -> absl::StatusOr<std::unique_ptr<Backend>> {
      auto cpu =
          std::make_unique<CpuBackend>(/*num_threads=*/1, AllCpuKernels());
      cpu->set_mesh(&mesh);
      return Observed(std::move(cpu), sleeps);
    };
    const auto run = TrainingRun::Start(mine, &corpus);
    ASSERT_THAT(run, IsOk());
    RunObserver observer;
    observer.on_step = [&](const StepMetrics& metrics) {
      steps_done = static_cast<int>(metrics.step);
    };
    observer.on_event = [&](const nlohmann::json& event) {
      if (event.value("alarm", "") == "slow_rank") events.push_back(event);
    };
    ASSERT_THAT((*run)->Finish(observer, [] { return false; }), IsOk());
  });
  return events;
}

void ExpectNamed(const Case& one_case, const std::string& than) {
  const auto events = EventsOf(one_case);
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0]["state"], "raised");
  EXPECT_EQ(events[0]["rank"], 1);
  EXPECT_THAT(events[0]["message"].get<std::string>(),
              AllOf(HasSubstr("rank 1 on "), HasSubstr(than)));
}

TEST(SlowRankTest, IsNamedAmongThoseOfItsStage) {
  ExpectNamed({"stage", {2, 1, 1}, false, {}, {0, 20}},
              "as long as the others of its stage");
}

TEST(SlowRankTest, IsNamedWhereSumsAreBesideOtherWork) {
  ExpectNamed({"beside", {2, 1, 1}, true, {}, {0, 20}},
              "as long as the others of its stage");
}

TEST(SlowRankTest, IsNamedWhereItsStageHasNoOther) {
  ExpectNamed({"alone", {1, 1, 2}, false, {10, 10}, {10, 40}, 4, 8},
              "as long as it did");
}

}  // namespace
}  // namespace strata
