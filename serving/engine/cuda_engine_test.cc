// The engine on a GPU: what it answers is what it answers on the CPU.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::ElementsAreArray;

EngineOptions Options(bool fuse) {
  EngineOptions options;
  options.max_sequences = 6;
  options.max_step_tokens = 24;
  options.block_size = 4;
  options.fuse = fuse;
  return options;
}

std::unique_ptr<Backend> Cpu() {
  return std::make_unique<CpuBackend>(2, BatchInvariantCpuKernels());
}

std::unique_ptr<Backend> Gpu() {
  auto backend =
      gpu::CudaBackend::Create(gpu::CudaOptions(), gpu::AllCudaKernels());
  EXPECT_THAT(backend, IsOk());
  return *std::move(backend);
}

// Eight prompts at once, greedily: of one to forty tokens, some with a common
// beginning, one with three answers that part behind the prompt.
std::vector<EngineRequest> Requests() {
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 8; ++i) {
    EngineRequest request;
    request.prompt = RandomIds(1 + 5 * i, i);
    if (i % 3 == 0) {
      const std::vector<int32_t> beginning = RandomIds(10, 100);
      request.prompt.insert(request.prompt.begin(), beginning.begin(),
                            beginning.end());
    }
    request.max_new_tokens = 20;
    request.num_choices = i == 5 ? 3 : 1;
    request.sampling.draw.temperature = 0;
    requests.push_back(request);
  }
  return requests;
}

// The tokens of all answers, one list each.
std::vector<std::vector<int32_t>> Answers(const ModelConfig& config,
                                          Backend& backend, bool fuse,
                                          const CacheOptions& cache = {}) {
  StateStore state(backend);
  EngineOptions options = Options(fuse);
  options.cache = cache;
  auto engine = Engine::Create(config, backend, state, options);
  EXPECT_THAT(engine, IsOk());
  if (!engine.ok()) return {};
  FillState<float>(config, state);
  std::vector<std::shared_ptr<Generation>> generations;
  std::vector<std::vector<int32_t>> answers;
  for (const EngineRequest& request : Requests()) {
    auto generation = (*engine)->Submit(request);
    EXPECT_THAT(generation, IsOk());
    generations.push_back(*std::move(generation));
  }
  for (const auto& generation : generations) {
    const size_t first = answers.size();
    while (auto event = generation->Next(absl::Now() + absl::Seconds(60))) {
      EXPECT_THAT(event->error, IsOk());
      answers.resize(std::max(answers.size(), first + event->choice + 1));
      if (event->has_token)
        answers[first + event->choice].push_back(event->token);
    }
  }
  return answers;
}

class CudaEngineTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!gpu::HasDevice()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(CudaEngineTest, AnswersAreTheCpus) {
  for (const ModelConfig& config :
       {Dense(), Flat(), SigmoidGroups(), Hierarchical(), Latent(), Windowed(),
        LatentYarn(), Dynamic()}) {
    SCOPED_TRACE(config.name());
    const auto cpu = Cpu(), gpu = Gpu();

    const auto want = Answers(config, *cpu, GetParam());
    const auto got = Answers(config, *gpu, GetParam());

    EXPECT_EQ(want.size(), Requests().size() + 2);
    EXPECT_THAT(got, ElementsAreArray(want));
  }
}

// Keys and values are rounded when they are stored, so that a last bit which
// differs can become a step of a code: all answers but two at most are the
// same.
TEST_P(CudaEngineTest, PackedCachesAnswerAsTheCpus) {
  for (const CacheOptions& cache : {CacheOptions{CacheFormat::kBF16, 0},
                                    CacheOptions{CacheFormat::kInt8, 0},
                                    CacheOptions{CacheFormat::kInt4, 0},
                                    CacheOptions{CacheFormat::kInt8, 5}}) {
    for (const ModelConfig& config : {Dense(), Hierarchical(), Latent()}) {
      SCOPED_TRACE(absl::StrCat(config.name(), " ", ToText(cache.format)));
      const auto cpu = Cpu(), gpu = Gpu();

      const auto want = Answers(config, *cpu, GetParam(), cache);
      const auto got = Answers(config, *gpu, GetParam(), cache);

      ASSERT_EQ(got.size(), want.size());
      size_t same = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_FALSE(want[i].empty());
        EXPECT_EQ(got[i].size(), want[i].size());
        same += got[i] == want[i];
      }
      EXPECT_GE(same, want.size() - 2);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(UnfusedAndFused, CudaEngineTest, testing::Bool());

}  // namespace
}  // namespace strata
