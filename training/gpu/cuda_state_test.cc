// Training with BF16 state, and with FP32 state in halves, on the GPU, beside
// FP32 state on both.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"
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

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values;
  if (view.dtype == DType::kBF16) {
    for (const BFloat16 x : view.span<BFloat16>()) values.push_back(Widen(x));
  } else {
    for (const float x : view.span<float>()) values.push_back(x);
  }
  return values;
}

std::string Bytes(const TensorView& view) {
  return std::string(static_cast<const char*>(view.data), view.num_bytes());
}

double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return aa == 0 && bb == 0 ? 1 : dot / std::sqrt(aa * bb);
}

struct Case {
  bool hierarchical;
  gpu::Precision precision;  // Of products.
  TrainConfig::StatePrecision state = TrainConfig::BF16;
};

class CudaStateTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!gpu::HasDevice()) GTEST_SKIP() << "no GPU";
    train_ = TinyTrain();
    train_.set_steps(20);
    train_.set_learning_rate(3e-3);
    model_ = GetParam().hierarchical ? TinyHierarchical() : TinyFlat();
  }

  absl::StatusOr<std::unique_ptr<Trainer>> Make(
      TrainConfig::StatePrecision state, bool on_gpu = true,
      RouteSource route = RouteSource::kBalanced) const {
    TrainConfig train = train_;
    train.set_state_precision(state);
    TrainerOptions options;
    options.route.source = route;
    const gpu::Precision precision = GetParam().precision;
    if (on_gpu) {
      options.backend =
          [precision]() -> absl::StatusOr<std::unique_ptr<Backend>> {
        gpu::CudaOptions cuda;
        cuda.precision = precision;
        return gpu::CudaBackend::Create(cuda, gpu::AllCudaKernels());
      };
    }
    return Trainer::Create(model_, train, &corpus_, /*num_threads=*/2, options);
  }

  const Corpus corpus_ = TinyCorpus();
  ModelConfig model_;
  TrainConfig train_;
};

// Experts are given, so that a rounded score chooses none. What is off is then
// the weights' rounding, 2^-9 of each, and that of rows and sums: gradients
// point the same way but for a few such shares, added at random. A gate's are
// of differences between what experts add, of which the roundings are a larger
// share.
TEST_P(CudaStateTest, GradientsOfTheFirstStepAreThoseOfFp32State) {
  const auto cpu = Make(TrainConfig::FP32, /*on_gpu=*/false);
  const auto cuda = Make(GetParam().state);
  ASSERT_THAT(cpu, IsOk());
  ASSERT_THAT(cuda, IsOk());
  const auto want = (*cpu)->Step(), got = (*cuda)->Step();
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_NEAR(got->loss, want->loss, 0x1p-8 * want->loss);
  EXPECT_NEAR(got->grad_norm, want->grad_norm, 0.03 * want->grad_norm);
  int narrow = 0;
  for (const std::string& name : (*cpu)->state().names()) {
    if (!absl::StartsWith(name, "grad.")) continue;
    EXPECT_GT(Cosine(Values((*cuda)->state().Get(name)),
                     Values((*cpu)->state().Get(name))),
              absl::StrContains(name, ".gate.") ? 0.99 : 0.998)
        << name;
    narrow += (*cuda)->state().Peek(name.substr(5)).dtype == DType::kBF16;
  }
  EXPECT_GT(narrow, 10);
}

TEST_P(CudaStateTest, LossFallsAsWithFp32State) {
  const auto wide = Make(TrainConfig::FP32), narrow = Make(GetParam().state);
  ASSERT_THAT(wide, IsOk());
  ASSERT_THAT(narrow, IsOk());
  double first = 0, last = 0;
  for (int64_t step = 1; step <= train_.steps(); ++step) {
    const auto want = (*wide)->Step(), got = (*narrow)->Step();
    ASSERT_THAT(want, IsOk());
    ASSERT_THAT(got, IsOk());
    EXPECT_NEAR(got->loss, want->loss, 0.02 * want->loss) << "step " << step;
    if (step == 1) first = got->loss;
    last = got->loss;
  }
  EXPECT_LT(last, 0.9 * first);
}

// Rounding at random is a function of step and place.
TEST_P(CudaStateTest, ResumesFromItsCheckpointAsIfItHadNotStopped) {
  const auto straight = Make(GetParam().state, true, RouteSource::kGate);
  const auto first = Make(GetParam().state, true, RouteSource::kGate);
  const auto second = Make(GetParam().state, true, RouteSource::kGate);
  ASSERT_THAT(straight, IsOk());
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  for (int i = 0; i < 6; ++i) ASSERT_THAT((*straight)->Step(), IsOk());
  for (int i = 0; i < 3; ++i) ASSERT_THAT((*first)->Step(), IsOk());
  const std::string runs =
      absl::StrCat(::testing::TempDir(), "/bf16_state_",
                   static_cast<int>(GetParam().precision), "_",
                   GetParam().hierarchical, "_", GetParam().state);
  const auto path = (*first)->SaveCheckpoint(runs, nlohmann::json());
  ASSERT_THAT(path, IsOk());
  ASSERT_THAT((*second)->Resume(*path), IsOk());
  for (int i = 3; i < 6; ++i) ASSERT_THAT((*second)->Step(), IsOk());
  for (const std::string& name : (*straight)->state().names()) {
    if ((*straight)->state().role(name) != Role::kParameter &&
        !absl::StartsWith(name, "adam.") && !absl::StartsWith(name, "low.")) {
      continue;
    }
    EXPECT_EQ(Bytes((*straight)->state().Get(name)),
              Bytes((*second)->state().Get(name)))
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaStateTest,
    ::testing::Values(
        Case{false, gpu::Precision::kF32}, Case{false, gpu::Precision::kBf16},
        Case{true, gpu::Precision::kF32}, Case{true, gpu::Precision::kBf16},
        Case{false, gpu::Precision::kBf16, TrainConfig::FP32_HALVES},
        Case{true, gpu::Precision::kF32, TrainConfig::FP32_HALVES},
        Case{true, gpu::Precision::kBf16, TrainConfig::FP32_HALVES}),
    [](const ::testing::TestParamInfo<Case>& info) {
      return absl::StrCat(
          info.param.hierarchical ? "Hierarchical" : "Flat",
          info.param.precision == gpu::Precision::kBf16 ? "Bf16Products"
                                                        : "Fp32Products",
          info.param.state == TrainConfig::FP32_HALVES ? "Halves" : "");
    });

}  // namespace
}  // namespace strata
