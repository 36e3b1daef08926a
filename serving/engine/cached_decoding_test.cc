// Cached decoding, held to full passes over the same tokens.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/rope_scaling.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/generator.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::SizeIs;

// A decoder run by hand, over a cache of its own store: its logits of every
// row and the experts that its gates chose.
template <typename T>
class ByHand {
 public:
  ByHand(const ModelConfig& config, DecoderOptions::Mode mode,
         int64_t max_tokens, CpuBackend& backend, StateStore& state,
         bool expand_latents = false)
      : vocab_(config.vocab_size()), dynamic_(HasDynamicRope(config)) {
    GraphBuilder builder(DTypeOf<T>());
    DecoderOptions options;
    options.mode = mode;
    options.max_tokens = max_tokens;
    options.max_logits = max_tokens;
    options.expand_latents = expand_latents;
    const Decoder decoder = BuildDecoder(builder, config, options);
    for (const RouterValues& router : decoder.routers) {
      if (mode == DecoderOptions::Mode::kGenerate) {
        builder.Output(router.ExpertName(), router.expert);
      }
      names_.push_back(router.ExpertName());
    }
    auto graph = builder.Finish();
    EXPECT_THAT(graph, IsOk());
    auto program = Program::Compile(*std::move(graph), backend, state);
    EXPECT_THAT(program, IsOk());
    program_ = *std::move(program);
  }

  // Of a program of mode kGenerate.
  void Run(absl::Span<const int32_t> ids, int64_t position) {
    Fill(ids, position);
    if (dynamic_) {
      for (size_t i = 0; i < ids.size(); ++i) {
        program_->Input("seq_len").as<int32_t>()[i] = static_cast<int32_t>(
            std::max<int64_t>(prompt_length_, position + i + 1));
      }
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      program_->Input("cache_row").as<int32_t>()[i] =
          static_cast<int32_t>(position + i);
      program_->Input("first_row").as<int32_t>()[i] = 0;
      program_->Input("logit_row").as<int32_t>()[i] = static_cast<int32_t>(i);
    }
    *program_->Input("num_logits").as<int32_t>() =
        static_cast<int32_t>(ids.size());
    ASSERT_THAT(program_->Run(), IsOk());
    const auto out = program_->Output("logits");
    ASSERT_EQ(out.dim(0), ids.size());
    for (int64_t i = 0; i < out.dim(0); ++i) {
      const T* row = out.template as<T>() + i * vocab_;
      logits_.emplace_back(row, row + vocab_);
    }
    experts_.resize(names_.size());
    for (size_t r = 0; r < names_.size(); ++r) {
      const auto chosen = program_->Output(names_[r]).template span<int32_t>();
      experts_[r].insert(experts_[r].end(), chosen.begin(), chosen.end());
    }
  }

  // Of a program of mode kEvaluate: nll of each id but the first.
  std::vector<T> Evaluate(absl::Span<const int32_t> ids) {
    Fill(ids, /*position=*/0);
    int32_t* target = program_->Input("target").as<int32_t>();
    std::copy(ids.begin() + 1, ids.end(), target);
    target[ids.size() - 1] = -1;
    program_->Input("seq_start").as<int32_t>()[0] = 0;
    program_->Input("seq_start").as<int32_t>()[1] =
        static_cast<int32_t>(ids.size());
    EXPECT_THAT(program_->Run(), IsOk());
    const auto nll = program_->Output("nll").template span<T>();
    loss_ = *program_->Output("loss").template as<T>();
    return {nll.begin(), nll.end() - 1};
  }

