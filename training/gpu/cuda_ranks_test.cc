// Several GPUs against one: the same losses, however they are laid out, and the
// same bits again; the same weights on each that holds them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/gpu/gpu_ranks.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kSteps = 20;
constexpr int kMicroBatches = 8;

struct Way {
  const char* name;
  MeshShape shape;
  PipelineKind schedule = PipelineKind::k1F1B;
  bool shard_optimizer = false;
  bool overlap_sums = false;
  int chunks = 0;  // Stages of a rank, where the schedule leaves it open.
  TrainConfig::StatePrecision state = TrainConfig::FP32;
  gpu::Precision precision = gpu::Precision::kF32;  // Of products.
  bool overlap_rows = false;
};

// The way with rows of experts beside other work.
Way RowsBeside(Way way) {
  way.overlap_rows = true;
  return way;
}

constexpr PipelineKind kOneEach = PipelineKind::k1F1B;

const Way kWays[] = {
    {"alone", {1, 1, 1}},
    {"dp2", {2, 1, 1}},
    {"dp2_sharded", {2, 1, 1}, PipelineKind::k1F1B, true},
    {"dp2_overlapped", {2, 1, 1}, PipelineKind::k1F1B, false, true},
    {"ep2", {1, 2, 1}},
    {"ep2_sharded", {1, 2, 1}, PipelineKind::k1F1B, true},
    {"pp2_gpipe", {1, 1, 2}, PipelineKind::kGPipe},
    {"pp2_1f1b", {1, 1, 2}},
    {"pp2_zb_h1", {1, 1, 2}, PipelineKind::kZbH1},
    {"pp2_zb1p", {1, 1, 2}, PipelineKind::kZb1p},
    {"pp2_interleaved",
     {1, 1, 2},
     PipelineKind::kInterleaved,
     false,
     false,
     /*chunks=*/2},
    {"pp2_dualpipe",
     {1, 1, 2, /*mirrored=*/true},
     PipelineKind::kDualPipe,
     false,
     false,
     /*chunks=*/2},
    {"pp2_dualpipev",
     {1, 1, 2},
     PipelineKind::kDualPipeV,
     false,
     false,
     /*chunks=*/2},
    {"dp4", {4, 1, 1}},
    {"ep4", {1, 4, 1}},
    {"pp4_1f1b", {1, 1, 4}},
    {"pp4_zb_h1", {1, 1, 4}, PipelineKind::kZbH1},
    {"dp2_ep2", {2, 2, 1}},
    {"dp2_ep2_sharded", {2, 2, 1}, PipelineKind::k1F1B, true},
    {"dp2_ep2_overlapped", {2, 2, 1}, PipelineKind::k1F1B, true, true},
    {"dp2_pp2", {2, 1, 2}},
    {"ep2_pp2", {1, 2, 2}},
    {"ep2_pp2_zb_h1_sharded", {1, 2, 2}, PipelineKind::kZbH1, true},
    {"dp2_ep2_pp2", {2, 2, 2}},
    RowsBeside({"ep2_rows_beside", {1, 2, 1}}),
    RowsBeside({"ep4_rows_beside", {1, 4, 1}}),
    RowsBeside({"dp2_ep2_all_beside", {2, 2, 1}, kOneEach, true, true}),
    {"dp2_pp2_sums_beside", {2, 1, 2}, kOneEach, false, true},
    RowsBeside({"ep2_pp2_all_beside", {1, 2, 2}, kOneEach, true, true}),
    // Pairs of DualPipe, each one program.
    RowsBeside({"ep2_pp2_pairs_beside",
                {1, 2, 2, /*mirrored=*/true},
                PipelineKind::kDualPipe,
                false,
                false,
                /*chunks=*/2}),
    RowsBeside({"ep2_pp2_pairs_and_sums_beside",
                {1, 2, 2},
                PipelineKind::kDualPipeV,
                false,
                true,
                /*chunks=*/2}),
    {"dp2_bf16", {2, 1, 1}, kOneEach, false, false, 0, TrainConfig::BF16},
    {"dp2_sharded_bf16", {2, 1, 1}, kOneEach, true, true, 0, TrainConfig::BF16},
    {"ep2_bf16", {1, 2, 1}, kOneEach, true, false, 0, TrainConfig::BF16},
    {"pp2_bf16", {1, 1, 2}, kOneEach, false, false, 0, TrainConfig::BF16},
    {"dp2_halves",
     {2, 1, 1},
     kOneEach,
     true,
     false,
     0,
     TrainConfig::FP32_HALVES},
    {"ep2_halves",
     {1, 2, 1},
     kOneEach,
     false,
     false,
     0,
     TrainConfig::FP32_HALVES},
    {"dp2_ep2_bf16", {2, 2, 1}, kOneEach, true, false, 0, TrainConfig::BF16},
    // What a kernel asks of a GPU is asked of each: ranks are threads.
    {"dp2_bf16_products",
     {2, 1, 1},
     kOneEach,
     false,
     false,
     /*chunks=*/0,
     TrainConfig::BF16,
     gpu::Precision::kBf16},
    // Rows of experts alone are BF16 then: sent, and kept by a stage.
    {"ep2_products",
     {1, 2, 1},
     kOneEach,
     false,
     false,
     /*chunks=*/0,
     TrainConfig::FP32,
     gpu::Precision::kBf16},
    {"pp2_products",
     {1, 1, 2},
     kOneEach,
     false,
     false,
     /*chunks=*/0,
     TrainConfig::FP32,
     gpu::Precision::kBf16},
};

