// Several ranks against one: the same losses, weights and loads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int kSteps = 50;

TrainConfig FourMicroBatches() {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_warmup_steps(5);
  train.set_learning_rate(1e-2);
  train.set_accumulation(4);
  return train;
}

struct RankRun {
  std::vector<StepMetrics> steps;
  // Parameters, moments, biases and loads' history, by name.
  std::map<std::string, std::vector<double>> state;
};

std::vector<double> ToDoubles(const TensorView& view) {
  if (view.dtype == DType::kF64) {
    const auto values = view.span<double>();
    return {values.begin(), values.end()};
  }
  if (view.dtype == DType::kF32) {
    const auto values = view.span<float>();
    return {values.begin(), values.end()};
  }
  return {};
}

// The run as rank `mesh` sees it; alone if null.
RankRun Train(const ModelConfig& model, DType dtype, const Mesh* mesh,
              int steps, PipelineKind schedule = PipelineKind::k1F1B) {
  const Corpus corpus = TinyCorpus();
  TrainerOptions options;
  options.dtype = dtype;
  options.mesh = mesh;
  options.schedule = schedule;
  auto trainer = Trainer::Create(model, FourMicroBatches(), &corpus,
                                 /*num_threads=*/1, options);
  EXPECT_THAT(trainer, IsOk());
  if (!trainer.ok()) return {};
  RankRun run;
  for (int i = 0; i < steps; ++i) {
    const auto metrics = (*trainer)->Step();
    EXPECT_THAT(metrics, IsOk());
    run.steps.push_back(*metrics);
  }
  const StateStore& state = (*trainer)->state();
  for (const std::string& name : state.names()) {
    if (name.rfind("grad.", 0) == 0) continue;
    run.state[name] = ToDoubles(state.Get(name));
  }
  return run;
}

// Calls `body` as each rank of a mesh.
void OnMesh(const MeshShape& shape,
            const std::function<void(const Mesh& mesh)>& body) {
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, shape);
      ASSERT_THAT(mesh, IsOk());
      body(**mesh);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The run of each rank.
std::vector<RankRun> TrainOnMesh(const ModelConfig& model, DType dtype,
                                 const MeshShape& shape, int steps = kSteps,
                                 PipelineKind schedule = PipelineKind::k1F1B) {
  std::vector<RankRun> runs(shape.size());
  OnMesh(shape, [&](const Mesh& mesh) {
    runs[mesh.world().rank()] = Train(model, dtype, &mesh, steps, schedule);
  });
  return runs;
}

// A rank's index as the mesh lays them out.
int RankOf(const MeshShape& shape, int pp_rank, int dp_rank, int ep_rank) {
  return (pp_rank * shape.dp + dp_rank) * shape.ep + ep_rank;
}

// Whether the ranks of ep share that tensor out.
bool IsShared(const MeshShape& shape, const std::string& name) {
  return shape.ep > 1 && name.find(".experts.") != std::string::npos;
}

// What all ranks hold together; expects that ranks which hold the same hold the
// same bits.
std::map<std::string, std::vector<double>> WholeState(
    const MeshShape& shape, const std::vector<RankRun>& runs) {
  std::map<std::string, std::vector<double>> whole;
  for (int pp = 0; pp < shape.pp; ++pp) {
    std::map<std::string, std::vector<double>> stage;
    for (const auto& [name, first] : runs[RankOf(shape, pp, 0, 0)].state) {
      for (int ep = 0; ep < shape.ep; ++ep) {
        const std::vector<double>& one =
            runs[RankOf(shape, pp, /*dp_rank=*/0, ep)].state.at(name);
        for (int dp = 1; dp < shape.dp; ++dp) {
          EXPECT_EQ(runs[RankOf(shape, pp, dp, ep)].state.at(name), one)
              << name;
        }
        if (ep == 0 || IsShared(shape, name)) {
          stage[name].insert(stage[name].end(), one.begin(), one.end());
        } else {
          EXPECT_EQ(one, first) << name;
        }
      }
    }
    for (const auto& [name, values] : stage) {
      const auto [it, is_new] = whole.try_emplace(name, values);
      if (is_new) continue;
      EXPECT_EQ(it->second, values) << name;  // Of both ends.
    }
  }
  return whole;
}

double LargestDifference(const std::vector<double>& a,
                         const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN too.
  }
  return largest;
}

void ExpectSameRun(const MeshShape& shape, const RankRun& one,
                   const std::vector<RankRun>& runs) {
  for (const RankRun& run : runs) {
    ASSERT_EQ(run.steps.size(), one.steps.size());
    for (size_t i = 0; i < one.steps.size(); ++i) {
      const StepMetrics &got = run.steps[i], &want = one.steps[i];
      ASSERT_NEAR(got.loss, want.loss, 1e-9) << "step " << i;
      ASSERT_NEAR(got.total_loss, want.total_loss, 1e-9) << "step " << i;
      ASSERT_NEAR(got.grad_norm, want.grad_norm, 1e-9) << "step " << i;
      EXPECT_EQ(got.experts.gini, want.experts.gini) << "step " << i;
      EXPECT_EQ(got.experts.active_share, want.experts.active_share);
      EXPECT_EQ(got.tokens, want.tokens);
    }
  }
  const auto whole = WholeState(shape, runs);
  ASSERT_EQ(whole.size(), one.state.size());
  for (const auto& [name, values] : one.state) {
    EXPECT_LE(LargestDifference(whole.at(name), values), 1e-8) << name;
  }
}