  // Of a program of mode kLogits: those of the last id.
  std::vector<T> LastLogits(absl::Span<const int32_t> ids) {
    Fill(ids, /*position=*/0);
    program_->Input("seq_start").as<int32_t>()[0] = 0;
    program_->Input("seq_start").as<int32_t>()[1] =
        static_cast<int32_t>(ids.size());
    *program_->Input("num_logits").as<int32_t>() = 1;
    *program_->Input("logit_row").as<int32_t>() =
        static_cast<int32_t>(ids.size() - 1);
    EXPECT_THAT(program_->Run(), IsOk());
    const auto logits = program_->Output("logits").template span<T>();
    return {logits.begin(), logits.end()};
  }

  // With dynamic rotary scaling: how many of the ids to come are a prompt.
  void set_prompt_length(int64_t n) { prompt_length_ = n; }

  const std::vector<std::vector<T>>& logits() const { return logits_; }
  // [routers][tokens that reached it, k]
  const std::vector<std::vector<int32_t>>& experts() const { return experts_; }
  T loss() const { return loss_; }

 private:
  void Fill(absl::Span<const int32_t> ids, int64_t position) {
    *program_->Input("num_tokens").as<int32_t>() =
        static_cast<int32_t>(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      program_->Input("ids").as<int32_t>()[i] = ids[i];
      program_->Input("position").as<int32_t>()[i] =
          static_cast<int32_t>(position + i);
    }
  }

  int64_t vocab_;
  bool dynamic_;
  int64_t prompt_length_ = 0;
  std::vector<std::string> names_;
  std::unique_ptr<Program> program_;
  std::vector<std::vector<T>> logits_;  // [tokens][vocab]
  std::vector<std::vector<int32_t>> experts_;
  T loss_ = 0;
};

template <typename T>
double MaxDifference(absl::Span<const T> a, absl::Span<const T> b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN too.
  }
  return largest;
}

template <typename T>
double NegativeLogProbability(absl::Span<const T> logits, int32_t token) {
  double sum = 0;
  for (const T logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - logits[token];
}

// One rounding of a number near 1 is `epsilon` / 2. A token passes, in each of
// 2 layers of up to 3 tiers, some 8 products in a row (q k v, attention, gate,
// experts) of up to 40 terms, whose roundings add up like sqrt(40), and numbers
// in between are below 4: 6 * 8 * 6.3 * 4 / 2 * epsilon = 600 epsilon.
template <typename T>
constexpr double kTolerance = 600 * std::numeric_limits<T>::epsilon();

class EveryModelTest : public ::testing::TestWithParam<ModelConfig> {};

TEST_P(EveryModelTest, CachedDecodingGivesTheLogitsOfAFullPass) {
  Model model(GetParam());
  // One chunk of 64 and one of 6.
  const std::vector<int32_t> prompt = RandomIds(70, /*seed=*/1);

  const Generated generated = Continue(model, prompt, 20);

  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), generated.tokens.begin(), generated.tokens.end());
  ByHand<float> full(GetParam(), DecoderOptions::Mode::kGenerate, kMaxSeqLen,
                     model.backend(), model.state());
  full.set_prompt_length(70);
  full.Run(ids, /*position=*/0);
  ASSERT_THAT(generated.logits, SizeIs(20));
  for (int i = 0; i < 20; ++i) {
    EXPECT_LE(MaxDifference<float>(generated.logits[i], full.logits()[69 + i]),
              kTolerance<float>)
        << "token " << i;
  }
}

// The evaluation graph has no cache, and attention of another kernel.
TEST_P(EveryModelTest, CachedLogitsGiveTheLossOfTheEvaluationGraph) {
  if (HasDynamicRope(GetParam())) return;  // See the test of prompts below.
  Model model(GetParam());
  const std::vector<int32_t> ids = RandomIds(90, /*seed=*/2);

  ByHand<float> evaluation(GetParam(), DecoderOptions::Mode::kEvaluate,
                           kMaxSeqLen, model.backend(), model.state());
  const std::vector<float> nll = evaluation.Evaluate(ids);

  ASSERT_THAT(nll, SizeIs(89));
  double sum = 0;
  for (int64_t i = 0; i < 89; ++i) {
    GenerateOptions options;
    options.max_new_tokens = 0;
    ASSERT_THAT(model->Generate(absl::MakeConstSpan(ids).first(i + 1), options),
                IsOk());
    const double want = NegativeLogProbability(model->logits(), ids[i + 1]);
    EXPECT_NEAR(nll[i], want, 2 * kTolerance<float>) << "token " << i;
    sum += want;
  }
  EXPECT_NEAR(evaluation.loss(), sum / 89, 2 * kTolerance<float>);
}

