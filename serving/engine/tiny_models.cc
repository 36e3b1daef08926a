#include "serving/engine/tiny_models.h"

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/cpu/all_kernels.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/generator.h"

namespace strata {

std::vector<int32_t> RandomIds(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::uniform_int_distribution<int32_t> id(0, kVocab - 1);
  std::vector<int32_t> ids(n);
  for (int32_t& x : ids) x = id(rng);
  return ids;
}

Model::Model(const ModelConfig& config, int num_threads)
    : backend_(num_threads, AllCpuKernels()), state_(backend_) {
  auto generator = Generator::Create(config, backend_, state_);
  EXPECT_THAT(generator, IsOk());
  generator_ = *std::move(generator);
  FillState<float>(config, state_);
}

Generated Continue(Model& model, absl::Span<const int32_t> prompt,
                   int64_t max_new_tokens, uint64_t seed) {
  GenerateOptions options;
  options.max_new_tokens = max_new_tokens;
  options.sampling.seed = seed;
  Generated result;
  const auto tokens = model->Generate(prompt, options, [&](int32_t) {
    const auto logits = model->logits();
    result.logits.emplace_back(logits.begin(), logits.end());
    return true;
  });
  EXPECT_THAT(tokens, IsOk());
  result.tokens = *tokens;
  return result;
}

}  // namespace strata
