// Experts that move while ranks train: the steps stay those of one rank.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/balance/balance_rule.h"
#include "training/balance/live_balancer.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int kSteps = 50;

TrainConfig Steps() {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_warmup_steps(5);
  train.set_learning_rate(1e-2);
  train.set_accumulation(4);
  return train;
}

// Two tiers of 4 and 8 experts; nothing else keeps their loads even.
ModelConfig Tiers() {
  ModelConfig model = TinyHierarchical();
  HierarchicalRouterConfig& gate = *model.mutable_moe()->mutable_hierarchical();
  gate.set_tier_experts(1, 8);
  gate.set_balance_weight(0);
  gate.clear_load();
  return model;
}

BalanceRule Every(int64_t steps) {
  BalanceRule rule;
  rule.when = BalanceRule::When::kEvery;
  rule.steps = steps;
  return rule;
}

// In which nothing moves.
BalanceRule Standing() { return Every(1000000); }

struct Trained {
  std::vector<StepMetrics> steps;
  std::vector<Placement> placements;  // At the end.

  int64_t experts_moved() const {
    int64_t sum = 0;
    for (const StepMetrics& step : steps) {
      for (const ExpertMove& move : step.moves) sum += move.experts;
    }
    return sum;
  }
};

TrainerOptions Options(DType dtype, const Mesh* mesh, const BalanceRule& rule) {
  TrainerOptions options;
  options.dtype = dtype;
  options.mesh = mesh;
  options.balance = rule;
  return options;
}

Trained Train(const ModelConfig& model, const TrainerOptions& options) {
  const Corpus corpus = TinyCorpus();
  auto trainer = Trainer::Create(model, Steps(), &corpus, 1, options);
  EXPECT_THAT(trainer, IsOk());
  Trained run;
  if (!trainer.ok()) return run;
  for (int i = 0; i < kSteps; ++i) {
    auto metrics = (*trainer)->Step();
    EXPECT_THAT(metrics, IsOk());
    run.steps.push_back(*std::move(metrics));
  }
  if ((*trainer)->balancer() != nullptr) {
    run.placements = (*trainer)->balancer()->placements();
  }
  return run;
}

// The run as its last rank sees it.
Trained TrainOnMesh(const ModelConfig& model, DType dtype,
                    const MeshShape& shape, const BalanceRule& rule,
                    bool shard_optimizer = false) {
  Trained run;
  OnMesh(shape, [&](const Mesh& mesh) {
    TrainerOptions options = Options(dtype, &mesh, rule);
    options.shard_optimizer = shard_optimizer;
    Trained mine = Train(model, options);
    if (mesh.world().rank() == shape.size() - 1) run = std::move(mine);
  });
  return run;
}

void ExpectNear(const Trained& got, const Trained& want) {
  ASSERT_EQ(got.steps.size(), want.steps.size());
  for (size_t i = 0; i < want.steps.size(); ++i) {
    const StepMetrics &a = got.steps[i], &b = want.steps[i];
    ASSERT_NEAR(a.loss, b.loss, 1e-9) << "step " << i;
    ASSERT_NEAR(a.grad_norm, b.grad_norm, 1e-9) << "step " << i;
    for (size_t l = 0; l < b.layer_grad_norms.size(); ++l) {
      ASSERT_NEAR(a.layer_grad_norms[l], b.layer_grad_norms[l], 1e-9);
    }
    EXPECT_EQ(a.experts.gini, b.experts.gini) << "step " << i;
  }
}

void ExpectSameBits(const Trained& got, const Trained& want) {
  ASSERT_EQ(got.steps.size(), want.steps.size());
  for (size_t i = 0; i < want.steps.size(); ++i) {
    ASSERT_EQ(got.steps[i].loss, want.steps[i].loss) << "step " << i;
    ASSERT_EQ(got.steps[i].grad_norm, want.steps[i].grad_norm);
    ASSERT_EQ(got.steps[i].layer_grad_norms, want.steps[i].layer_grad_norms);
  }
}

class LiveBalancingTest : public ::testing::TestWithParam<ModelConfig> {};

// Moves of a few slots at a time, and where experts are does not change a bit:
// neither the losses nor, at the next step, what moments make of weights.
TEST_P(LiveBalancingTest, MovedExpertsTrainAsThoseThatStay) {
  const Trained one =
      Train(GetParam(), Options(DType::kF64, /*mesh=*/nullptr, BalanceRule()));
  for (const MeshShape& shape :
       {MeshShape{1, 4, 1}, MeshShape{2, 2, 1}, MeshShape{1, 2, 2}}) {
    SCOPED_TRACE(ToText(shape));
    BalanceRule rule = Every(3);
    rule.max_bytes = 100000;
    const Trained moved = TrainOnMesh(GetParam(), DType::kF64, shape, rule);
    const Trained stood =
        TrainOnMesh(GetParam(), DType::kF64, shape, Standing());
    EXPECT_GT(moved.experts_moved(), 10);
    EXPECT_EQ(stood.experts_moved(), 0);
    ExpectNear(moved, one);
    ExpectSameBits(moved, stood);
  }
}

