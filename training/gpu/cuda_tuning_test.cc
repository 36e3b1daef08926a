// Steps of training that a quantised model gets, on the GPU beside the same on
// the CPU.

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/config.pb.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantize_model.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/backend_factory.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/status.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"
#include "training/gpu/gpu_ranks.h"
#include "training/quant/code_learning.h"
#include "training/quant/loss_weights.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/quant/tuning_fixture.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

class CudaTuningTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!gpu::HasDevice()) GTEST_SKIP() << "no GPU";
    model_ = GetParam() ? TinyFlat() : TinyHierarchical();
    folder_ = TrainedFolder(model_, corpus_);
  }

  // A trainer of `steps` steps.
  std::unique_ptr<Trainer> Make(bool on_gpu, int64_t steps,
                                double rate = 0.01) const {
    TuningOptions options = TinySteps(steps);
    options.learning_rate = rate;
    options.decays_weights = false;
    if (on_gpu) options.backend = BackendOnGpu(/*device=*/0, nullptr);
    auto trainer = TuningTrainer(folder_, corpus_, options);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  const Corpus corpus_ = TinyCorpus();
  ModelConfig model_;
  std::string folder_;
};

// Where sums that differ by roundings lead a number to the other side of a
// code's end, or a token to another expert, codes differ: few.
TEST_P(CudaTuningTest, LearnsTheCodesThatTheCpuLearns) {
  LearnedCodes learned[2];
  QuantizedParameters codes[2];
  for (const bool on_gpu : {false, true}) {
    QuantizeOptions options = TwoBits();
    options.learn = [&](const StateStore& model,
                        QuantizedParameters& matrices) -> absl::Status {
      const auto trainer = Make(on_gpu, 20, /*rate=*/0.1);
      const auto result = LearnCodes(*trainer, model, matrices, nullptr);
      if (!result.ok()) return result.status();
      learned[on_gpu] = *result;
      codes[on_gpu] = matrices;
      return absl::OkStatus();
    };
    ASSERT_THAT(QuantizeModel(folder_, TestFolder(on_gpu ? "cuda" : "cpu"),
                              TinyBatches(model_, corpus_), options),
                IsOk());
  }
  const LearnedCodes &cpu = learned[0], &cuda = learned[1];
  EXPECT_GT(cpu.share_moved, 0.01);
  EXPECT_LT(cuda.after.bits_per_byte, cuda.before.bits_per_byte);
  EXPECT_NEAR(cuda.before.bits_per_byte, cpu.before.bits_per_byte,
              1e-3 * cpu.before.bits_per_byte);
  EXPECT_NEAR(cuda.after.bits_per_byte, cpu.after.bits_per_byte,
              1e-2 * cpu.after.bits_per_byte);
  EXPECT_LT(ShareMoved(codes[0], codes[1]), 0.1 * cpu.share_moved);
}

// Inputs of matrices that differ by roundings choose other scales of a few
// rows.
TEST_P(CudaTuningTest, CalibratesOnWhatTheCpuCalibratesOn) {
  QuantizedParameters codes[2];
  int backends_made = 0;
  const BackendFactory on_gpu_backend = [&] {
    ++backends_made;
    return BackendOnGpu(/*device=*/0, nullptr)();
  };
  for (const bool on_gpu : {false, true}) {
    QuantizeOptions options = TwoBits();
    if (on_gpu) options.backend = on_gpu_backend;
    options.learn = [&](const StateStore&, QuantizedParameters& matrices) {
      codes[on_gpu] = matrices;
      return absl::OkStatus();
    };
    ASSERT_THAT(QuantizeModel(folder_, TestFolder(on_gpu ? "cuda" : "cpu"),
                              TinyBatches(model_, corpus_), options),
                IsOk());
  }
  EXPECT_GT(backends_made, 0);
  ASSERT_FALSE(codes[0].empty());
  EXPECT_LT(ShareMoved(codes[0], codes[1]), 0.01);
}

TEST_P(CudaTuningTest, TunesTheGatesAlone) {
  const auto cpu = Make(false, 20), cuda = Make(true, 20);
  const auto is_kept = [](const std::string& name) { return !IsOfGate(name); };
  const ModelNumbers before = NumbersOf(cuda->state(), is_kept);
  ASSERT_THAT(TuneGates(*cpu, nullptr), IsOk());
  ASSERT_THAT(TuneGates(*cuda, nullptr), IsOk());
  EXPECT_EQ(NumbersOf(cuda->state(), is_kept), before);
  EXPECT_NE(NumbersOf(cuda->state(), IsOfGate),
            NumbersOf(Make(true, 20)->state(), IsOfGate));
  const auto want = cpu->Validate(), got = cuda->Validate();
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_NEAR(got->bits_per_byte, want->bits_per_byte,
              1e-2 * want->bits_per_byte);
}

TEST_P(CudaTuningTest, WeighsOutputsAsTheCpuDoes) {
  const auto names = ParametersToQuantize(model_);
  ASSERT_THAT(names, IsOk());
  ModelNumbers weights[2];
  for (const bool on_gpu : {false, true}) {
    const auto trainer = Make(on_gpu, 3);
    const auto result =
        LossWeights(*trainer, *names, TinyBatches(model_, corpus_), 3, nullptr);
    ASSERT_THAT(result, IsOk());
    weights[on_gpu] = *result;
  }
  ASSERT_EQ(weights[0].size(), names->size());
  for (const auto& [name, cpu] : weights[0]) {
    const std::vector<float>& cuda = weights[1].at(name);
    ASSERT_EQ(cuda.size(), cpu.size());
    double sum = 0, off = 0;
    for (size_t i = 0; i < cpu.size(); ++i) {
      sum += cpu[i];
      off += std::abs(double{cuda[i]} - cpu[i]);
    }
    EXPECT_GT(sum, 0) << name;
    EXPECT_LT(off, 0.02 * sum) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaTuningTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Flat" : "TwoTiers";
                         });

}  // namespace
}  // namespace strata
