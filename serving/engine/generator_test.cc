#include "serving/engine/generator.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

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

TEST(GeneratorTest, TakesTheTokensThatItIsGivenAndDrawsTheRest) {
  Model model(Flat());
  GenerateOptions options;
  options.max_new_tokens = 5;
  options.sampling.temperature = 0;
  options.given = {7, 3};
  const std::vector<int32_t> prompt = RandomIds(4, /*seed=*/9);

  const auto tokens = model->Generate(prompt, options);

  ASSERT_THAT(tokens, IsOk());
  ASSERT_EQ(tokens->size(), 5);
  EXPECT_EQ((*tokens)[0], 7);
  EXPECT_EQ((*tokens)[1], 3);
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), {7, 3});
  options.given.clear();
  options.max_new_tokens = 3;
  const auto rest = model->Generate(longer, options);
  ASSERT_THAT(rest, IsOk());
  EXPECT_EQ(*rest, std::vector<int32_t>(tokens->begin() + 2, tokens->end()));

  options.given = {-1};
  EXPECT_THAT(model->Generate(prompt, options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a given token is -1")));
}

// Greedy tokens of a model, plain or speculative.
std::vector<int32_t> Greedy(Model& model, absl::Span<const int32_t> prompt,
                            int64_t max_new_tokens, bool speculative,
                            int32_t stop_token = -1) {
  GenerateOptions options;
  options.max_new_tokens = max_new_tokens;
  options.sampling.temperature = 0;
  options.speculative = speculative;
  options.stop_token = stop_token;
  const auto tokens = model->Generate(prompt, options);
  EXPECT_THAT(tokens, IsOk());
  return *tokens;
}

// A model whose module's tensors are filled too: they are declared when it is
// first used.
void FillWithModule(const ModelConfig& config, Model& model) {
  Greedy(model, {1, 2, 3}, 1, /*speculative=*/true);
  FillState<float>(config, model.state());
}

// Prompts on both sides of a chunk and up to the end of max_seq_len, where the
// last token has no room for a draft beside it.
TEST(GeneratorTest, SpeculationGivesTheTokensOfPlainGreedyDecoding) {
  ModelConfig dense = Dense();
  dense.mutable_mtp()->set_num_layers(1);
  ModelConfig dynamic = Dynamic();
  dynamic.mutable_mtp()->set_num_layers(1);
  for (const ModelConfig& config : {Predicting(), dense, dynamic}) {
    SCOPED_TRACE(config.name());
    Model model(config);
    FillWithModule(config, model);
    for (const int64_t length : {1, 2, 3, 63, 64, 65, 66, 93, 94, 95}) {
      SCOPED_TRACE(length);
      const std::vector<int32_t> prompt = RandomIds(length, /*seed=*/9);
      for (const int64_t new_tokens : {0, 1, 2, 3, 40}) {
        const std::vector<int32_t> plain =
            Greedy(model, prompt, new_tokens, /*speculative=*/false);

        EXPECT_EQ(Greedy(model, prompt, new_tokens, /*speculative=*/true),
                  plain);
        EXPECT_EQ(model->stats().new_tokens, plain.size());
        EXPECT_LE(model->stats().accepted_tokens,
                  model->stats().drafted_tokens);
      }
    }
  }
}

// With an output of zeros, model and module both say token 0: every draft is
// right, and a round gives two tokens.
TEST(GeneratorTest, RightDraftsHalveTheRounds) {
  const ModelConfig config = Predicting();
  Model model(config);
  FillWithModule(config, model);
  for (float& x : model.state().Get("lm_head.weight").span<float>()) x = 0;

  const std::vector<int32_t> tokens =
      Greedy(model, {5, 6}, 21, /*speculative=*/true);

  EXPECT_EQ(tokens, std::vector<int32_t>(21, 0));
  // The first token comes with the prompt, the others by two.
  EXPECT_EQ(model->stats().drafted_tokens, 10);
  EXPECT_EQ(model->stats().accepted_tokens, 10);
  EXPECT_TRUE(Greedy(model, {5, 6}, 21, true, /*stop_token=*/0).empty());
}

TEST(GeneratorTest, SpeculationGivesTheTokensThatPlainSamplingDraws) {
  const ModelConfig config = Predicting();
  Model model(config);
  FillWithModule(config, model);
  int64_t drafted = 0, accepted = 0;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    for (const int64_t length : {1, 5, 64, 90}) {
      SCOPED_TRACE(testing::Message() << seed << " " << length);
      const std::vector<int32_t> prompt = RandomIds(length, /*seed=*/9);
      GenerateOptions options;
      options.max_new_tokens = 30;
      options.sampling = {/*temperature=*/0.8, /*top_k=*/20, /*top_p=*/0.9,
                          seed};
      const auto plain = model->Generate(prompt, options);
      options.speculative = true;
      const auto speculative = model->Generate(prompt, options);

      ASSERT_THAT(plain, IsOk());
      ASSERT_THAT(speculative, IsOk());
      EXPECT_EQ(*speculative, *plain);
      drafted += model->stats().drafted_tokens;
      accepted += model->stats().accepted_tokens;
    }
  }
  // Some drafts are right even of an untrained module, and some are not.
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, drafted);
}

// With an output of zeros, all tokens are equally likely to model and module;
// as both draw with the same random number, every draft is right.
TEST(GeneratorTest, ModelAndModuleThatAgreeDrawTheSameToken) {
  const ModelConfig config = Predicting();
  Model model(config);
  FillWithModule(config, model);
  for (float& x : model.state().Get("lm_head.weight").span<float>()) x = 0;
  GenerateOptions options;
  options.max_new_tokens = 21;
  options.speculative = true;

  const auto tokens = model->Generate({5, 6}, options);

  ASSERT_THAT(tokens, IsOk());
  EXPECT_EQ(tokens->size(), 21);
  EXPECT_GT(std::set<int32_t>(tokens->begin(), tokens->end()).size(), 5);
  EXPECT_EQ(model->stats().drafted_tokens, 10);
  EXPECT_EQ(model->stats().accepted_tokens, 10);
}

TEST(GeneratorTest, SpeculationWantsAModule) {
  Model without(Flat());
  GenerateOptions options;
  options.speculative = true;
  EXPECT_THAT(without->Generate({1}, options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("of which this has 0")));
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