struct RankRun {
  std::vector<double> losses;
  std::vector<double> norms;                          // Of gradients.
  std::map<std::string, std::vector<float>> weights;  // By parameter.
  std::string checkpoint;                             // The first rank's.
  double nll = 0;  // Of a validation at the end.
};

std::unique_ptr<Trainer> MakeTrainer(const ModelConfig& model,
                                     const Corpus& corpus, int device,
                                     const Mesh* mesh, const Way& way) {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_learning_rate(3e-3);
  train.set_accumulation(kMicroBatches);
  train.set_state_precision(way.state);
  TrainerOptions options;
  options.mesh = mesh;
  if (mesh != nullptr) {
    options.schedule = way.schedule;
    options.chunks = way.chunks;
  }
  options.shard_optimizer = way.shard_optimizer;
  options.overlap_sums = way.overlap_sums;
  options.overlap_rows = way.overlap_rows;
  options.backend = BackendOnGpu(device, mesh, way.precision);
  auto trainer =
      Trainer::Create(model, train, &corpus, /*num_threads=*/1, options);
  EXPECT_THAT(trainer, IsOk());
  return trainer.ok() ? *std::move(trainer) : nullptr;
}

// The run on GPU `device`; alone if there is no mesh. With `folder` it ends
// with a checkpoint there, and a validation.
RankRun Train(const ModelConfig& model, int device, const Mesh* mesh,
              const Way& way, const std::string& folder) {
  RankRun run;
  const Corpus corpus = TinyCorpus();
  const auto trainer = MakeTrainer(model, corpus, device, mesh, way);
  if (trainer == nullptr) return run;
  for (int i = 0; i < kSteps; ++i) {
    const auto metrics = trainer->Step();
    EXPECT_THAT(metrics, IsOk());
    if (!metrics.ok()) return run;
    run.losses.push_back(metrics->loss);
    run.norms.push_back(metrics->grad_norm);
  }
  const StateStore& state = trainer->state();
  for (const std::string& name : state.names()) {
    const TensorView view = state.Get(name);
    if (state.role(name) != Role::kParameter) continue;
    std::vector<float>& weights = run.weights[name];
    if (view.dtype == DType::kBF16) {
      for (const BFloat16 x : view.span<BFloat16>()) {
        weights.push_back(Widen(x));
      }
      continue;
    }
    const auto values = view.span<float>();
    weights.assign(values.begin(), values.end());
  }
  if (folder.empty()) return run;
  const auto path = trainer->SaveCheckpoint(folder, nlohmann::json());
  EXPECT_THAT(path, IsOk());
  if (path.ok()) run.checkpoint = *path;
  const auto validation = trainer->Validate();
  EXPECT_THAT(validation, IsOk());
  if (validation.ok()) run.nll = validation->nll;
  return run;
}

// Says which weights differ, and by how much; nothing where none does.
std::string Differences(const RankRun& a, const RankRun& b) {
  if (a.weights.size() != b.weights.size()) return "other parameters";
  std::string text;
  for (const auto& [name, x] : a.weights) {
    const auto it = b.weights.find(name);
    if (it == b.weights.end() || it->second.size() != x.size()) {
      absl::StrAppend(&text, name, " is of another size; ");
      continue;
    }
    int n = 0;
    float most = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (x[i] == it->second[i]) continue;
      ++n;
      most = std::max(most, std::abs(x[i] - it->second[i]));
    }
    if (n > 0) {
      absl::StrAppend(&text, name, ": ", n, " of ", x.size(), " by up to ",
                      most, "; ");
    }
  }
  return text;
}

