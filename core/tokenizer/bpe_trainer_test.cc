#include "core/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<std::string> Merges(const nlohmann::ordered_json& json) {
  return json["model"]["merges"].get<std::vector<std::string>>();
}

BpeTrainerOptions Options(int32_t num_merges) {
  BpeTrainerOptions options;
  options.vocab_size = 257 + num_merges;
  return options;
}

TEST(BpeTrainerTest, TakesTheMostFrequentPairAndOfEqualsTheLowerIds) {
  BpeTrainer trainer;
  // Pieces: "ab" 3 times, "cd" 3 times, "bc" once, each with a space but the
  // first. Pairs: " a" is 2, ab 3, " c" 3, cd 3, " b" 1, bc 1.
  trainer.Add("ab ab ab cd cd cd bc");

  const auto json = trainer.Train(Options(10));

  ASSERT_THAT(json, IsOk());
  // ab, cd and "Ġc" are 3 each; a < c < Ġ in ids. Then "Ġ cd" is 3, "Ġ ab" 2;
  // what is left occurs once.
  EXPECT_THAT(Merges(*json),
              ElementsAre("a b", "c d", "\u0120 cd", "\u0120 ab"));
  EXPECT_EQ((*json)["model"]["vocab"]["<|endoftext|>"], 0);
  EXPECT_EQ((*json)["model"]["vocab"]["!"], 1);
  EXPECT_EQ((*json)["model"]["vocab"]["ab"], 257);
}

TEST(BpeTrainerTest, CountsOverlapsAsTheyMerge) {
  BpeTrainer trainer;
  trainer.Add("aaaa aaaa");
  // aa is 6; then "aa aa" is 2, and "Ġ aa" 1.
  EXPECT_THAT(Merges(*trainer.Train(Options(2))), ElementsAre("a a", "aa aa"));
}

// What the header says, counted anew for each merge.
std::vector<std::string> TrainSlowly(
    const std::vector<std::vector<std::string>>& pieces,
    const nlohmann::ordered_json& vocabulary, size_t num_merges) {
  std::vector<std::vector<std::string>> words = pieces;
  std::vector<std::string> order;  // Tokens by id.
  for (const auto& [token, id] : vocabulary.items()) order.push_back(token);
  order.resize(257);
  const auto id_of = [&](const std::string& token) {
    return std::find(order.begin(), order.end(), token) - order.begin();
  };
  std::vector<std::string> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<int64_t, int64_t>, int> counts;
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        ++counts[{id_of(word[i]), id_of(word[i + 1])}];
      }
    }
    std::pair<int64_t, int64_t> best;
    int most = 1;
    for (const auto& [pair, count] : counts) {
      if (count > most) {
        most = count;
        best = pair;
      }
    }
    if (most < 2) break;
    const std::string left = order[best.first];
    const std::string right = order[best.second];
    merges.push_back(left + " " + right);
    if (id_of(left + right) == static_cast<int64_t>(order.size())) {
      order.push_back(left + right);
    }
    for (auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != left || word[i + 1] != right) continue;
        word[i] += right;
        word.erase(word.begin() + i + 1);
      }
    }
  }
  return merges;
}

TEST(BpeTrainerTest, AgreesWithCountingAnewForEachMerge) {
  Random random(/*seed=*/11, /*stream=*/0);
  for (int trial = 0; trial < 20; ++trial) {
    BpeTrainer trainer;
    std::vector<std::vector<std::string>> pieces;
    for (int i = 0; i < 60; ++i) {
      std::string word;
      std::vector<std::string> symbols;
      const uint64_t size = 1 + random.UniformInt(8);
      for (uint64_t k = 0; k < size; ++k) {
        symbols.emplace_back(1, "abc"[random.UniformInt(3)]);
        word += symbols.back();
      }
      trainer.Add(word);
      pieces.push_back(symbols);
    }
    const auto json = trainer.Train(Options(30));
    ASSERT_THAT(json, IsOk());
    EXPECT_EQ(Merges(*json), TrainSlowly(pieces, (*json)["model"]["vocab"],
                                         Merges(*json).size()));
  }
}

TEST(BpeTrainerTest, DoesNotDependOnTheOrderOfTheText) {
  BpeTrainer a;
  BpeTrainer b;
  a.Add("the cat sat on the mat");
  a.Add("a cat and a hat");
  b.Add("a cat and a hat");
  b.Add("the cat sat on the mat");
  EXPECT_EQ(*a.Train(Options(8)), *b.Train(Options(8)));
}

TEST(BpeTrainerTest, MakesATokenizerThatLoadsAndCompresses) {
  BpeTrainer trainer;
  std::string text;
  for (int i = 0; i < 50; ++i) text += "the quick brown fox \u00E9t\u00E9 12\n";
  trainer.Add(text);
  const auto json = trainer.Train(Options(40));
  ASSERT_THAT(json, IsOk());

  const auto tokenizer = Tokenizer::Parse(json->dump());

  ASSERT_THAT(tokenizer, IsOk());
  const std::vector<int32_t> ids = tokenizer->Encode(text);
  EXPECT_THAT(ids, SizeIs(testing::Lt(text.size() / 3)));
  EXPECT_EQ(*tokenizer->Decode(ids), text);
  EXPECT_THAT(tokenizer->Encode("<|endoftext|>"), ElementsAre(0));
  // Text that was never seen comes back too.
  EXPECT_EQ(*tokenizer->Decode(tokenizer->Encode("\u5B66 \U0001F600")),
            "\u5B66 \U0001F600");
}

TEST(BpeTrainerTest, StopsWhenPairsAreRareOrItIsToldTo) {
  BpeTrainer trainer;
  trainer.Add("abc abc");
  EXPECT_THAT(Merges(*trainer.Train(Options(100))), SizeIs(2));
  BpeTrainerOptions options = Options(100);
  options.min_count = 1;
  EXPECT_THAT(Merges(*trainer.Train(options)), SizeIs(3));
  options.progress = [](int64_t done, int64_t wanted) {
    EXPECT_EQ(done, 1);
    EXPECT_EQ(wanted, 100);
    return false;
  };
  EXPECT_THAT(trainer.Train(options),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
}

TEST(BpeTrainerTest, RefusesVocabulariesThatCannotBe) {
  BpeTrainerOptions options;
  options.vocab_size = 256;
  EXPECT_THAT(BpeTrainer().Train(options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("vocab_size is 256; want 257")));
  options.vocab_size = 300;
  options.special_tokens = {"<a>", "<a>"};
  EXPECT_THAT(BpeTrainer().Train(options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("\"<a>\" is there twice")));
}

}  // namespace
}  // namespace strata
