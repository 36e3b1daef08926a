#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/model/init.h"
#include "core/model/tiny_configs.h"
#include "core/passes/pack_caches.h"
#include "core/quant/cache_format.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// A step of generation of a whole model, fused as far as the GPU has kernels,
// beside the same step unfused.

namespace strata::gpu {
namespace {

struct Step {
  std::vector<float> logits;
  std::map<std::string, int64_t> nodes;  // By operator.
};

// The last of three runs: by itself, captured, replayed.
absl::StatusOr<Step> RunStep(const ModelConfig& config, bool fuse,
                             Precision precision,
                             CacheFormat cache = CacheFormat::kF32) {
  constexpr int64_t kTokens = 40;
  const auto vocab =
      static_cast<int32_t>(std::min<int64_t>(200, config.vocab_size()));
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
  ASSIGN_OR_RETURN(graph, PackCaches(graph, {cache}));
  if (fuse) graph = FuseFor(graph, *backend, state);
  Step step;
  for (const Node& node : graph.nodes()) {
    ++step.nodes[std::string(node.op->name)];
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
      input("ids")[i] = (7 * i + 3) % vocab;
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

// The largest difference of logits, by the largest logit.
double Distance(const Step& a, const Step& b) {
  EXPECT_EQ(a.logits.size(), b.logits.size());
  double most = 0, size = 0;
  for (size_t i = 0; i < a.logits.size(); ++i) {
    most = std::max(most, std::abs(1. * a.logits[i] - b.logits[i]));
    size = std::max(size, std::abs(1. * b.logits[i]));
  }
  return most / size;
}

using FusedModelTest = DeviceTest<const char*>;

TEST_P(FusedModelTest, LogitsAreThoseOfTheUnfusedModel) {
  const ModelConfig config = *ModelPreset(GetParam());
  const auto want = RunStep(config, /*fuse=*/false, Precision::kF32);
  auto got = RunStep(config, /*fuse=*/true, Precision::kF32);
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_GT(got->nodes["TierGate"], 0);
  EXPECT_EQ(got->nodes["TierGate"], got->nodes["ExpertsResidual"]);
  // Some thousand roundings one behind the other, of layers and of sums over
  // up to 384 columns; another route of one token would be a hundred times as
  // much.
  EXPECT_LT(Distance(*got, *want), 4096 * 0x1p-24);
}

INSTANTIATE_TEST_SUITE_P(Presets, FusedModelTest,
                         testing::Values("demo", "small"));

// Columns of a key: a head of 14 in a row of 32, and those that have kernels of
// their own under bf16.
struct Ranks {
  int64_t kv_rank, rope;
};
using FusedLatentModelTest = DeviceTest<std::tuple<Ranks, CacheFormat>>;

// How far from a number that is stored the one beside it is, of the largest
// that it is rounded with: where last bits of a key differ.
double StepOf(CacheFormat format) {
  return format == CacheFormat::kBF16   ? 0x1p-8
         : format == CacheFormat::kInt8 ? 1 / 127.
                                        : 1 / 8.;
}

TEST_P(FusedLatentModelTest, LogitsOverAPackedCacheAreThoseOfTheUnfusedModel) {
  const auto [ranks, format] = GetParam();
  ModelConfig config = Latent();
  config.set_max_seq_len(64);
  config.mutable_attention()->mutable_latent()->set_kv_rank(ranks.kv_rank);
  config.mutable_attention()->mutable_latent()->set_rope_dim(ranks.rope);
  const auto want = RunStep(config, /*fuse=*/false, Precision::kF32, format);
  auto got = RunStep(config, /*fuse=*/true, Precision::kF32, format);
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_EQ(got->nodes["LatentQkv"], config.num_layers());
  EXPECT_EQ(got->nodes["PackedLatentAttendProject"], config.num_layers());
  EXPECT_EQ(got->nodes["PackedCacheWrite"], 0);
  EXPECT_LT(Distance(*got, *want), 4096 * 0x1p-24 + StepOf(format));
}

INSTANTIATE_TEST_SUITE_P(
    Ranks, FusedLatentModelTest,
    testing::Combine(testing::Values(Ranks{10, 4}, Ranks{512, 64}),
                     testing::Values(CacheFormat::kBF16, CacheFormat::kInt8,
                                     CacheFormat::kInt4)));

// Heads over packed caches.
class FusedHeadsModelTest : public DeviceTest<CacheFormat> {};

TEST_P(FusedHeadsModelTest, LogitsAreThoseOfTheUnfusedModel) {
  const ModelConfig config = *ModelPreset("demo");
  const auto want =
      RunStep(config, /*fuse=*/false, Precision::kF32, GetParam());
  auto got = RunStep(config, /*fuse=*/true, Precision::kF32, GetParam());
  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  EXPECT_EQ(got->nodes["NormQkv"], config.num_layers());
  EXPECT_EQ(got->nodes["PackedAttendProject"], config.num_layers());
  EXPECT_EQ(got->nodes["PackedCacheWrite"], 0);
  EXPECT_LT(Distance(*got, *want), 4096 * 0x1p-24 + StepOf(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Formats, FusedHeadsModelTest,
                         testing::Values(CacheFormat::kBF16, CacheFormat::kInt8,
                                         CacheFormat::kInt4));

}  // namespace
}  // namespace strata::gpu