using Param = std::tuple<bool, Way>;

class CudaRanksTest : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    const std::string why = WhyNoGpuRanks(way().shape.size());
    if (!why.empty()) GTEST_SKIP() << why;
    const bool hierarchical = std::get<0>(GetParam());
    model_ = hierarchical ? TinyHierarchical() : TinyFlat();
    model_.set_num_layers(4);  // For four stages; and experts for four ranks.
    if (!hierarchical) return;
    model_.mutable_moe()->mutable_hierarchical()->set_tier_experts(1, 8);
  }

  const Way& way() const { return std::get<1>(GetParam()); }

  // The run of each GPU of the mesh, by a thread of its own.
  std::vector<RankRun> TrainOnMesh(const Way& way, const std::string& folder) {
    std::vector<RankRun> runs(way.shape.size());
    OnGpuMesh(way.shape, [&](const Mesh& mesh) {
      const int rank = mesh.world().rank();
      runs[rank] = Train(model_, rank, &mesh, way, folder);
    });
    return runs;
  }

  ModelConfig model_;
};

// Sums of gradients are rounded otherwise than one GPU's, and rows of an expert
// come in another order. BF16 rows and sums are rounded to 2^-9, weights and
// moments at random, of shards by other bits: such a run is as near to one
// GPU's as that to FP32 state (cuda_state_test). So are products that round:
// choices of experts follow the order of sums.
TEST_P(CudaRanksTest, TrainAsOneGpuDoesAndRepeatBitForBit) {
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/ranks_", way().name,
                   std::get<0>(GetParam()) ? "_tiers" : "_flat");
  const RankRun one =
      Train(model_, 0, /*mesh=*/nullptr, way(), absl::StrCat(folder, "_one"));
  ASSERT_EQ(one.losses.size(), kSteps);

  const bool is_f32 = way().state == TrainConfig::FP32 &&
                      way().precision == gpu::Precision::kF32;
  const double tolerance = is_f32 ? 1e-3 : 0.02;
  const std::vector<RankRun> runs = TrainOnMesh(way(), folder);
  for (const RankRun& run : runs) {
    ASSERT_EQ(run.losses.size(), kSteps);
    for (int i = 0; i < kSteps; ++i) {
      EXPECT_NEAR(run.losses[i], one.losses[i], tolerance * one.losses[i])
          << "step " << i;
    }
    if (way().shape.size() == way().shape.dp) {
      EXPECT_EQ(Differences(run, runs[0]), "");
    }
    EXPECT_NEAR(run.nll, one.nll, 2 * tolerance * one.nll);
  }

  // A checkpoint is whole, whoever wrote it: one GPU finds in it what the mesh
  // had.
  const Corpus corpus = TinyCorpus();
  const auto resumed = MakeTrainer(model_, corpus, 0, nullptr, way());
  ASSERT_NE(resumed, nullptr);
  ASSERT_THAT(resumed->Resume(runs[0].checkpoint), IsOk());
  const auto validation = resumed->Validate();
  ASSERT_THAT(validation, IsOk());
  // Where products round, rows that come back in a validation are rounded for
  // the way, and those that stay are not.
  const double same = way().precision == gpu::Precision::kF32 ? 1e-5 : 1e-3;
  EXPECT_NEAR(validation->nll, runs[0].nll, same * runs[0].nll);

  // Rows beside other work are the same rows; sums are of other buckets.
  Way once_more = way();
  if (!way().overlap_sums) once_more.overlap_rows = false;
  const std::vector<RankRun> again = TrainOnMesh(once_more, /*folder=*/"");
  for (size_t r = 0; r < runs.size(); ++r) {
    EXPECT_EQ(again[r].losses, runs[r].losses) << "rank " << r;
    EXPECT_EQ(again[r].norms, runs[r].norms) << "rank " << r;
    EXPECT_EQ(Differences(again[r], runs[r]), "") << "rank " << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, CudaRanksTest,
                         ::testing::Combine(::testing::Bool(),
                                            ::testing::ValuesIn(kWays)),
                         [](const auto& info) {
                           return absl::StrCat(
                               std::get<1>(info.param).name,
                               std::get<0>(info.param) ? "_tiers" : "_flat");
                         });

}  // namespace
}  // namespace strata