// A rank's spare slots: rows of a loaded expert are shared out over copies, and
// their gradients added up.
TEST_P(LiveBalancingTest, CopiesOfExpertsTrainAsOne) {
  const Trained one =
      Train(GetParam(), Options(DType::kF64, /*mesh=*/nullptr, BalanceRule()));
  for (const MeshShape& shape : {MeshShape{1, 4, 1}, MeshShape{2, 2, 1}}) {
    SCOPED_TRACE(ToText(shape));
    BalanceRule rule = Every(5);
    rule.spare = 1;
    const Trained first = TrainOnMesh(GetParam(), DType::kF64, shape, rule);
    const Trained second = TrainOnMesh(GetParam(), DType::kF64, shape, rule);
    ExpectNear(first, one);
    ExpectSameBits(first, second);
    // Some expert has copies on two ranks.
    int shared = 0;
    for (const Placement& placement : first.placements) {
      const int own = static_cast<int>(placement.expert.size()) / shape.ep;
      for (size_t a = 0; a < placement.expert.size(); ++a) {
        for (size_t b = a + 1; b < placement.expert.size(); ++b) {
          shared +=
              placement.expert[a] == placement.expert[b] && a / own != b / own;
        }
      }
    }
    EXPECT_GT(shared, 0);
  }
}

TEST_P(LiveBalancingTest, MomentsMoveWhereverTheyAre) {
  const MeshShape shape = {2, 2, 1};
  const Trained one =
      Train(GetParam(), Options(DType::kF64, /*mesh=*/nullptr, BalanceRule()));
  const Trained moved = TrainOnMesh(GetParam(), DType::kF64, shape, Every(4),
                                    /*shard_optimizer=*/true);
  EXPECT_GT(moved.experts_moved(), 0);
  ExpectNear(moved, one);
}

// The gates' loads are anything but even; the alarm of the monitor's rule moves
// experts, and what it says of the spread is what comes.
TEST_P(LiveBalancingTest, TheAlarmMovesExpertsAndTheSpreadComesDown) {
  BalanceRule rule;
  rule.when = BalanceRule::When::kAlarm;
  rule.spare = 1;
  const MeshShape shape = {1, 4, 1};
  const Trained run = TrainOnMesh(GetParam(), DType::kF32, shape, rule);
  ASSERT_GT(run.experts_moved(), 0);
  // Three steps above raise it.
  EXPECT_TRUE(run.steps[0].moves.empty());
  EXPECT_TRUE(run.steps[1].moves.empty());
  double before = 0, after = 0;
  int count = 0;
  for (const StepMetrics& step : run.steps) {
    for (const ExpertMove& move : step.moves) {
      EXPECT_GT(move.bytes, 0);
      before += move.spread_before;
      after += move.spread_after;
      ++count;
    }
    if (count > 0) break;  // The first time.
  }
  EXPECT_LT(after, before / 2);
}

INSTANTIATE_TEST_SUITE_P(Models, LiveBalancingTest,
                         ::testing::Values(Tiers(), TinyFlat()),
                         [](const auto& info) {
                           return std::string(
                               info.param.moe().has_flat() ? "flat" : "tiers");
                         });

// The tensors of a checkpoint by file, as they lie on the disk.
std::map<std::string, std::string> FilesOf(const std::string& checkpoint) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto text = ReadFile(entry.path().string());
    EXPECT_THAT(text, IsOk());
    files[entry.path().filename().string()] = *text;
  }
  EXPECT_GE(files.size(), 2);
  return files;
}

// A checkpoint does not say where experts were, and a run that was resumed, its
// experts in order again, goes on as if it had not stopped.
TEST(BalancedCheckpointTest, IsTheSameWhereverExpertsAre) {
  const Corpus corpus = TinyCorpus();
  const std::string runs = absl::StrCat(::testing::TempDir(), "/balanced");
  const auto train = [&](const MeshShape& shape, const BalanceRule& rule,
                         const std::string& out, const std::string& resume,
                         int64_t steps) {
    double loss = 0;
    OnMesh(shape, [&](const Mesh& mesh) {
      auto trainer = Trainer::Create(TinyFlat(), Steps(), &corpus, 1,
                                     Options(DType::kF32, &mesh, rule));
      ASSERT_THAT(trainer, IsOk());
      if (!resume.empty()) {
        ASSERT_THAT((*trainer)->Resume(resume), IsOk());
      }
      while ((*trainer)->step() < steps) {
        const auto metrics = (*trainer)->Step();
        ASSERT_THAT(metrics, IsOk());
        if (mesh.world().rank() == 0) loss = metrics->loss;
        if ((*trainer)->step() % 4 != 0) continue;
        ASSERT_THAT((*trainer)->SaveCheckpoint(out, nlohmann::json::object()),
                    IsOk());
      }
    });
    return loss;
  };
  const MeshShape four = {1, 4, 1};
  const double stood = train(four, Standing(), runs + "_stood", "", 8);
  const double moved = train(four, Every(2), runs + "_moved", "", 8);
  EXPECT_EQ(moved, stood);
  for (const char* step : {"/step-000004", "/step-000008"}) {
    EXPECT_TRUE(FilesOf(runs + "_moved" + step) ==
                FilesOf(runs + "_stood" + step))
        << step;
  }
  const std::string from = runs + "_moved/step-000004";
  EXPECT_EQ(train(four, Every(3), runs + "_again", from, 8), stood);
  EXPECT_TRUE(FilesOf(runs + "_again/step-000008") ==
              FilesOf(runs + "_stood/step-000008"));
  // Another mesh, other slots, no balancing.
  BalanceRule spare = Every(1);
  spare.spare = 2;
  EXPECT_NEAR(train({2, 2, 1}, spare, runs + "_other", from, 8), stood, 1e-4);
  EXPECT_NEAR(train(four, BalanceRule(), runs + "_none", from, 8), stood, 1e-4);
}

TEST(LiveBalancerTest, WantsRanksThatShareExpertsOut) {
  const Corpus corpus = TinyCorpus();
  EXPECT_THAT(Trainer::Create(TinyFlat(), Steps(), &corpus, 1,
                              Options(DType::kF32, nullptr, Every(5)))
                  .status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("--rebalance moves experts between the ranks "
                                 "of --ep, and --ep is 1")));
}

}  // namespace
}  // namespace strata