std::vector<MeshShape> Meshes() {
  return {{1, 1, 1}, {2, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 4, 1},
          {2, 2, 1}, {1, 1, 2}, {2, 1, 2}, {1, 2, 2}};
}

class MeshTrainingTest : public ::testing::TestWithParam<ModelConfig> {};

// In F64, where other roundings of sums are too small to tip a choice of
// experts. Loads, biases and their history are among what is compared.
TEST_P(MeshTrainingTest, RanksTrainAsOneDoes) {
  const RankRun one = Train(GetParam(), DType::kF64, /*mesh=*/nullptr, kSteps);
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  for (const MeshShape& shape : Meshes()) {
    SCOPED_TRACE(ToText(shape));
    ExpectSameRun(shape, one, TrainOnMesh(GetParam(), DType::kF64, shape));
  }
}

TEST_P(MeshTrainingTest, RepeatsBitForBit) {
  for (const MeshShape& shape :
       {MeshShape{2, 1, 1}, MeshShape{1, 2, 1}, MeshShape{2, 2, 2}}) {
    SCOPED_TRACE(ToText(shape));
    const auto first = TrainOnMesh(GetParam(), DType::kF32, shape, 10);
    const auto second = TrainOnMesh(GetParam(), DType::kF32, shape, 10);
    EXPECT_EQ(WholeState(shape, first), WholeState(shape, second));
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(first[0].steps[i].loss, second[1].steps[i].loss);
    }
  }
}

std::vector<ModelConfig> Models() {
  ModelConfig hierarchical = Hierarchical();
  hierarchical.set_name("hierarchical");
  HierarchicalRouterConfig& tiers =
      *hierarchical.mutable_moe()->mutable_hierarchical();
  tiers.set_tier_experts(1, 8);  // For 4 ranks.
  ModelConfig flat = hierarchical;
  flat.set_name("flat");
  FlatRouterConfig& gate = *flat.mutable_moe()->mutable_flat();
  gate.set_num_experts(8);
  gate.set_k(2);
  gate.set_score(FlatRouterConfig::SIGMOID);
  gate.set_normalize(true);
  gate.set_correction_bias(true);
  gate.set_bias_update_rate(0.01);
  return {hierarchical, flat};
}

INSTANTIATE_TEST_SUITE_P(Models, MeshTrainingTest,
                         ::testing::ValuesIn(Models()),
                         [](const auto& info) { return info.param.name(); });

// Every way in which a block combines its experts, for a few steps.
TEST(SharedOutTest, AllKindsOfBlocksCanBeSharedOut) {
  std::vector<ModelConfig> models;
  ModelConfig side_by_side = Models()[0];
  side_by_side.set_name("concat");
  side_by_side.mutable_moe()->mutable_hierarchical()->set_combine(
      HierarchicalRouterConfig::CONCAT);
  models.push_back(side_by_side);
  ModelConfig fed = Models()[0];
  fed.set_name("fed tiers beside a shared expert");
  fed.mutable_moe()->mutable_hierarchical()->set_tier_input(
      HierarchicalRouterConfig::FED);
  fed.mutable_moe()->set_shared_width(16);
  models.push_back(fed);
  ModelConfig dense = Models()[1];
  dense.set_name("a dense layer below, a prediction module above");
  dense.set_num_dense_layers(1);
  dense.set_dense_width(32);
  dense.mutable_mtp()->set_num_layers(1);
  dense.mutable_mtp()->set_loss_weight(0.3);
  models.push_back(dense);
  for (const ModelConfig& model : models) {
    SCOPED_TRACE(model.name());
    constexpr int kFew = 5;
    const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
    for (const MeshShape& shape : {MeshShape{1, 2, 1}, MeshShape{1, 2, 2}}) {
      SCOPED_TRACE(ToText(shape));
      ExpectSameRun(shape, one, TrainOnMesh(model, DType::kF64, shape, kFew));
    }
  }
}

// Three stages, of which the one in the middle has no share in the embedding
// that the others tie, by each schedule.
TEST(SharedOutTest, AllSchedulesGiveTheSameSteps) {
  ModelConfig model = Models()[0];
  model.set_num_layers(3);
  ASSERT_TRUE(model.tie_embeddings());
  constexpr int kFew = 8;
  const RankRun one = Train(model, DType::kF64, /*mesh=*/nullptr, kFew);
  for (const PipelineKind schedule :
       {PipelineKind::kGPipe, PipelineKind::k1F1B, PipelineKind::kZbH1,
        PipelineKind::kZb1p}) {
    SCOPED_TRACE(Name(schedule));
    const MeshShape shape = {1, 1, 3};
    ExpectSameRun(shape, one,
                  TrainOnMesh(model, DType::kF64, shape, kFew, schedule));
  }
}

