// Experts that move between GPUs while they train: the steps stay those of
// experts that stay, bit for bit where none has copies.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/balance/balance_rule.h"
#include "training/balance/live_balancer.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/gpu/gpu_ranks.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kSteps = 20;
constexpr int kSavedAt = 10;
const MeshShape kTwo = {/*dp=*/1, /*ep=*/2, /*pp=*/1};

TrainConfig Steps() {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_learning_rate(1e-2);
  train.set_accumulation(4);
  return train;
}

// Two tiers of 4 and 8 experts, or 8 flat; nothing else keeps loads even.
ModelConfig ModelOf(bool hierarchical) {
  if (!hierarchical) return TinyFlat();
  ModelConfig model = TinyHierarchical();
  HierarchicalRouterConfig& gate = *model.mutable_moe()->mutable_hierarchical();
  gate.set_tier_experts(1, 8);
  gate.set_balance_weight(0);
  gate.clear_load();
  return model;
}

BalanceRule Every(int64_t steps, int spare) {
  BalanceRule rule;
  rule.when = BalanceRule::When::kEvery;
  rule.steps = steps;
  rule.spare = spare;
  return rule;
}

struct Trained {
  std::vector<StepMetrics> steps;
  std::vector<Placement> placements;  // At the end.
  std::string checkpoint;

  int64_t experts_moved() const {
    int64_t sum = 0;
    for (const StepMetrics& step : steps) {
      for (const ExpertMove& move : step.moves) sum += move.experts;
    }
    return sum;
  }
  std::vector<double> losses() const {
    std::vector<double> all;
    for (const StepMetrics& step : steps) all.push_back(step.loss);
    return all;
  }
  std::vector<double> norms() const {
    std::vector<double> all;
    for (const StepMetrics& step : steps) all.push_back(step.grad_norm);
    return all;
  }
};

class CudaBalanceTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string why = WhyNoGpuRanks(kTwo.size());
    if (!why.empty()) GTEST_SKIP() << why;
  }

  // On GPU `device`, from `resume` on if it is given. With `folder` it saves a
  // checkpoint after kSavedAt steps.
  Trained Train(int device, const Mesh* mesh, const BalanceRule& rule,
                const std::string& folder, const std::string& resume = "") {
    Trained run;
    const Corpus corpus = TinyCorpus();
    TrainerOptions options;
    options.mesh = mesh;
    options.balance = rule;
    options.backend = BackendOnGpu(device, mesh);
    auto trainer =
        Trainer::Create(ModelOf(GetParam()), Steps(), &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    if (!trainer.ok()) return run;
    if (!resume.empty()) {
      EXPECT_THAT((*trainer)->Resume(resume), IsOk());
    }
    while ((*trainer)->step() < kSteps) {
      auto metrics = (*trainer)->Step();
      EXPECT_THAT(metrics, IsOk());
      if (!metrics.ok()) return run;
      run.steps.push_back(*std::move(metrics));
      if (folder.empty() || (*trainer)->step() != kSavedAt) continue;
      const auto path =
          (*trainer)->SaveCheckpoint(folder, nlohmann::json::object());
      EXPECT_THAT(path, IsOk());
      if (path.ok()) run.checkpoint = *path;
    }
    if ((*trainer)->balancer() != nullptr) {
      run.placements = (*trainer)->balancer()->placements();
    }
    return run;
  }

  Trained TrainAlone(const std::string& resume = "") {
    return Train(0, /*mesh=*/nullptr, BalanceRule(), /*folder=*/"", resume);
  }

  // The run as the last rank of two sees it.
  Trained TrainOnTwo(const BalanceRule& rule, const std::string& name = "") {
    Trained run;
    const std::string folder =
        name.empty() ? ""
                     : absl::StrCat(::testing::TempDir(), "/", name,
                                    GetParam() ? "_tiers" : "_flat");
    OnGpuMesh(kTwo, [&](const Mesh& mesh) {
      const int rank = mesh.world().rank();
      Trained mine = Train(rank, &mesh, rule, folder);
      if (rank == kTwo.size() - 1) run = std::move(mine);
    });
    return run;
  }
};

// The same but for the order of sums, from step `first` on.
void ExpectNear(const Trained& got, const Trained& want, size_t first = 0) {
  ASSERT_EQ(want.steps.size(), kSteps);
  ASSERT_EQ(got.steps.size(), kSteps - first);
  for (size_t i = first; i < kSteps; ++i) {
    const double loss = want.steps[i].loss;
    EXPECT_NEAR(got.steps[i - first].loss, loss, 1e-3 * loss) << "step " << i;
  }
}

// With a checkpoint in between, for which all experts go home and back.
TEST_P(CudaBalanceTest, MovedExpertsTrainAsThoseThatStay) {
  const Trained one = TrainAlone();
  BalanceRule rule = Every(3, /*spare=*/0);
  rule.max_bytes = 100000;  // A few slots at a time.
  const Trained moved = TrainOnTwo(rule, "moved");
  const Trained stood = TrainOnTwo(Every(1000000, /*spare=*/0));
  EXPECT_GT(moved.experts_moved(), 10);
  EXPECT_EQ(stood.experts_moved(), 0);
  ExpectNear(moved, one);
  EXPECT_EQ(moved.losses(), stood.losses());
  EXPECT_EQ(moved.norms(), stood.norms());
  // One GPU finds its experts in the checkpoint.
  ExpectNear(TrainAlone(moved.checkpoint), one, kSavedAt);
}

TEST_P(CudaBalanceTest, CopiesOfExpertsTrainAsOne) {
  const Trained one = TrainAlone();
  const BalanceRule rule = Every(5, /*spare=*/1);
  const Trained first = TrainOnTwo(rule);
  const Trained second = TrainOnTwo(rule);
  ExpectNear(first, one);
  EXPECT_EQ(first.losses(), second.losses());
  EXPECT_EQ(first.norms(), second.norms());
  int shared = 0;  // Experts on both ranks.
  for (const Placement& placement : first.placements) {
    const size_t own = placement.expert.size() / kTwo.ep;
    for (size_t a = 0; a < own; ++a) {
      for (size_t b = own; b < placement.expert.size(); ++b) {
        shared += placement.expert[a] == placement.expert[b];
      }
    }
  }
  EXPECT_GT(shared, 0);
}

TEST_P(CudaBalanceTest, TheAlarmMovesExpertsAndTheSpreadComesDown) {
  BalanceRule rule;
  rule.when = BalanceRule::When::kAlarm;
  rule.spare = 1;
  const Trained run = TrainOnTwo(rule);
  ASSERT_GT(run.experts_moved(), 0);
  double before = 0, after = 0;
  for (const StepMetrics& step : run.steps) {
    for (const ExpertMove& move : step.moves) {
      EXPECT_GT(move.bytes, 0);
      before += move.spread_before;
      after += move.spread_after;
    }
    if (!step.moves.empty()) break;  // The first time.
  }
  EXPECT_LT(after, before / 2);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaBalanceTest, ::testing::Bool(),
                         [](const auto& info) {
                           return std::string(info.param ? "tiers" : "flat");
                         });

}  // namespace
}  // namespace strata