// In F64 the roundings of different chunks are far too small to tip a choice,
// so any difference is a difference of the mathematics.
TEST_P(EveryModelTest, ChunksChangeNeitherLogitsNorChoices) {
  CpuBackend backend(2, AllCpuKernels());
  StateStore state(backend);
  ByHand<double> full(GetParam(), DecoderOptions::Mode::kGenerate, kMaxSeqLen,
                      backend, state);
  ByHand<double> chunked(GetParam(), DecoderOptions::Mode::kGenerate,
                         kMaxSeqLen, backend, state);
  FillState<double>(GetParam(), state);
  const std::vector<int32_t> ids = RandomIds(kMaxSeqLen, /*seed=*/3);

  full.Run(ids, /*position=*/0);
  FillState<double>(GetParam(), state);
  int64_t position = 0;
  for (const int64_t n : {1, 31, 1, 1, 32, 2, 16, 1, 1, 9, 1}) {
    chunked.Run(absl::MakeConstSpan(ids).subspan(position, n), position);
    position += n;
  }

  ASSERT_EQ(position, kMaxSeqLen);
  EXPECT_EQ(chunked.experts(), full.experts());
  for (int64_t i = 0; i < kMaxSeqLen; ++i) {
    EXPECT_LE(MaxDifference<double>(chunked.logits()[i], full.logits()[i]),
              kTolerance<double>)
        << "token " << i;
  }
}

