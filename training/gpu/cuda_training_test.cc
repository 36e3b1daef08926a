// A training run on the GPU beside the same on the CPU.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kSteps = 20;

double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  // Parameters that begin at zero and get no gradient agree.
  return aa == 0 && bb == 0 ? 1 : dot / std::sqrt(aa * bb);
}

class CudaTrainingTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!gpu::HasDevice()) GTEST_SKIP() << "no GPU";
    train_ = TinyTrain();
    train_.set_steps(kSteps);
    train_.set_learning_rate(3e-3);
    model_ = GetParam() ? TinyHierarchical() : TinyFlat();
  }

  std::unique_ptr<Trainer> Make(bool on_gpu,
                                gpu::Precision precision = {}) const {
    TrainerOptions options;
    if (on_gpu) {
      options.backend =
          [precision]() -> absl::StatusOr<std::unique_ptr<Backend>> {
        gpu::CudaOptions cuda;
        cuda.precision = precision;
        return gpu::CudaBackend::Create(cuda, gpu::AllCudaKernels());
      };
    }
    auto trainer =
        Trainer::Create(model_, train_, &corpus_, /*num_threads=*/2, options);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  std::string Runs(absl::string_view name) const {
    return absl::StrCat(::testing::TempDir(), "/cuda_runs_", name, GetParam());
  }

  const Corpus corpus_ = TinyCorpus();
  ModelConfig model_;
  TrainConfig train_;
};

TEST_P(CudaTrainingTest, GradientsOfTheFirstStepAgreeWithTheCpu) {
  const auto cpu = Make(/*on_gpu=*/false), cuda = Make(/*on_gpu=*/true);
  ASSERT_THAT(cpu->Step(), IsOk());
  ASSERT_THAT(cuda->Step(), IsOk());
  int compared = 0;
  for (const std::string& name : cpu->state().names()) {
    if (!absl::StartsWith(name, "grad.")) continue;
    EXPECT_GT(Cosine(cuda->state().Get(name).span<float>(),
                     cpu->state().Get(name).span<float>()),
              0.999)
        << name;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

// Both start with the same weights. Where two experts' scores differ by less
// than a rounding, the two may choose differently, and a token then counts for
// other weights; so the bound is not that of the arithmetic alone.
TEST_P(CudaTrainingTest, LossesOfTheFirstStepsAgreeWithTheCpu) {
  const auto cpu = Make(/*on_gpu=*/false), cuda = Make(/*on_gpu=*/true);
  for (int step = 1; step <= kSteps; ++step) {
    const auto want = cpu->Step(), got = cuda->Step();
    ASSERT_THAT(want, IsOk());
    ASSERT_THAT(got, IsOk());
    EXPECT_NEAR(got->loss, want->loss, (step == 1 ? 1e-5 : 1e-3) * want->loss)
        << "step " << step;
    EXPECT_NEAR(got->grad_norm, want->grad_norm, 1e-2 * want->grad_norm)
        << "step " << step;
  }
  const auto want = cpu->Validate(), got = cuda->Validate();
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_NEAR(got->nll, want->nll, 1e-3 * want->nll);
}

TEST_P(CudaTrainingTest, RoundedProductsLearnAlike) {
  const auto cpu = Make(/*on_gpu=*/false);
  const auto cuda = Make(/*on_gpu=*/true, gpu::Precision::kBf16);
  for (int step = 1; step <= kSteps; ++step) {
    const auto want = cpu->Step(), got = cuda->Step();
    ASSERT_THAT(want, IsOk());
    ASSERT_THAT(got, IsOk());
    EXPECT_NEAR(got->loss, want->loss, 0.03 * want->loss) << "step " << step;
  }
}

// A checkpoint is a host's file whoever wrote it: the GPU goes on from its own
// bit for bit, and the CPU goes on from the GPU's.
TEST_P(CudaTrainingTest, ResumesFromItsCheckpointAsIfItHadNotStopped) {
  const auto straight = Make(/*on_gpu=*/true);
  for (int step = 0; step < 6; ++step) {
    ASSERT_THAT(straight->Step(), IsOk());
  }
  const auto first = Make(/*on_gpu=*/true);
  for (int step = 0; step < 3; ++step) ASSERT_THAT(first->Step(), IsOk());
  const auto path = first->SaveCheckpoint(Runs("resume"), nlohmann::json());
  ASSERT_THAT(path, IsOk());
  const auto second = Make(/*on_gpu=*/true);
  const auto on_cpu = Make(/*on_gpu=*/false);
  ASSERT_THAT(second->Resume(*path), IsOk());
  ASSERT_THAT(on_cpu->Resume(*path), IsOk());
  for (int step = 3; step < 6; ++step) {
    ASSERT_THAT(second->Step(), IsOk());
    ASSERT_THAT(on_cpu->Step(), IsOk());
  }
  for (const std::string& name : straight->state().names()) {
    if (straight->state().role(name) != Role::kParameter) continue;
    const auto want = straight->state().Get(name).span<float>();
    const auto got = second->state().Get(name).span<float>();
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin())) << name;
    EXPECT_GT(Cosine(on_cpu->state().Get(name).span<float>(), want), 0.999)
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaTrainingTest, ::testing::Bool(),
                         [](const ::testing::TestParamInfo<bool>& info) {
                           return info.param ? "Hierarchical" : "Flat";
                         });

}  // namespace
}  // namespace strata
