#include "core/tokenizer/vocabulary_files.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/split_pattern.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;
using Ids = absl::flat_hash_map<absl::string_view, int32_t>;

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581
// Longer tokens have more cuts than are worth a merge each; published ones have
// at most 48 characters.
constexpr size_t kMaxTokenBytes = 1024;

PieceType TypeOf(const Vocabulary& vocabulary, size_t id) {
  return vocabulary.types.empty() ? PieceType::kNormal : vocabulary.types[id];
}

// What merging may make, and make of.
bool Merges(const Vocabulary& vocabulary, size_t id) {
  const PieceType type = TypeOf(vocabulary, id);
  return type == PieceType::kNormal || type == PieceType::kUserDefined;
}

absl::StatusOr<Ids> Index(const Vocabulary& vocabulary) {
  const size_t n = vocabulary.tokens.size();
  if (n == 0 || n > Bpe::kMaxIds) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the vocabulary has ", n, " tokens; want 1 to ", Bpe::kMaxIds));
  }
  if (!vocabulary.types.empty() && vocabulary.types.size() != n) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", vocabulary.types.size(), " types of ", n, " tokens"));
  }
  Ids ids;
  for (size_t id = 0; id < n; ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (token.empty() || token.size() > kMaxTokenBytes ||
        FindInvalidUtf8(token) != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", id, " has ", token.size(),
          " bytes that are no text; want 1 to ", kMaxTokenBytes, " of UTF-8"));
    }
    const auto [it, is_new] = ids.emplace(token, static_cast<int32_t>(id));
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokens ", it->second, " and ", id, " are both \"", token, "\""));
    }
  }
  for (const auto& [name, id] : {std::pair("begin", vocabulary.begin_token),
                                 {"end", vocabulary.end_token},
                                 {"unknown", vocabulary.unknown_token}}) {
    if (id < -1 || id >= static_cast<int64_t>(n)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the ", name, " token is ", id, " of ", n));
    }
  }
  return ids;
}

// Appends without the search for the key that operator[] does.
void Append(Json& object, const std::string& key, Json value) {
  object.get_ref<Json::object_t&>().Container::emplace_back(key,
                                                            std::move(value));
}

Json VocabularyJson(const Vocabulary& vocabulary) {
  Json json = Json::object();
  json.get_ref<Json::object_t&>().reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Append(json, vocabulary.tokens[id], id);
  }
  return json;
}

Json AddedTokensJson(const Vocabulary& vocabulary) {
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const PieceType type = TypeOf(vocabulary, id);
    const bool special =
        type == PieceType::kControl || type == PieceType::kUnknown;
    if (!special && type != PieceType::kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", vocabulary.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json BeginTemplateJson(const Vocabulary& vocabulary) {
  if (!vocabulary.adds_begin || vocabulary.begin_token < 0) return nullptr;
  const std::string& begin = vocabulary.tokens[vocabulary.begin_token];
  Json json = {{"type", "TemplateProcessing"}};
  json["single"] =
      Json::array({{{"SpecialToken", {{"id", begin}, {"type_id", 0}}}},
                   {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}});
  json["special_tokens"][begin] = {
      {"id", begin},
      {"ids", Json::array({vocabulary.begin_token})},
      {"tokens", Json::array({begin})}};
  return json;
}

Json FileJson(const Vocabulary& vocabulary) {
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = AddedTokensJson(vocabulary);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = nullptr;
  json["post_processor"] = BeginTemplateJson(vocabulary);
  json["decoder"] = nullptr;
  Json& model = json["model"];
  model = {{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false},
           {"ignore_merges", false}};
  model["vocab"] = VocabularyJson(vocabulary);
  model["merges"] = Json::array();
  return json;
}

absl::StatusOr<TokenizerFiles> Finish(const Vocabulary& vocabulary,
                                      const Json& json) {
  TokenizerFiles files;
  files.tokenizer = json.dump(1) + "\n";
  // What is written is what loads.
  RETURN_IF_ERROR(Tokenizer::Parse(files.tokenizer).status());
  const bool adds_begin = vocabulary.adds_begin && vocabulary.begin_token >= 0;
  Json config = {{"add_bos_token", adds_begin}};
  const auto name = [&](const char* key, int32_t id) {
    if (id >= 0) config[key] = vocabulary.tokens[id];
  };
  name("bos_token", vocabulary.begin_token);
  name("eos_token", vocabulary.end_token);
  name("unk_token", vocabulary.unknown_token);
  if (!vocabulary.chat_template.empty()) {
    config["chat_template"] = ToUtf8(vocabulary.chat_template);
  }
  files.config = config.dump(2) + "\n";
  return files;
}

// Each way to cut a piece into two pieces, the highest score first.
Json MergesByScore(const Vocabulary& vocabulary, const Ids& ids) {
  struct Merge {
    float score;
    int32_t id;
    int32_t left;
    int32_t right;
  };
  std::vector<Merge> merges;
  const auto find = [&](absl::string_view text) {
    const auto it = ids.find(text);
    return it == ids.end() || !Merges(vocabulary, it->second) ? Bpe::kNoId
                                                              : it->second;
  };
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!Merges(vocabulary, id)) continue;
    const absl::string_view token = vocabulary.tokens[id];
    for (size_t cut = DecodeAt(token, 0).end; cut < token.size();
         cut = DecodeAt(token, cut).end) {
      const int32_t left = find(token.substr(0, cut));
      const int32_t right = find(token.substr(cut));
      if (left == Bpe::kNoId || right == Bpe::kNoId) continue;
      merges.push_back(
          {vocabulary.scores[id], static_cast<int32_t>(id), left, right});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(-a.score, a.id, a.left, a.right) <
           std::tuple(-b.score, b.id, b.left, b.right);
  });
  Json json = Json::array();
  for (const Merge& merge : merges) {
    json.push_back(Json::array(
        {vocabulary.tokens[merge.left], vocabulary.tokens[merge.right]}));
  }
  return json;
}

