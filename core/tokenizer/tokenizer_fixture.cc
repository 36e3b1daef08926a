#include "core/tokenizer/tokenizer_fixture.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/split_pattern.h"
#include "core/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

// Adds the token of each merge to the vocabulary, unless it is there.
void AddMerges(const std::vector<std::string>& merges, Json& model) {
  Json& vocabulary = model["vocab"];
  for (const std::string& merge : merges) {
    std::string token = merge;
    token.erase(token.find(' '), 1);
    if (!vocabulary.contains(token)) vocabulary[token] = vocabulary.size();
  }
  model["merges"] = merges;
}

Json Split(const std::string& regex) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json BpeModel() {
  return {{"type", "BPE"},         {"dropout", nullptr},
          {"unk_token", nullptr},  {"continuing_subword_prefix", nullptr},
          {"fuse_unk", false},     {"end_of_word_suffix", nullptr},
          {"byte_fallback", false}};
}

}  // namespace

Json ByteLevelJson(const std::vector<std::string>& merges) {
  Json model = BpeModel();
  for (int byte = 0; byte < 256; ++byte) {
    model["vocab"][ToByteLevel(std::string(1, static_cast<char>(byte)))] = byte;
  }
  AddMerges(merges, model);
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array()},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", Json::array()}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {Split("\\p{N}{1,3}"), Split("[一-龥\u3040-ゟ゠-ヿ]+"),
          Split(kDeepSeekV3Regex), byte_level}}}},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model", std::move(model)}};
}

Json SentencePieceJson(const std::vector<std::string>& characters,
                       const std::vector<std::string>& merges) {
  Json model = BpeModel();
  model["unk_token"] = "<unk>";
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  Json& vocabulary = model["vocab"];
  vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[absl::StrFormat("<0x%02X>", byte)] = vocabulary.size();
  }
  for (const std::string& character : characters) {
    vocabulary[character] = vocabulary.size();
  }
  AddMerges(merges, model);
  return {
      {"version", "1.0"},
      {"added_tokens", Json::array()},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", "\u2581"}},
          {{"type", "Replace"},
           {"pattern", {{"String", " "}}},
           {"content", "\u2581"}}}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"special_tokens",
         {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"},
           {"pattern", {{"String", "\u2581"}}},
           {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model", std::move(model)}};
}

int AddToken(Json& tokenizer, const std::string& content, const Json& flags) {
  Json& tokens = tokenizer["added_tokens"];
  const int id = tokenizer["model"]["vocab"].size() + tokens.size();
  Json token = {{"id", id},           {"content", content},
                {"lstrip", false},    {"rstrip", false},
                {"special", false},   {"single_word", false},
                {"normalized", false}};
  token.update(flags);
  tokens.push_back(std::move(token));
  return id;
}

Tokenizer MakeTokenizer(const Json& json) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(json.dump());
  CHECK(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

}  // namespace strata
