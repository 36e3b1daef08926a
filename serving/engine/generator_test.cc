#include "serving/engine/generator.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/init.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr int64_t kVocab = 50;
constexpr int64_t kMaxSeqLen = 96;

// What all the models below share; widths are no multiples of a vector's.
ModelConfig Dense() {
  ModelConfig config;
  config.set_name("dense");
  config.set_vocab_size(kVocab);
  config.set_d_model(24);
  config.set_num_layers(2);
  config.set_max_seq_len(kMaxSeqLen);
  config.set_norm_eps(1e-5);
  config.set_tie_embeddings(true);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(4);
  attention.set_num_kv_heads(2);
  attention.set_head_dim(6);
  attention.set_rope_theta(10000);
  config.set_num_dense_layers(2);
  config.set_dense_width(40);
  return config;
}

ModelConfig Flat() {
  ModelConfig config = Dense();
  config.set_name("flat");
  config.set_num_dense_layers(1);
  config.mutable_moe()->set_expert_width(16);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  return config;
}

ModelConfig SigmoidGroups() {
  ModelConfig config = Flat();
  config.set_name("sigmoid_groups");
  config.set_tie_embeddings(false);
  config.mutable_moe()->set_shared_width(12);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_score(FlatRouterConfig::SIGMOID);
  flat.set_correction_bias(true);
  flat.set_scale(2.5);
  flat.set_k(3);
  flat.set_num_groups(4);
  flat.set_top_groups(2);
  return config;
}

// About half of the tokens leave after each tier.
ModelConfig Hierarchical() {
  ModelConfig config = Dense();
  config.set_name("hierarchical");
  config.set_num_dense_layers(0);
  config.clear_dense_width();
  config.mutable_moe()->set_expert_width(16);
  config.mutable_moe()->set_shared_width(12);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  for (const int64_t experts : {6, 8, 5}) gate.add_tier_experts(experts);
  gate.set_k_min(1);
  gate.set_k_max(3);
  gate.set_tau(0.6);
  gate.set_exit_threshold(0.65);
  gate.set_energy_groups(4);
  gate.set_coarse_keep(0.5);
  gate.set_fine_width(8);
  gate.set_distill_weight(0.01);
  gate.set_cost_weight(0.01);
  gate.mutable_load()->set_ema_decay(0.9);
  gate.mutable_load()->set_gain_p(0.01);
  gate.mutable_load()->set_gain_i(0.001);
  gate.mutable_load()->set_max_bias(0.5);
  return config;
}

ModelConfig Latent() {
  ModelConfig config = Flat();
  config.set_name("latent");
  AttentionConfig& attention = *config.mutable_attention();
  attention.clear_num_kv_heads();
  attention.clear_head_dim();
  LatentAttentionConfig& latent = *attention.mutable_latent();
  latent.set_q_rank(12);
  latent.set_kv_rank(10);
  latent.set_nope_dim(6);
  latent.set_rope_dim(4);
  latent.set_value_dim(5);
  return config;
}

std::vector<int32_t> RandomIds(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::uniform_int_distribution<int32_t> id(0, kVocab - 1);
  std::vector<int32_t> ids(n);
  for (int32_t& x : ids) x = id(rng);
  return ids;
}

// Parameters as before training, and biases that a load controller may have
// left.
template <typename T>
void FillState(const ModelConfig& config, StateStore& state) {
  InitializeParameters(config, /*seed=*/7, state);
  std::mt19937 rng(8);
  std::normal_distribution<double> normal;
  for (const std::string& name : state.names()) {
    if (state.role(name) == Role::kParameter) continue;
    const bool is_bias = name.find("bias") != std::string::npos;
    for (T& x : state.Get(name).span<T>()) {
      // Caches are full of what another text left.
      x = static_cast<T>((is_bias ? 0.1 : 1.0) * normal(rng));
    }
  }
}

// A model ready to generate.
class Model {
 public:
  explicit Model(const ModelConfig& config, int num_threads = 2)
      : backend_(num_threads, AllCpuKernels()), state_(backend_) {
    auto generator = Generator::Create(config, backend_, state_);
    EXPECT_THAT(generator, IsOk());
    generator_ = *std::move(generator);
    FillState<float>(config, state_);
  }

  Generator* operator->() { return generator_.get(); }
  StateStore& state() { return state_; }
  CpuBackend& backend() { return backend_; }

 private:
  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Generator> generator_;
};

