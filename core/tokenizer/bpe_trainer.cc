#include "core/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/split_pattern.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;
using Pair = std::pair<int32_t, int32_t>;

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

// The pairs within words: how often each occurs, and where it ever did.
class PairTable {
 public:
  explicit PairTable(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t i = 0; i < words_.size(); ++i) {
      const std::vector<int32_t>& symbols = words_[i].symbols;
      for (size_t k = 0; k + 1 < symbols.size(); ++k) {
        Count({symbols[k], symbols[k + 1]}, words_[i].count,
              static_cast<int32_t>(i));
      }
    }
    for (const auto& [pair, occurrences] : pairs_) {
      heap_.push_back({occurrences.count, pair});
    }
    std::make_heap(heap_.begin(), heap_.end());
  }

  // The most frequent pair, with its count; a count of 0 if there is none.
  std::pair<int64_t, Pair> TakeBest() {
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      Candidate best = heap_.back();
      heap_.pop_back();
      const int64_t count = pairs_[best.pair].count;
      if (count == best.count) return {count, best.pair};
      // It was rarer or more frequent when it was put there.
      if (count > 0) Push({count, best.pair});
    }
    return {0, {}};
  }

  // Makes a token of the pair wherever it occurs.
  void Merge(Pair pair, int32_t token) {
    const std::vector<int32_t> where = std::move(pairs_[pair].words);
    std::vector<Pair> grown;
    int32_t last = -1;
    for (const int32_t index : where) {
      if (index == last) continue;  // It occurs there twice.
      last = index;
      MergeInWord(index, pair, token, grown);
    }
    pairs_.erase(pair);
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const Pair& changed : grown) {
      const int64_t count = pairs_[changed].count;
      if (count > 0) Push({count, changed});
    }
  }

 private:
  struct Candidate {
    int64_t count = 0;
    Pair pair;

    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  struct Occurrences {
    int64_t count = 0;
    std::vector<int32_t> words;  // Some have lost it since.
  };

  void Push(Candidate candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end());
  }

  void Count(Pair pair, int64_t count, int32_t word) {
    Occurrences& occurrences = pairs_[pair];
    occurrences.count += count;
    if (count > 0) occurrences.words.push_back(word);
  }

  void MergeInWord(int32_t index, Pair pair, int32_t token,
                   std::vector<Pair>& grown) {
    Word& word = words_[index];
    std::vector<int32_t> merged;
    const std::vector<int32_t>& symbols = word.symbols;
    bool found = false;
    for (size_t k = 0; k < symbols.size(); ++k) {
      if (k + 1 < symbols.size() && Pair(symbols[k], symbols[k + 1]) == pair) {
        merged.push_back(token);
        found = true;
        ++k;
      } else {
        merged.push_back(symbols[k]);
      }
    }
    if (!found) return;
    for (size_t k = 0; k + 1 < symbols.size(); ++k) {
      Count({symbols[k], symbols[k + 1]}, -word.count, index);
    }
    for (size_t k = 0; k + 1 < merged.size(); ++k) {
      const Pair next(merged[k], merged[k + 1]);
      // Pairs of the other symbols are in the table with this word already.
      if (next.first == token || next.second == token) {
        Count(next, word.count, index);
        grown.push_back(next);
      } else {
        pairs_[next].count += word.count;
      }
    }
    word.symbols = std::move(merged);
  }

  std::vector<Word> words_;
  absl::flat_hash_map<Pair, Occurrences> pairs_;
  std::vector<Candidate> heap_;
};

Json ByteLevelJson() {
  return Json::parse(R"({"type": "ByteLevel", "add_prefix_space": false,
                         "trim_offsets": true, "use_regex": false})");
}

Json PreTokenizerJson() {
  Json split = Json::parse(R"({"type": "Split", "pattern": {"Regex": ""},
                               "behavior": "Isolated", "invert": false})");
  split["pattern"]["Regex"] = std::string(kLlama3Regex);
  Json json = Json::parse(R"({"type": "Sequence", "pretokenizers": []})");
  json["pretokenizers"].push_back(std::move(split));
  json["pretokenizers"].push_back(ByteLevelJson());
  return json;
}

}  // namespace

