#include "training/quant/loss_weights.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/quant/input_moments.h"
#include "core/quant/packed_parameters.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/quant/model_numbers.h"
#include "training/routing_fixture.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

std::unique_ptr<Trainer> TrainerOf(const ModelConfig& model,
                                   const Corpus& corpus, int threads = 1) {
  auto trainer = Trainer::Create(model, TinyTrain(), &corpus, threads);
  EXPECT_THAT(trainer, IsOk());
  return *std::move(trainer);
}

std::vector<TokenBatch> BatchesOf(const ModelConfig& model,
                                  const Corpus& corpus) {
  auto batches = CalibrationBatches(corpus, model, 512, /*seed=*/3);
  EXPECT_THAT(batches, IsOk());
  return *std::move(batches);
}

ModelNumbers All(const Trainer& trainer) {
  return NumbersOf(trainer.state(), [](const std::string&) { return true; });
}

// Two tiers, and one with a module that predicts a token further, of which the
// embedding is the output projection too.
std::vector<ModelConfig> Models() {
  ModelConfig predicts = WithFlatGates(TinyHierarchical());
  predicts.mutable_mtp()->set_num_layers(1);
  predicts.mutable_mtp()->set_loss_weight(0.3);
  predicts.set_tie_embeddings(true);
  return {TinyHierarchical(), predicts};
}

// The gradients of one step are the trainer's own sums, read here; the energy
// of inputs is the trace of their moments.
TEST(LossWeightsTest, IsARowsSquaredGradientOverTheEnergyOfInputs) {
  const Corpus corpus = TinyCorpus();
  for (const ModelConfig& model : Models()) {
    const auto batches = BatchesOf(model, corpus);
    const auto names = ParametersToQuantize(model);
    ASSERT_THAT(names, IsOk());
    const auto trainer = TrainerOf(model, corpus);

    const auto weights = LossWeights(*trainer, *names, batches, 1, nullptr);

    ASSERT_THAT(weights, IsOk());
    EXPECT_EQ(weights->size(), names->size());
    const auto other = TrainerOf(model, corpus);
    ThreadPool pool(1);
    const auto moments = CollectMoments(model, *names, batches,
                                        other->backend(), other->state(), pool);
    ASSERT_THAT(moments, IsOk());
    ASSERT_THAT(other->Step(), IsOk());
    int64_t above_zero = 0;
    for (const auto& [name, of_outputs] : *weights) {
      const TensorView& gradient = other->state().Get(GradName(name));
      const int64_t columns = gradient.shape.back();
      const auto& of_name = moments->at(name);
      const auto n = static_cast<int64_t>(of_name.size());
      const int64_t rows = gradient.num_elements() / columns / n;
      ASSERT_EQ(of_outputs.size(), n * rows) << name;
      for (int64_t r = 0; r < n * rows; ++r) {
        double squares = 0, inputs = 0;
        for (int64_t c = 0; c < columns; ++c) {
          const double g = gradient.as<float>()[r * columns + c];
          squares += g * g;
          inputs += of_name[r / rows].sum[c * (columns + 1)];
        }
        const double wanted = inputs > 0 ? squares / inputs : 0;
        // Moments are added up in floats, 512 of them.
        EXPECT_NEAR(of_outputs[r], wanted, 1e-4 * wanted) << name << r;
        above_zero += wanted > 0;
      }
    }
    EXPECT_GT(above_zero, 0);
  }
}

// What the weights are for: the loss of a model one of whose matrices is off.
// Its change by the gradient of that error, squared, in the mean over steps, is
// what the errors' energies by these weights stand for; here of one input and
// one output, where both are the same number.
TEST(LossWeightsTest, FollowsFiniteDifferencesOfTheLoss) {
  const Corpus corpus = TinyCorpus();
  const ModelConfig model = TinyHierarchical();
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const auto trainer = TrainerOf(model, corpus);
  const auto batches = BatchesOf(model, corpus);
  const auto weights = LossWeights(*trainer, {name}, batches, 1, nullptr);
  ASSERT_THAT(weights, IsOk());
  ThreadPool pool(1);
  const auto moments = CollectMoments(
      model, {name}, batches, trainer->backend(), trainer->state(), pool);
  ASSERT_THAT(moments, IsOk());
  double inputs = 0;
  const InputMoments& h = moments->at(name)[0];
  for (int64_t c = 0; c < h.columns; ++c) inputs += h.sum[c * (h.columns + 1)];

  // The step's text is that of its number, so each loss wants a fresh trainer.
  const auto loss_at = [&](int64_t row, int64_t column, float by) {
    const auto one = TrainerOf(model, corpus);
    one->state().Get(name).as<float>()[row * h.columns + column] += by;
    const auto metrics = one->Step();
    EXPECT_THAT(metrics, IsOk());
    return metrics->total_loss;
  };
  const int64_t accumulation = trainer->train_config().accumulation();
  constexpr int64_t kRow = 5;
  double squares = 0;
  for (int64_t c = 0; c < h.columns; ++c) {
    constexpr float kBy = 0.02f;
    const double slope =
        (loss_at(kRow, c, kBy) - loss_at(kRow, c, -kBy)) / (2 * kBy);
    // The sum over micro-batches, whose mean the loss is.
    squares += slope * slope * static_cast<double>(accumulation * accumulation);
  }
  // The loss is a float, about 5.5, so a slope is off by 5e-7 / 0.04 = 1e-5,
  // beside 1e-3 and more of most; and steps of 0.02 bend it, and may turn what
  // a gate chooses.
  const double wanted = squares / inputs;
  EXPECT_NEAR(weights->at(name)[kRow], wanted, 0.1 * wanted);
}

TEST(LossWeightsTest, LeavesTheModelAsItWasAndIsTheSameAgain) {
  const Corpus corpus = TinyCorpus();
  for (const ModelConfig& model : Models()) {
    const auto names = ParametersToQuantize(model);
    ASSERT_THAT(names, IsOk());
    const auto batches = BatchesOf(model, corpus);
    const auto trainer = TrainerOf(model, corpus);
    const ModelNumbers before = All(*trainer);
    // Biases of gates are put back too.
    EXPECT_TRUE(std::any_of(
        before.begin(), before.end(),
        [](const auto& entry) { return absl::EndsWith(entry.first, "bias"); }));
    int64_t seen = 0;
    const auto weights = LossWeights(*trainer, *names, batches, 3, nullptr,
                                     [&](int64_t done, int64_t all) {
                                       EXPECT_EQ(done, ++seen);
                                       EXPECT_EQ(all, 3);
                                     });
    ASSERT_THAT(weights, IsOk());
    EXPECT_EQ(seen, 3);
    EXPECT_EQ(All(*trainer), before);

    const auto other = TrainerOf(model, corpus, /*threads=*/2);
    const auto again = LossWeights(*other, *names, batches, 3, nullptr);
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(*again, *weights);
  }
}

TEST(LossWeightsTest, Stops) {
  const Corpus corpus = TinyCorpus();
  const ModelConfig model = TinyHierarchical();
  const auto names = ParametersToQuantize(model);
  ASSERT_THAT(names, IsOk());
  const auto trainer = TrainerOf(model, corpus);
  const ModelNumbers before = All(*trainer);
  int asked = 0;
  EXPECT_THAT(LossWeights(*trainer, *names, BatchesOf(model, corpus), 3,
                          [&] { return ++asked > 1; }),
              StatusIs(absl::StatusCode::kCancelled, testing::_));
  EXPECT_EQ(trainer->step(), 1);
  EXPECT_EQ(All(*trainer), before);
}

}  // namespace
}  // namespace strata