struct Generated {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
};

Generated Continue(Model& model, absl::Span<const int32_t> prompt,
                   int64_t max_new_tokens, uint64_t seed = 0) {
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

// A decoder run by hand, over a cache of its own store: its logits of every
// row and the experts that its gates chose.
template <typename T>
class ByHand {
 public:
  ByHand(const ModelConfig& config, DecoderOptions::Mode mode,
         int64_t max_tokens, CpuBackend& backend, StateStore& state)
      : vocab_(config.vocab_size()) {
    GraphBuilder builder(DTypeOf<T>());
    DecoderOptions options;
    options.mode = mode;
    options.max_tokens = max_tokens;
    options.max_logits = max_tokens;
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
                                           Hierarchical(), Latent()),
                         [](const auto& info) { return info.param.name(); });

TEST(GeneratorTest, TokensLeaveEarlyInTheHierarchicalModelOfTheseTests) {
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

TEST(GeneratorTest, SameSeedSameTextOtherSeedAnother) {
  Model model(Hierarchical());
  const std::vector<int32_t> prompt = RandomIds(5, /*seed=*/5);

  const Generated first = Continue(model, prompt, 30, /*seed=*/1);
  const Generated other = Continue(model, prompt, 30, /*seed=*/2);
  const Generated again = Continue(model, prompt, 30, /*seed=*/1);

  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(again.logits, first.logits);
  EXPECT_NE(other.tokens, first.tokens);
}

// Chunks of kPrefillTokens: both sides of one and of the end.
TEST(GeneratorTest, TakesPromptsOfAnyLengthThatFits) {
  Model model(Flat());
  for (const int64_t length : {1, 2, 63, 64, 65, 66, 95}) {
    const Generated generated =
        Continue(model, RandomIds(length, /*seed=*/6), 3);

    EXPECT_EQ(generated.tokens.size(), std::min<int64_t>(3, 96 - length));
    EXPECT_EQ(model->stats().prompt_tokens, length);
    EXPECT_EQ(model->stats().new_tokens, generated.tokens.size());
  }
}

TEST(GeneratorTest, StopsAtTheEndOfMaxSeqLen) {
  Model model(Flat());

  EXPECT_THAT(Continue(model, RandomIds(90, /*seed=*/7), 100).tokens,
              SizeIs(6));
}

TEST(GeneratorTest, StopsBeforeTheStopToken) {
  Model model(Flat());
  const std::vector<int32_t> prompt = RandomIds(5, /*seed=*/8);
  const std::vector<int32_t> all = Continue(model, prompt, 30).tokens;
  GenerateOptions options;
  options.max_new_tokens = 30;
  options.stop_token = all[10];
  const auto first = std::find(all.begin(), all.end(), all[10]);

  const auto stopped = model->Generate(prompt, options);

  ASSERT_THAT(stopped, IsOk());
  EXPECT_EQ(*stopped, std::vector<int32_t>(all.begin(), first));
}

TEST(GeneratorTest, StopsAfterTheTokenOfWhichTheCallerSaysNo) {
  Model model(Flat());
  const std::vector<int32_t> prompt = RandomIds(5, /*seed=*/9);
  std::vector<int32_t> seen;

  const auto tokens = model->Generate(prompt, {}, [&](int32_t token) {
    seen.push_back(token);
    return seen.size() < 4;
  });

  ASSERT_THAT(tokens, IsOk());
  EXPECT_THAT(*tokens, SizeIs(4));
  EXPECT_EQ(*tokens, seen);
}

TEST(GeneratorTest, NoNewTokensIsNoTokenButLogits) {
  Model model(Flat());
  EXPECT_THAT(model->logits(), SizeIs(0));

  EXPECT_THAT(Continue(model, {1, 2, 3}, 0).tokens, SizeIs(0));

  EXPECT_THAT(model->logits(), SizeIs(kVocab));
}

TEST(GeneratorTest, FollowsWeightsThatChangeBetweenCalls) {
  Model model(Flat());
  const Generated before = Continue(model, {1, 2, 3}, 5);
  for (float& x : model.state().Get("model.norm.weight").span<float>()) x = 2;

  const Generated after = Continue(model, {1, 2, 3}, 5);

  for (int i = 0; i < kVocab; ++i) {
    EXPECT_EQ(after.logits[0][i], 2 * before.logits[0][i]);
  }
}

TEST(GeneratorTest, PromptsThatCannotBeAreInvalid) {
  Model model(Flat());
  const auto error = [&](absl::Span<const int32_t> prompt) {
    return model->Generate(prompt, {}).status();
  };
  const auto invalid = [](absl::string_view text) {
    return StatusIs(absl::StatusCode::kInvalidArgument,
                    HasSubstr(std::string(text)));
  };

  EXPECT_THAT(error({}), invalid("prompt is empty"));
  EXPECT_THAT(error({3, 50}), invalid("token 1 of the prompt is 50; want 0 to "
                                      "49"));
  EXPECT_THAT(error({-1}), invalid("token 0 of the prompt is -1"));
  EXPECT_THAT(error(RandomIds(96, /*seed=*/1)),
              invalid("the prompt has 96 tokens; want at most 95"));
}

TEST(GeneratorTest, OptionsOutOfRangeAreInvalid) {
  Model model(Flat());
  const auto error = [&](const std::function<void(GenerateOptions&)>& change) {
    GenerateOptions options;
    change(options);
    return model->Generate({1}, options).status();
  };

  EXPECT_THAT(error([](GenerateOptions& o) { o.max_new_tokens = -2; }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("max_new_tokens is -2")));
  EXPECT_THAT(error([](GenerateOptions& o) { o.stop_token = 50; }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("stop_token is 50; want 0 to 49")));
  EXPECT_THAT(
      error([](GenerateOptions& o) { o.sampling.top_p = 2; }),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("top_p is 2")));
}

TEST(GeneratorTest, WeightsThatAreNotFiniteAreAnError) {
  Model model(Flat());
  model.state().Get("model.norm.weight").as<float>()[0] = std::nanf("");

  EXPECT_THAT(model->Generate({1, 2}, {}),
              StatusIs(absl::StatusCode::kOutOfRange,
                       HasSubstr("a logit after 2 tokens is nan")));
}

TEST(GeneratorTest, StateOfAnotherConfigIsInvalid) {
  Model model(Flat());
  ModelConfig wider = Flat();
  wider.set_vocab_size(60);

  EXPECT_THAT(Generator::Create(wider, model.backend(), model.state()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       StartsWith("model.embed_tokens.weight is F32")));
}

TEST(GeneratorTest, ConfigThatIsWrongIsInvalid) {
  Model model(Flat());
  ModelConfig wrong = Flat();
  wrong.set_d_model(0);

  EXPECT_THAT(
      Generator::Create(wrong, model.backend(), model.state()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("d_model")));
}

// Of Flat(), in floats:
//   embedding, tied: all rows, for the logits                 50 * 24 = 1200
//   a layer's attention: q 24 * 24, k and v 12 * 24, o 24 * 24        = 1728
//   its norms                                                 2 * 24 =   48
//   dense layer 0: 80 * 24 + 24 * 40                                  = 2880
//   MoE layer 1: gate 8 * 24, 2 of 8 experts of 32 * 24 + 24 * 16     = 2496
//   last norm                                                             24
//   cache: a layer and row 2 * 12, context rows to read and 1 to write
TEST(GeneratorTest, MinBytesPerTokenCountsWhatATokenReads) {
  Model model(Flat());
  constexpr int64_t kWeights = 1200 + 2 * (1728 + 48) + 2880 + 2496 + 24;

  EXPECT_DOUBLE_EQ(model->MinBytesPerToken(/*context=*/1),
                   4 * (kWeights + 2 * 24 * 2));
  EXPECT_DOUBLE_EQ(model->MinBytesPerToken(/*context=*/50),
                   4 * (kWeights + 2 * 24 * 51));
}

// Untied: one row of the embedding, and the whole output projection. 3 of 8
// experts, the correction bias, and the shared expert of width 12.
TEST(GeneratorTest, MinBytesPerTokenReadsOneRowOfAnUntiedEmbedding) {
  Model model(SigmoidGroups());
  constexpr int64_t kMoe =
      8 * 24 + 8 + 3 * (32 * 24 + 24 * 16) + 24 * 24 + 24 * 12;
  constexpr int64_t kWeights = 24 + 1200 + 2 * (1728 + 48) + 2880 + kMoe + 24;

  EXPECT_DOUBLE_EQ(model->MinBytesPerToken(/*context=*/1),
                   4 * (kWeights + 2 * 24 * 2));
}

}  // namespace
}  // namespace strata