TEST_P(EveryModelTest, LogitsAreBitEqualForAnyNumberOfThreads) {
  const std::vector<int32_t> prompt = RandomIds(70, /*seed=*/4);
  Model one(GetParam(), /*num_threads=*/1);
  const Generated want = Continue(one, prompt, 10);
  for (const int num_threads : {2, 3}) {
    Model several(GetParam(), num_threads);

    const Generated got = Continue(several, prompt, 10);

    EXPECT_EQ(got.tokens, want.tokens) << num_threads << " threads";
    EXPECT_EQ(got.logits, want.logits) << num_threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModelTest,
                         ::testing::Values(Dense(), Flat(), SigmoidGroups(),
                                           Hierarchical(), Latent(), Windowed(),
                                           LatentYarn(), Dynamic()),
                         [](const auto& info) { return info.param.name(); });

// Latents in the cache and no keys or values (absorbed), or keys and values of
// all heads (expanded), by whole chunks and token by token.
template <typename T>
void ExpectAbsorbedIsExpanded(const ModelConfig& config) {
  CpuBackend backend(2, AllCpuKernels());
  StateStore expanded_state(backend), absorbed_state(backend);
  const auto mode = DecoderOptions::Mode::kGenerate;
  ByHand<T> expanded(config, mode, kMaxSeqLen, backend, expanded_state,
                     /*expand_latents=*/true);
  ByHand<T> absorbed(config, mode, kMaxSeqLen, backend, absorbed_state);
  FillState<T>(config, expanded_state);
  FillState<T>(config, absorbed_state);
  ASSERT_FALSE(expanded_state.Has("cache.0.latent"));
  ASSERT_FALSE(absorbed_state.Has("cache.0.k"));
  // As wide as one latent and one rotary key.
  ASSERT_EQ(absorbed_state.Get("cache.0.latent").dim(1), 14);
  const std::vector<int32_t> ids = RandomIds(kMaxSeqLen, /*seed=*/5);

  expanded.Run(ids, /*position=*/0);
  int64_t position = 0;
  for (const int64_t n : {50, 1, 1, 8, 9, 2, 24, 1}) {
    absorbed.Run(absl::MakeConstSpan(ids).subspan(position, n), position);
    position += n;
  }

  ASSERT_EQ(position, kMaxSeqLen);
  for (int64_t i = 0; i < kMaxSeqLen; ++i) {
    EXPECT_LE(MaxDifference<T>(absorbed.logits()[i], expanded.logits()[i]),
              kTolerance<T>)
        << "token " << i;
  }
}

TEST(CachedDecodingTest, AbsorbedLatentAttentionIsTheExpanded) {
  for (const ModelConfig& config : {Latent(), LatentYarn()}) {
    SCOPED_TRACE(config.name());
    ExpectAbsorbedIsExpanded<double>(config);
    ExpectAbsorbedIsExpanded<float>(config);
  }
}

// What speculative decoding rests on: a token's logits are the same to the last
// bit whether it comes alone or with a few others.
TEST(CachedDecodingTest, AFewTokensAreBitEqualToOneByOne) {
  for (const ModelConfig& config :
       {Dense(), Flat(), SigmoidGroups(), Latent(), Windowed(), LatentYarn()}) {
    SCOPED_TRACE(config.name());
    CpuBackend backend(2, AllCpuKernels());
    StateStore state(backend);
    const auto mode = DecoderOptions::Mode::kGenerate;
    ByHand<float> single(config, mode, 1, backend, state);
    ByHand<float> few(config, mode, 8, backend, state);
    FillState<float>(config, state);
    const std::vector<int32_t> ids = RandomIds(40, /*seed=*/6);
    for (int64_t i = 0; i < 40; ++i) {
      single.Run(absl::MakeConstSpan(ids).subspan(i, 1), i);
    }

    for (int64_t i = 0; i < 40; i += 5) {
      few.Run(absl::MakeConstSpan(ids).subspan(i, 5), i);
    }

    EXPECT_EQ(few.logits(), single.logits());
  }
}

// A prompt turns by its whole length, though it is fed in chunks of 64: as in a
// pass without a cache, whose theta is that of the longest sequence.
TEST(CachedDecodingTest, APromptOfDynamicLengthGivesTheLogitsOfAFullPass) {
  Model model(Dynamic());
  ByHand<float> full(Dynamic(), DecoderOptions::Mode::kLogits, kMaxSeqLen,
                     model.backend(), model.state());
  GenerateOptions options;
  options.max_new_tokens = 0;
  for (const int64_t n : {1, 32, 33, 64, 65, 95}) {
    const std::vector<int32_t> ids = RandomIds(n, /*seed=*/2);
    ASSERT_THAT(model->Generate(ids, options), IsOk());
    const std::vector<float> want = full.LastLogits(ids);
    EXPECT_LE(MaxDifference<float>(model->logits(), want), kTolerance<float>)
        << n << " tokens";
  }
}

TEST(CachedDecodingTest, TokensLeaveEarlyInTheHierarchicalModelOfTheseTests) {
  CpuBackend backend(1, AllCpuKernels());
  StateStore state(backend);
  ByHand<double> full(Hierarchical(), DecoderOptions::Mode::kGenerate,
                      kMaxSeqLen, backend, state);
  FillState<double>(Hierarchical(), state);

  full.Run(RandomIds(kMaxSeqLen, /*seed=*/3), /*position=*/0);

  ASSERT_THAT(full.experts(), SizeIs(6));  // 2 layers of 3 tiers, 3 experts.
  for (const int first_tier : {0, 3}) {
    const size_t last = full.experts()[first_tier + 2].size() / 3;
    EXPECT_GT(last, 0);
    EXPECT_LT(last, kMaxSeqLen);
  }
}

}  // namespace
}  // namespace strata
