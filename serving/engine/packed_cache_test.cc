// Serving and generation over caches in fewer bits: what holds of F32 holds of
// these, and their answers are near.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/engine.h"
#include "serving/engine/generator.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr CacheOptions kCaches[] = {{CacheFormat::kBF16, 0},
                                    {CacheFormat::kInt8, 0},
                                    {CacheFormat::kInt4, 0},
                                    {CacheFormat::kInt8, 4}};

std::string Describe(const CacheOptions& cache) {
  return ToText(cache.format) + " " + std::to_string(cache.attention_bits);
}

struct Served {
  CpuBackend backend;
  StateStore state;
  std::unique_ptr<Engine> engine;

  Served(const ModelConfig& config, EngineOptions options, int threads)
      : backend(threads, BatchInvariantCpuKernels()), state(backend) {
    options.block_size = 4;
    options.pool = &backend.pool();
    auto created = Engine::Create(config, backend, state, options);
    EXPECT_THAT(created, IsOk());
    engine = *std::move(created);
    FillState<float>(config, state);
  }
};

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

std::vector<Answer> ReadAll(Generation& generation, int num_choices) {
  std::vector<Answer> answers(num_choices);
  while (auto event = generation.Next(absl::Now() + absl::Seconds(60))) {
    if (event->has_token) {
      answers[event->choice].tokens.push_back(event->token);
      answers[event->choice].logprobs.push_back(event->logprobs[0].logprob);
    }
    EXPECT_THAT(event->error, IsOk());
  }
  return answers;
}

Answer Read(Generation& generation) { return ReadAll(generation, 1)[0]; }

// Prompts of which every third begins alike, so that they share blocks; the
// first asks for so many choices that they want 40 blocks at once.
std::vector<EngineRequest> Requests() {
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 12; ++i) {
    EngineRequest r;
    r.prompt = RandomIds(1 + i * 7 % 40, i);
    if (i % 3 == 0) {
      const std::vector<int32_t> beginning = RandomIds(18, 7);
      r.prompt.insert(r.prompt.begin(), beginning.begin(), beginning.end());
    }
    r.max_new_tokens = 1 + i * 5 % 30;
    r.sampling.draw.seed = i;
    r.sampling.draw.temperature = i % 2;
    r.num_logprobs = 0;
    requests.push_back(r);
  }
  requests[0].num_choices = 5;
  requests[0].max_new_tokens = 30;
  return requests;
}

TEST(PackedCacheTest, AnAnswerIsTheSameBitForBitInAnyCompany) {
  for (const CacheOptions& cache : kCaches) {
    for (const ModelConfig& config : {Flat(), Latent(), Windowed()}) {
      SCOPED_TRACE(config.name() + " " + Describe(cache));
      EngineOptions options;
      options.cache = cache;
      options.max_sequences = 8;
      options.max_step_tokens = 64;
      const std::vector<EngineRequest> requests = Requests();
      std::vector<std::vector<Answer>> alone;
      {
        Served served(config, options, /*threads=*/1);
        for (const EngineRequest& request : requests) {
          alone.push_back(
              ReadAll(**served.engine->Submit(request), request.num_choices));
        }
      }
      // Steps so small that prompts are cut, and blocks so few that sequences
      // are preempted; choices of one request copy the block they share.
      options.max_sequences = 6;
      options.max_step_tokens = 11;
      options.num_blocks = 24;
      Served served(config, options, /*threads=*/2);
      std::vector<std::shared_ptr<Generation>> generations;
      for (const EngineRequest& request : requests) {
        generations.push_back(*served.engine->Submit(request));
      }
      for (size_t i = 0; i < generations.size(); ++i) {
        const std::vector<Answer> answers =
            ReadAll(*generations[i], requests[i].num_choices);
        for (size_t c = 0; c < answers.size(); ++c) {
          EXPECT_EQ(answers[c].tokens, alone[i][c].tokens) << i << " " << c;
          EXPECT_EQ(answers[c].logprobs, alone[i][c].logprobs) << i << " " << c;
        }
      }
      const EngineStats stats = served.engine->stats();
      EXPECT_GT(stats.num_preemptions, 0);
      EXPECT_GT(stats.prefix_found_tokens, 0);
    }
  }
}

TEST(PackedCacheTest, ChoicesCopyTheBlockThatTheyShare) {
  for (const CacheOptions& cache : kCaches) {
    EngineOptions options;
    options.cache = cache;
    options.max_sequences = 8;
    Served served(Flat(), options, /*threads=*/2);
    EngineRequest request;
    request.prompt = RandomIds(10, 1);  // Ends within a block of four.
    request.max_new_tokens = 12;
    request.num_choices = 4;
    request.num_logprobs = 0;
    auto generation = served.engine->Submit(request);
    ASSERT_THAT(generation, IsOk());
    const std::vector<Answer> choices = ReadAll(**generation, 4);
    request.num_choices = 1;
    for (int i = 0; i < 4; ++i) {
      request.sampling.draw.seed = i;
      EXPECT_EQ(Read(**served.engine->Submit(request)).tokens,
                choices[i].tokens);
    }
  }
}

// A generator over a cache of `options`, with the tiny models' weights.
struct Packed {
  CpuBackend backend;
  StateStore state;
  std::unique_ptr<Generator> generator;

