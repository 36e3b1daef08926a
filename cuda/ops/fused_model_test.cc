#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/model/init.h"
#include "core/ops/fused_experts.h"
#include "core/ops/fused_gate.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "gtest/gtest.h"

// A step of generation of a whole model, fused as far as the GPU has kernels,
// beside the same step unfused.

namespace strata::gpu {
namespace {

struct Step {
  std::vector<float> logits;
  int64_t gates = 0, experts = 0;
};

// The last of three runs: by itself, captured, replayed.
absl::StatusOr<Step> RunStep(const char* preset, bool fuse,
                             Precision precision) {
  constexpr int64_t kTokens = 40;
  const ModelConfig config = *ModelPreset(preset);
  CudaOptions cuda;
  cuda.precision = precision;
  cuda.poison = true;
  ASSIGN_OR_RETURN(const auto backend,
                   CudaBackend::Create(cuda, AllCudaKernels()));
  StateStore state(*backend);
  GraphBuilder b;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = options.max_logits = 64;
  BuildDecoder(b, config, options);
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  if (fuse) graph = FuseFor(graph, *backend, state);
  Step step;
  for (const Node& node : graph.nodes()) {
    step.gates += node.op->name == kTierGate.name;
    step.experts += node.op->name == kExpertsResidual.name;
  }
  ASSIGN_OR_RETURN(const auto program,
                   Program::Compile(std::move(graph), *backend, state));
  InitializeParameters(config, /*seed=*/3, state);
  const auto input = [&](const char* name) {
    return program->Input(name).as<int32_t>();
  };
  for (int run = 0; run < 3; ++run) {
    *input("num_tokens") = *input("num_logits") = kTokens;
    for (int32_t i = 0; i < kTokens; ++i) {
      input("ids")[i] = (7 * i + 3) % 200;
      input("position")[i] = input("cache_row")[i] = i;
      input("logit_row")[i] = i;
      input("first_row")[i] = 0;
    }
    RETURN_IF_ERROR(program->Run());
  }
  const TensorView logits = program->Output("logits");
  step.logits.assign(logits.as<float>(),
                     logits.as<float>() + logits.num_elements());
  return step;
}

class FusedModelTest : public testing::TestWithParam<const char*> {
 protected:
  // The largest difference of logits, by the largest logit.
  static double Distance(const Step& a, const Step& b) {
    EXPECT_EQ(a.logits.size(), b.logits.size());
    double most = 0, size = 0;
    for (size_t i = 0; i < a.logits.size(); ++i) {
      most = std::max(most, std::abs(1. * a.logits[i] - b.logits[i]));
      size = std::max(size, std::abs(1. * b.logits[i]));
    }
    return most / size;
  }
};

TEST_P(FusedModelTest, LogitsAreThoseOfTheUnfusedModel) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const auto want = RunStep(GetParam(), /*fuse=*/false, Precision::kF32);
  const auto got = RunStep(GetParam(), /*fuse=*/true, Precision::kF32);
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_GT(got->gates, 0);
  EXPECT_EQ(got->gates, got->experts);
  // Some thousand roundings one behind the other, of layers and of sums over
  // up to 384 columns; another route of one token would be a hundred times as
  // much.
  EXPECT_LT(Distance(*got, *want), 4096 * 0x1p-24);
}

INSTANTIATE_TEST_SUITE_P(Presets, FusedModelTest,
                         testing::Values("demo", "small"));

}  // namespace
}  // namespace strata::gpu
