// Several ranks against one: the same losses, weights and loads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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
  std::vector<double> weights;  // All parameters and biases, one by one.
};

// The run as rank `mesh` sees it; alone if null.
RankRun Train(const ModelConfig& model, DType dtype, const Mesh* mesh,
              int steps) {
  const Corpus corpus = TinyCorpus();
  TrainerOptions options;
  options.dtype = dtype;
  options.mesh = mesh;
  auto trainer = Trainer::Create(model, FourMicroBatches(), &corpus,
                                 /*num_threads=*/1, options);
  EXPECT_THAT(trainer, IsOk());
  RankRun run;
  for (int i = 0; i < steps; ++i) {
    const auto metrics = (*trainer)->Step();
    EXPECT_THAT(metrics, IsOk());
    run.steps.push_back(*metrics);
  }
  const StateStore& state = (*trainer)->state();
  for (const std::string& name : state.names()) {
    const TensorView view = state.Get(name);
    if (name.rfind("grad.", 0) == 0) continue;
    if (view.dtype == DType::kF64) {
      const auto values = view.span<double>();
      run.weights.insert(run.weights.end(), values.begin(), values.end());
    } else if (view.dtype == DType::kF32) {
      const auto values = view.span<float>();
      run.weights.insert(run.weights.end(), values.begin(), values.end());
    }
  }
  return run;
}

// The run of each of `n` ranks.
std::vector<RankRun> TrainOnRanks(const ModelConfig& model, DType dtype, int n,
                                  int steps = kSteps) {
  const auto world = ThreadCommunicators(n, absl::Seconds(60));
  std::vector<RankRun> runs(n);
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, {/*dp=*/n, 1, 1});
      ASSERT_THAT(mesh, IsOk());
      runs[rank->rank()] = Train(model, dtype, mesh->get(), steps);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return runs;
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

class DataParallelTest : public ::testing::TestWithParam<ModelConfig> {};

// In F64, where other roundings of sums are too small to tip a choice of
// experts. Loads, biases and their history are among what is compared.
TEST_P(DataParallelTest, RanksTrainAsOneDoes) {
  const RankRun one = Train(GetParam(), DType::kF64, /*mesh=*/nullptr, kSteps);
  ASSERT_LT(one.steps.back().loss, one.steps.front().loss);
  for (const int n : {1, 2, 4}) {
    SCOPED_TRACE(absl::StrCat(n, " ranks"));
    const std::vector<RankRun> runs = TrainOnRanks(GetParam(), DType::kF64, n);
    for (const RankRun& run : runs) {
      for (int i = 0; i < kSteps; ++i) {
        const StepMetrics &got = run.steps[i], &want = one.steps[i];
        ASSERT_NEAR(got.loss, want.loss, 1e-9) << "step " << i;
        ASSERT_NEAR(got.total_loss, want.total_loss, 1e-9) << "step " << i;
        ASSERT_NEAR(got.grad_norm, want.grad_norm, 1e-9) << "step " << i;
        EXPECT_EQ(got.experts.gini, want.experts.gini) << "step " << i;
        EXPECT_EQ(got.experts.active_share, want.experts.active_share);
        EXPECT_EQ(got.tokens, want.tokens);
      }
      EXPECT_LE(LargestDifference(run.weights, one.weights), 1e-8);
      // Ranks never drift apart.
      EXPECT_EQ(run.weights, runs[0].weights);
    }
  }
}

TEST_P(DataParallelTest, RepeatsBitForBit) {
  const std::vector<RankRun> first =
      TrainOnRanks(GetParam(), DType::kF32, 2, 10);
  const std::vector<RankRun> second =
      TrainOnRanks(GetParam(), DType::kF32, 2, 10);
  EXPECT_EQ(first[0].weights, second[0].weights);
  EXPECT_EQ(first[1].weights, second[0].weights);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(first[0].steps[i].loss, second[1].steps[i].loss);
  }
}

std::vector<ModelConfig> Models() {
  ModelConfig flat = Hierarchical();
  flat.set_name("flat");
  FlatRouterConfig& gate = *flat.mutable_moe()->mutable_flat();
  gate.set_num_experts(6);
  gate.set_k(2);
  gate.set_score(FlatRouterConfig::SIGMOID);
  gate.set_normalize(true);
  gate.set_correction_bias(true);
  gate.set_bias_update_rate(0.01);
  ModelConfig hierarchical = Hierarchical();
  hierarchical.set_name("hierarchical");
  return {hierarchical, flat};
}

INSTANTIATE_TEST_SUITE_P(Models, DataParallelTest,
                         ::testing::ValuesIn(Models()),
                         [](const auto& info) { return info.param.name(); });

TEST(DataParallelErrorTest, WantsMicroBatchesThatRanksCanShare) {
  const Corpus corpus = TinyCorpus();
  const TrainConfig train = FourMicroBatches();
  const auto error = [&](int dp, int ep) {
    const auto ranks = ThreadCommunicators(dp * ep, absl::Seconds(60));
    std::vector<std::string> errors(dp * ep);
    std::vector<std::thread> threads;
    for (const auto& rank : ranks) {
      threads.emplace_back([&, rank = rank.get()] {
        const auto mesh = Mesh::Create(*rank, {dp, ep, 1});
        ASSERT_THAT(mesh, IsOk());
        TrainerOptions options;
        options.mesh = mesh->get();
        errors[rank->rank()] = std::string(
            Trainer::Create(Hierarchical(), train, &corpus, 1, options)
                .status()
                .message());
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors[0];
  };
  EXPECT_THAT(error(3, 1),
              HasSubstr("train.accumulation is 4; want a multiple of dp = 3"));
  EXPECT_THAT(error(1, 2), HasSubstr("training is over dp alone so far"));
}

}  // namespace
}  // namespace strata