  Packed(const ModelConfig& config, const CacheOptions& cache)
      : backend(2, BatchInvariantCpuKernels()), state(backend) {
    auto created =
        Generator::Create(config, backend, state, /*fuse=*/true, cache);
    EXPECT_THAT(created, IsOk());
    generator = *std::move(created);
    FillState<float>(config, state);
  }

  std::vector<float> LogitsAfter(const std::vector<int32_t>& prompt) {
    GenerateOptions options;
    options.max_new_tokens = 0;
    EXPECT_THAT(generator->Generate(prompt, options), IsOk());
    return {generator->logits().begin(), generator->logits().end()};
  }
};

TEST(PackedCacheTest, TheGeneratorSaysWhatTheEngineSays) {
  for (const CacheOptions& cache : kCaches) {
    for (const ModelConfig& config : {Dense(), Latent()}) {
      SCOPED_TRACE(config.name() + " " + Describe(cache));
      Packed packed(config, cache);
      EngineRequest request;
      request.prompt = RandomIds(37, 5);
      request.max_new_tokens = 15;
      request.sampling.draw.temperature = 0;
      request.num_logprobs = 0;
      GenerateOptions options;
      options.max_new_tokens = 15;
      options.sampling.temperature = 0;
      const auto want = packed.generator->Generate(request.prompt, options);
      ASSERT_THAT(want, IsOk());

      EngineOptions engine;
      engine.cache = cache;
      Served served(config, engine, /*threads=*/2);
      EXPECT_EQ(Read(**served.engine->Submit(request)).tokens, *want);
    }
  }
}

TEST(PackedCacheTest, SpeculationGivesTheTokensOfPlainDecoding) {
  for (const CacheOptions& cache : kCaches) {
    SCOPED_TRACE(Describe(cache));
    Packed packed(Predicting(), cache);
    GenerateOptions options;
    options.max_new_tokens = 25;
    const std::vector<int32_t> prompt = RandomIds(9, 3);
    // The module's tensors are declared when it is first used.
    options.speculative = true;
    ASSERT_THAT(packed.generator->Generate(prompt, options), IsOk());
    FillState<float>(Predicting(), packed.state);
    options.speculative = false;
    const auto plain = packed.generator->Generate(prompt, options);
    options.speculative = true;
    const auto speculative = packed.generator->Generate(prompt, options);
    ASSERT_THAT(plain, IsOk());
    ASSERT_THAT(speculative, IsOk());
    EXPECT_EQ(*speculative, *plain);
    EXPECT_GT(packed.generator->stats().drafted_tokens, 0);
  }
}

TEST(PackedCacheTest, FewerBitsAreFurtherFromF32) {
  for (const ModelConfig& config : {Dense(), Latent()}) {
    SCOPED_TRACE(config.name());
    const std::vector<int32_t> prompt = RandomIds(60, 2);
    const std::vector<float> exact = Packed(config, {}).LogitsAfter(prompt);
    double norm = 0;
    for (const float x : exact) norm += x * x;
    const auto error = [&](const CacheOptions& cache) {
      const std::vector<float> logits =
          Packed(config, cache).LogitsAfter(prompt);
      double sum = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        sum += std::pow(logits[i] - exact[i], 2);
      }
      return std::sqrt(sum / norm);
    };
    const double int8 = error({CacheFormat::kInt8, 0});
    const double int4 = error({CacheFormat::kInt4, 0});
    // Half a step of 127 is 0.4 % of a group's largest, of 8 it is 6 %.
    EXPECT_GT(int8, 0);
    EXPECT_LT(int8, 0.01);
    EXPECT_LT(error({CacheFormat::kBF16, 0}), 0.01);
    EXPECT_GT(int4, 2 * int8);
    EXPECT_LT(int4, 0.2);
  }
}

TEST(PackedCacheTest, TheSameMemoryHoldsMoreTokens) {
  const auto blocks = [](const CacheOptions& cache) {
    EngineOptions options;
    options.cache = cache;
    options.cache_bytes = 100'000;
    return Served(Dense(), options, 1).engine->stats().num_blocks;
  };
  const ModelConfig config = Dense();
  const AttentionConfig& a = config.attention();
  const int64_t heads = config.num_layers() * 2 * a.num_kv_heads();
  for (const CacheFormat format : {CacheFormat::kF32, CacheFormat::kBF16,
                                   CacheFormat::kInt8, CacheFormat::kInt4}) {
    const int64_t token = heads * CacheHeadBytes(format, a.head_dim());
    const int64_t most = 64 * ((kMaxSeqLen + 3) / 4);  // Of all sequences.
    EXPECT_EQ(blocks({format, 0}), std::min(most, 100'000 / (4 * token)));
  }
}

TEST(PackedCacheTest, RejectsOptionsThatDoNotGoTogether) {
  CpuBackend backend(1, BatchInvariantCpuKernels());
  StateStore state(backend);
  EngineOptions options;
  options.cache = {CacheFormat::kBF16, 4};
  EXPECT_THAT(Engine::Create(Dense(), backend, state, options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("want int8 or int4")));
  EXPECT_THAT(
      Generator::Create(Dense(), backend, state, true, {CacheFormat::kInt8, 2})
          .status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("have 2 bits")));
}

}  // namespace
}  // namespace strata