BpeTrainer::BpeTrainer() {
  const nlohmann::json json = nlohmann::json::parse(PreTokenizerJson().dump());
  absl::StatusOr<PreTokenizer> parsed = PreTokenizer::Parse(JsonNode(json));
  CHECK(parsed.ok()) << parsed.status();
  pre_tokenizer_ = *std::move(parsed);
}

void BpeTrainer::Add(absl::string_view text) {
  num_bytes_ += static_cast<int64_t>(text.size());
  const Pieces pieces = pre_tokenizer_.Split(ToUtf8({text.data(), text.size()}),
                                             /*at_start=*/true);
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    ++counts_[pieces.piece(i)];
  }
}

absl::StatusOr<Json> BpeTrainer::Train(const BpeTrainerOptions& options) const {
  const int64_t num_first =
      static_cast<int64_t>(options.special_tokens.size()) + 256;
  if (options.vocab_size < num_first || options.vocab_size > Bpe::kMaxIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size is ", options.vocab_size, "; want ", num_first,
                     " (256 bytes and ", options.special_tokens.size(),
                     " special tokens) to ", Bpe::kMaxIds));
  }

  // Ids: special tokens, bytes in the order of their characters, merges.
  std::vector<std::string> tokens = options.special_tokens;
  absl::flat_hash_map<std::string, int32_t> ids;
  std::array<int32_t, 256> byte_ids;
  std::vector<std::pair<char32_t, int>> alphabet;
  for (int byte = 0; byte < 256; ++byte) {
    alphabet.emplace_back(ByteLevelChar(static_cast<unsigned char>(byte)),
                          byte);
  }
  std::sort(alphabet.begin(), alphabet.end());
  for (const auto& [c, byte] : alphabet) {
    byte_ids[byte] = static_cast<int32_t>(tokens.size());
    tokens.push_back(ToByteLevel(std::string(1, static_cast<char>(byte))));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!ids.emplace(tokens[i], static_cast<int32_t>(i)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the special token \"", tokens[i], "\" is there twice"));
    }
  }

  std::vector<Word> words;
  words.reserve(counts_.size());
  for (const auto& [piece, count] : counts_) {
    Word& word = words.emplace_back();
    word.count = count;
    for (const char byte : piece) {
      word.symbols.push_back(byte_ids[static_cast<unsigned char>(byte)]);
    }
  }
  PairTable table(std::move(words));

  Json merges = Json::array();
  const int64_t wanted = options.vocab_size - num_first;
  while (static_cast<int64_t>(tokens.size()) < options.vocab_size) {
    const auto [count, pair] = table.TakeBest();
    if (count < std::max<int64_t>(options.min_count, 1)) break;
    const std::string token = tokens[pair.first] + tokens[pair.second];
    // Two merges may make the same token.
    const auto [it, is_new] =
        ids.emplace(token, static_cast<int32_t>(tokens.size()));
    merges.push_back(
        absl::StrCat(tokens[pair.first], " ", tokens[pair.second]));
    const int32_t id = it->second;
    if (is_new) tokens.push_back(token);
    table.Merge(pair, id);
    if (options.progress &&
        !options.progress(static_cast<int64_t>(tokens.size()) - num_first,
                          wanted)) {
      return absl::CancelledError("the training of the tokenizer was stopped");
    }
  }

  Json added = Json::array();
  for (size_t i = 0; i < options.special_tokens.size(); ++i) {
    added.push_back({{"id", i},
                     {"content", options.special_tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  Json vocabulary = Json::object();
  // ordered_json looks for each key it is given by going over all of them.
  Json::object_t& entries = vocabulary.get_ref<Json::object_t&>();
  entries.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    entries.Container::emplace_back(tokens[i], i);
  }
  Json json = Json::parse(R"({
      "version": "1.0", "truncation": null, "padding": null,
      "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
      "post_processor": null, "decoder": null,
      "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": {}, "merges": []}})");
  json["added_tokens"] = std::move(added);
  json["pre_tokenizer"] = PreTokenizerJson();
  json["decoder"] = ByteLevelJson();
  json["model"]["vocab"] = std::move(vocabulary);
  json["model"]["merges"] = std::move(merges);
  return json;
}

}  // namespace strata
