#include "training/data/tokenize_corpus.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/bpe_trainer.h"
#include "core/tokenizer/model_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/data/corpus.h"
#include "training/data/sampler.h"
#include "training/data/token_ids.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr char kText[] = "the cat and the hat and the bat sat";

// Learned of kText: <|endoftext|> is 0, bytes are 1 to 256, merges follow.
nlohmann::ordered_json TrainedJson() {
  BpeTrainer trainer;
  trainer.Add(kText);
  BpeTrainerOptions options;
  options.vocab_size = 270;
  return *trainer.Train(options);
}

ModelTokenizer Load(const nlohmann::ordered_json& json) {
  const std::string path = absl::StrCat(
      ::testing::TempDir(), "/",
      ::testing::UnitTest::GetInstance()->current_test_info()->name(), ".json");
  std::ofstream(path) << json.dump();
  auto tokenizer = ModelTokenizer::Load(path);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

Corpus OneDomain(const std::string& train, const std::string& validation) {
  Corpus corpus;
  corpus.domains = {{"a", train, validation}};
  return corpus;
}

std::string WithBoundaries(absl::string_view text) {
  return absl::StrCat(absl::string_view("\0", 1), text,
                      absl::string_view("\0", 1));
}

std::vector<int32_t> All(const Domain& domain, CorpusPart part) {
  std::vector<int32_t> ids(domain.NumTokens(part));
  domain.CopyTokens(part, 0, absl::MakeSpan(ids));
  return ids;
}

TEST(TokenIdsTest, AreTwoBytesUpTo65536TokensAndFourBeyond) {
  for (const int64_t vocab_size : {65536, 65537}) {
    TokenIds ids(vocab_size);
    ids.Append(7);
    ids.Append(static_cast<int32_t>(vocab_size) - 1);
    std::vector<int32_t> copy(1);
    ids.Copy(1, absl::MakeSpan(copy));
    EXPECT_EQ(ids.bytes_per_id(), vocab_size == 65536 ? 2 : 4);
    EXPECT_THAT(copy, ElementsAre(vocab_size - 1));
  }
}

TEST(TokenizeCorpusTest, EncodesDocumentsWithTheEndTokenBetweenThem) {
  const ModelTokenizer tokenizer = Load(TrainedJson());
  Corpus corpus = OneDomain(
      WithBoundaries(absl::StrCat(kText, absl::string_view("\0", 1), "bat")),
      WithBoundaries("hat"));

  ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());

  std::vector<int32_t> expected = {0};
  for (const char* document : {kText, "bat"}) {
    for (const int32_t id : tokenizer.tokenizer().Encode(document)) {
      expected.push_back(id);
    }
    expected.push_back(0);
  }
  const Domain& domain = corpus.domains[0];
  EXPECT_EQ(All(domain, CorpusPart::kTrain), expected);
  EXPECT_LT(expected.size(), std::string(kText).size());
  EXPECT_EQ(domain.train, "");
  EXPECT_EQ(corpus.vocab_size(), tokenizer.tokenizer().vocab_size());
  EXPECT_EQ(corpus.tokenizer->end_text, "<|endoftext|>");
  EXPECT_THAT(TokenizeCorpus(tokenizer, corpus),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       ::testing::HasSubstr("ids already")));
}

TEST(TokenizeCorpusTest, WithoutAnEndTokenNothingIsBetweenDocuments) {
  nlohmann::ordered_json json = TrainedJson();
  json["added_tokens"] = nlohmann::ordered_json::array();
  const ModelTokenizer tokenizer = Load(json);
  Corpus corpus = OneDomain(WithBoundaries("x"), WithBoundaries("y"));

  ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());

  EXPECT_THAT(All(corpus.domains[0], CorpusPart::kTrain),
              ElementsAre(tokenizer.tokenizer().IdOf("x")));
  EXPECT_EQ(corpus.domains[0].NumValidationTextBytes(0, 1), 1);
}

TEST(TokenizeCorpusTest, SpecialTokensOfATextStayText) {
  const ModelTokenizer tokenizer = Load(TrainedJson());
  Corpus corpus =
      OneDomain(WithBoundaries("<|endoftext|>"), WithBoundaries("y"));

  ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());

  const std::vector<int32_t> ids = All(corpus.domains[0], CorpusPart::kTrain);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 2);  // The boundaries.
}

// "the" is one id or more, a euro sign three of a byte each, 0xFF decodes to
// three bytes: in all of these the ids' bytes add up to the text's.
TEST(TokenizeCorpusTest, TheBytesOfIdsAddUpToTheText) {
  const ModelTokenizer tokenizer = Load(TrainedJson());
  for (const std::string text :
       {"the hat", "\u20AC 5 the \u20AC", "a\xFF\xFF the", "\xFF", "\u20AC"}) {
    Corpus corpus = OneDomain(WithBoundaries("x"), WithBoundaries(text));
    ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());
    const Domain& domain = corpus.domains[0];
    const int64_t n = domain.NumTokens(CorpusPart::kValidation);
    EXPECT_EQ(domain.NumValidationTextBytes(0, n), text.size() + 2) << text;
    EXPECT_EQ(domain.NumValidationTextBytes(0, 1), 1);
    EXPECT_EQ(domain.NumValidationTextBytes(n - 1, 1), 1);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_GE(domain.NumValidationTextBytes(i, 1), 0);
    }
  }

  // Ids of whole characters have the bytes of what they spell.
  Corpus corpus = OneDomain(WithBoundaries("x"), WithBoundaries(kText));
  ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());
  const Domain& domain = corpus.domains[0];
  const std::vector<int32_t> ids = All(domain, CorpusPart::kValidation);
  for (size_t i = 1; i + 1 < ids.size(); ++i) {
    EXPECT_EQ(domain.NumValidationTextBytes(i, 1),
              tokenizer.tokenizer().Decode({ids[i]})->size());
  }
}

TEST(TokenizeCorpusTest, WindowsAreOfIdsAndKnowTheBytesOfTheirTargets) {
  const ModelTokenizer tokenizer = Load(TrainedJson());
  Corpus corpus = OneDomain(WithBoundaries(kText), WithBoundaries(kText));
  ASSERT_THAT(TokenizeCorpus(tokenizer, corpus), IsOk());
  const std::vector<int32_t> all =
      All(corpus.domains[0], CorpusPart::kValidation);
  const int64_t seq_len = 4;
  const auto windows = ValidationWindows::Create(&corpus, seq_len, 1000);
  const auto sampler = Sampler::Create(&corpus, {1, seq_len, 2});
  ASSERT_THAT(windows, IsOk());
  ASSERT_THAT(sampler, IsOk());

  std::vector<int32_t> ids(seq_len), targets(seq_len);
  windows->Fill(0, /*first_window=*/1, absl::MakeSpan(ids),
                absl::MakeSpan(targets));

  EXPECT_EQ(ids, std::vector<int32_t>(all.begin() + 4, all.begin() + 8));
  EXPECT_EQ(targets, std::vector<int32_t>(all.begin() + 5, all.begin() + 9));
  EXPECT_EQ(windows->NumTextBytes(0, 1, 1),
            tokenizer.tokenizer().Decode(targets)->size());

  sampler->Fill(/*step=*/3, /*first_sequence=*/1, absl::MakeSpan(ids),
                absl::MakeSpan(targets));
  const int64_t start = sampler->StartOf(3, 1);
  EXPECT_EQ(ids, std::vector<int32_t>(all.begin() + start,
                                      all.begin() + start + seq_len));
}

}  // namespace
}  // namespace strata