int64_t NumTies(const Vocabulary& vocabulary) {
  std::vector<float> scores;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const absl::string_view token = vocabulary.tokens[id];
    // Single characters are made by no merge.
    if (Merges(vocabulary, id) && DecodeAt(token, 0).end < token.size()) {
      scores.push_back(vocabulary.scores[id]);
    }
  }
  std::sort(scores.begin(), scores.end());
  int64_t ties = 0;
  for (size_t i = 1; i < scores.size(); ++i) {
    ties += scores[i] == scores[i - 1];
  }
  return ties;
}

Json SplitJson(absl::string_view regex) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", std::string(regex)}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

struct Splitter {
  std::vector<std::string> names;
  std::vector<std::string> regexes;
  bool ignores_merges = false;  // Llama 3: whole pieces before merges.
};

const std::vector<Splitter>& Splitters() {
  static const auto* const kSplitters = new std::vector<Splitter>{
      {{"gpt-2", "phi-2"}, {kGpt2Regex}},
      {{"llama-bpe", "llama3", "llama-v3"}, {kLlama3Regex}, true},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwen2Regex}},
      {{"deepseek-v3"},
       {R"(\p{N}{1,3})", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
        kDeepSeekV3Regex}}};
  return *kSplitters;
}

}  // namespace

absl::StatusOr<TokenizerFiles> SentencePieceFiles(
    const Vocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const Ids ids, Index(vocabulary));
  if (vocabulary.scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there are ", vocabulary.scores.size(), " scores of ",
                     vocabulary.tokens.size(), " tokens"));
  }
  for (size_t id = 0; id < vocabulary.scores.size(); ++id) {
    if (std::isnan(vocabulary.scores[id])) {
      return absl::InvalidArgumentError(
          absl::StrCat("the score of token ", id, " is NaN"));
    }
  }
  Json json = FileJson(vocabulary);
  Json& model = json["model"];
  model["byte_fallback"] = true;
  model["fuse_unk"] = true;
  if (vocabulary.unknown_token >= 0) {
    model["unk_token"] = vocabulary.tokens[vocabulary.unknown_token];
  }
  model["merges"] = MergesByScore(vocabulary, ids);

  Json normalizers = Json::array();
  Json decoders = Json::array();
  if (vocabulary.adds_space_prefix) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  }
  normalizers.push_back({{"type", "Replace"},
                         {"pattern", {{"String", " "}}},
                         {"content", kSpaceMark}});
  decoders.push_back({{"type", "Replace"},
                      {"pattern", {{"String", kSpaceMark}}},
                      {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (vocabulary.adds_space_prefix) {
    decoders.push_back(
        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  ASSIGN_OR_RETURN(TokenizerFiles files, Finish(vocabulary, json));
  files.num_ties = NumTies(vocabulary);
  return files;
}

absl::StatusOr<TokenizerFiles> ByteLevelFiles(const Vocabulary& vocabulary) {
  RETURN_IF_ERROR(Index(vocabulary).status());
  const Splitter* splitter = nullptr;
  std::string known;
  for (const Splitter& candidate : Splitters()) {
    for (const std::string& name : candidate.names) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", name);
      if (name == vocabulary.splitter) splitter = &candidate;
    }
  }
  if (splitter == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("there is no splitter \"", vocabulary.splitter,
                     "\" here; supported are ", known));
  }
  Json json = FileJson(vocabulary);
  json["model"]["ignore_merges"] = splitter->ignores_merges;
  Json& merges = json["model"]["merges"];
  for (const std::string& merge : vocabulary.merges) {
    if (FindInvalidUtf8(merge) != absl::string_view::npos) {
      return absl::InvalidArgumentError("a merge is no UTF-8");
    }
    merges.push_back(merge);
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  Json steps = Json::array();
  for (const std::string& regex : splitter->regexes) {
    steps.push_back(SplitJson(regex));
  }
  steps.push_back(byte_level);
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  json["decoder"] = byte_level;
  return Finish(vocabulary, json);
}

}  // namespace strata
