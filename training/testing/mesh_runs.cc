#include "training/testing/mesh_runs.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

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

}  // namespace

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

TrainConfig FourMicroBatches() {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_warmup_steps(5);
  train.set_learning_rate(1e-2);
  train.set_accumulation(4);
  return train;
}

RankRun Train(const ModelConfig& model, DType dtype, const Mesh* mesh,
              int steps, const Way& way) {
  const Corpus corpus = TinyCorpus();
  TrainerOptions options;
  options.dtype = dtype;
  options.mesh = mesh;
  if (mesh != nullptr) {
    options.schedule = way.schedule;
    options.chunks = way.chunks;
    options.balance = way.balance;
  }
  options.shard_optimizer = way.shard_optimizer;
  options.overlap_sums = way.overlap_sums;
  options.overlap_rows = way.overlap_rows;
  options.join_pairs = way.join_pairs;
  auto trainer = Trainer::Create(model, way.train, &corpus,
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
    const bool is_gradient = name.rfind("grad.", 0) == 0;
    (is_gradient ? run.gradients : run.state)[name] =
        ToDoubles(state.Get(name));
  }
  return run;
}

std::vector<RankRun> TrainOnMesh(const ModelConfig& model, DType dtype,
                                 const MeshShape& shape, int steps,
                                 const Way& way) {
  std::vector<RankRun> runs(shape.size());
  OnMesh(shape, [&](const Mesh& mesh) {
    runs[mesh.world().rank()] = Train(model, dtype, &mesh, steps, way);
  });
  return runs;
}

namespace {

std::map<std::string, std::vector<double>> Whole(
    const MeshShape& shape, const std::vector<RankRun>& runs,
    std::map<std::string, std::vector<double>> RankRun::*of_rank) {
  // By name and, of what the ranks of ep share out, by their number.
  std::map<std::pair<std::string, int>, std::vector<double>> parts;
  for (size_t rank = 0; rank < runs.size(); ++rank) {
    for (const auto& [name, values] : runs[rank].*of_rank) {
      const bool shared = name.find(".experts.") != std::string::npos;
      const int ep = shared ? static_cast<int>(rank) % shape.ep : 0;
      const auto [it, is_new] = parts.try_emplace({name, ep}, values);
      if (is_new) continue;
      EXPECT_EQ(it->second, values) << name << ", rank " << rank;
    }
  }
  std::map<std::string, std::vector<double>> whole;
  for (const auto& [key, values] : parts) {
    std::vector<double>& all = whole[key.first];
    all.insert(all.end(), values.begin(), values.end());
  }
  return whole;
}

}  // namespace

std::map<std::string, std::vector<double>> WholeState(
    const MeshShape& shape, const std::vector<RankRun>& runs) {
  return Whole(shape, runs, &RankRun::state);
}

std::map<std::string, std::vector<double>> WholeGradients(
    const MeshShape& shape, const std::vector<RankRun>& runs) {
  return Whole(shape, runs, &RankRun::gradients);
}

size_t NumMoments(const RankRun& run) {
  size_t sum = 0;
  for (const auto& [name, values] : run.state) {
    if (name.rfind("adam.m.", 0) == 0) sum += values.size();
  }
  return sum;
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
      ASSERT_EQ(got.layer_grad_norms.size(), want.layer_grad_norms.size());
      for (size_t l = 0; l < want.layer_grad_norms.size(); ++l) {
        ASSERT_GT(want.layer_grad_norms[l], 0);
        ASSERT_NEAR(got.layer_grad_norms[l], want.layer_grad_norms[l], 1e-9)
            << "layer " << l << " of step " << i;
      }
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

}  // namespace strata