// A validation runs in the rank's own graph, where tokens may leave a tier.
TEST(SharedOutTest, ValidatesAsOneRankDoes) {
  const Corpus corpus = TinyCorpus();
  const auto validate = [&](const Mesh* mesh) {
    TrainerOptions options;
    options.dtype = DType::kF64;
    options.mesh = mesh;
    auto trainer =
        Trainer::Create(Models()[0], FourMicroBatches(), &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    EXPECT_THAT((*trainer)->Step(), IsOk());
    const auto metrics = (*trainer)->Validate();
    EXPECT_THAT(metrics, IsOk());
    return *metrics;
  };
  const ValidationMetrics one = validate(nullptr);
  for (const MeshShape& shape : {MeshShape{1, 2, 1}, MeshShape{1, 2, 2}}) {
    OnMesh(shape, [&](const Mesh& mesh) {
      const ValidationMetrics got = validate(&mesh);
      EXPECT_NEAR(got.nll, one.nll, 1e-9);
      EXPECT_EQ(got.accuracy, one.accuracy);
      EXPECT_EQ(got.experts.gini, one.experts.gini);
      EXPECT_EQ(got.experts.active_share, one.experts.active_share);
    });
  }
}

// The checkpoint's weights and moments, as they lie on the disk.
std::string FilesOf(const std::string& checkpoint) {
  std::string all;
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    const auto text = ReadFile(absl::StrCat(checkpoint, "/", name));
    EXPECT_THAT(text, IsOk());
    absl::StrAppend(&all, *text);
  }
  return all;
}

// What a checkpoint holds does not depend on the mesh that wrote it, nor on the
// one that goes on from it.
TEST(SharedOutTest, ACheckpointGoesFromMeshToMesh) {
  const Corpus corpus = TinyCorpus();
  const std::string runs = absl::StrCat(::testing::TempDir(), "/mesh_runs");
  const auto make = [&](const Mesh* mesh) {
    TrainerOptions options;
    options.mesh = mesh;
    auto trainer =
        Trainer::Create(Models()[0], FourMicroBatches(), &corpus, 1, options);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  };
  const std::string saved = absl::StrCat(runs, "/step-000002");
  OnMesh({1, 2, 2}, [&](const Mesh& mesh) {
    const auto trainer = make(&mesh);
    for (int i = 0; i < 2; ++i) ASSERT_THAT(trainer->Step(), IsOk());
    const auto path = trainer->SaveCheckpoint(runs, nlohmann::json::object());
    ASSERT_THAT(path, IsOk());
    EXPECT_EQ(*path, saved);
  });
  const std::string bytes = FilesOf(saved);

  const auto alone = make(nullptr);
  ASSERT_THAT(alone->Resume(saved), IsOk());
  ASSERT_THAT(alone->SaveCheckpoint(runs + "_one", nlohmann::json::object()),
              IsOk());
  EXPECT_TRUE(FilesOf(runs + "_one/step-000002") == bytes);
  const auto next = alone->Step();
  ASSERT_THAT(next, IsOk());

  OnMesh({1, 4, 1}, [&](const Mesh& mesh) {
    const auto trainer = make(&mesh);
    ASSERT_THAT(trainer->Resume(saved), IsOk());
    ASSERT_THAT(
        trainer->SaveCheckpoint(runs + "_four", nlohmann::json::object()),
        IsOk());
    const auto metrics = trainer->Step();
    ASSERT_THAT(metrics, IsOk());
    // Forward alone: a loss near 5, of 24 bits.
    EXPECT_NEAR(metrics->loss, next->loss, 1e-5);
  });
  EXPECT_TRUE(FilesOf(runs + "_four/step-000002") == bytes);
}

TEST(SharedOutTest, WantsWhatRanksCanShare) {
  const Corpus corpus = TinyCorpus();
  const TrainConfig train = FourMicroBatches();
  const auto error = [&](const MeshShape& shape) {
    std::vector<std::string> errors(shape.size());
    OnMesh(shape, [&](const Mesh& mesh) {
      TrainerOptions options;
      options.mesh = &mesh;
      errors[mesh.world().rank()] = std::string(
          Trainer::Create(Hierarchical(), train, &corpus, 1, options)
              .status()
              .message());
    });
    return errors[0];
  };
  EXPECT_THAT(
      error({3, 1, 1}),
      HasSubstr("train.accumulation is 4; want a multiple of dp x ep = 3"));
  EXPECT_THAT(error({1, 4, 1}),
              HasSubstr("model.layers.0.mlp.tier.1 has 6 experts; want a "
                        "multiple of ep = 4"));
  EXPECT_THAT(error({1, 1, 3}),
              HasSubstr("there are 2 layers; want at least pp = 3"));
}

}  // namespace
}  // namespace strata
