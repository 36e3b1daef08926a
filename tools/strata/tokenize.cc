// strata tokenize

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

using Json = nlohmann::json;

constexpr int kDiffersExitCode = 1;

struct TokenizeFlags {
  std::string tokenizer;
  std::string text;
  std::string file;
  std::string vectors;
  std::string chat;
  bool decode = false;
  bool add_special_tokens = false;
  bool json = false;

  Option* text_option = nullptr;
};

absl::StatusOr<std::string> ReadInput(const TokenizeFlags& flags) {
  if (flags.text_option->is_given()) return flags.text;
  if (!flags.file.empty() && flags.file != "-") return ReadFile(flags.file);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

// The ids in a text: numbers between spaces, commas or brackets.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \t\r\n,[]"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", word, "\" is no id; want numbers between spaces or commas"));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<int> RunDecode(const TokenizeFlags& flags,
                              const Tokenizer& tokenizer,
                              const std::string& input) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(input));
  ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(ids));
  if (flags.json) {
    PrintJson(Json{{"ids", ids}, {"text", text}});
  } else {
    Print(absl::StrCat(Printable(text), "\n"));
  }
  return 0;
}

absl::StatusOr<int> RunEncode(const TokenizeFlags& flags,
                              const Tokenizer& tokenizer,
                              const std::string& text) {
  const size_t bad = FindInvalidUtf8(text);
  if (bad != absl::string_view::npos) {
    PrintNote(absl::StrCat("byte ", bad,
                           " begins no UTF-8 character; what is none is taken "
                           "as U+FFFD"));
  }
  const std::vector<int32_t> ids =
      tokenizer.Encode(text, {flags.add_special_tokens});
  if (flags.json) {
    Json tokens = Json::array();
    for (const int32_t id : ids) tokens.push_back(*tokenizer.TokenOf(id));
    PrintJson(Json{{"text", ToUtf8(text)}, {"ids", ids}, {"tokens", tokens}});
  } else {
    Print(absl::StrCat(absl::StrJoin(ids, " "), "\n"));
  }
  return 0;
}

struct Vector {
  std::string text;
  std::vector<int32_t> ids;
};

absl::StatusOr<std::vector<Vector>> LoadVectors(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
  const Json json = Json::parse(content, nullptr, /*allow_exceptions=*/false);
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", what, "; want a list of {\"text\": ..., \"ids\": [...]}"));
  };
  if (json.is_discarded()) return error("is no JSON");
  if (!json.is_array()) return error("is no list");
  std::vector<Vector> vectors;
  for (const Json& item : json) {
    Vector& vector = vectors.emplace_back();
    const size_t index = vectors.size() - 1;
    if (!item.is_object() || !item.contains("text") ||
        !item["text"].is_string()) {
      return error(absl::StrCat("entry ", index, " has no text"));
    }
    vector.text = item["text"].get<std::string>();
    if (!item.contains("ids") || !item["ids"].is_array()) {
      return error(absl::StrCat("entry ", index, " has no ids"));
    }
    for (const Json& id : item["ids"]) {
      if (!id.is_number_integer() || id < INT32_MIN || id > INT32_MAX) {
        return error(absl::StrCat("entry ", index, " has the id ", id.dump()));
      }
      vector.ids.push_back(id.get<int32_t>());
    }
  }
  return vectors;
}

// One line for each text whose ids or whose way back differ.
absl::StatusOr<int> RunVectors(const TokenizeFlags& flags,
                               const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const std::vector<Vector> vectors,
                   LoadVectors(flags.vectors));
  Json differences = Json::array();
  std::string lines;
  for (size_t i = 0; i < vectors.size(); ++i) {
    const Vector& vector = vectors[i];
    const std::vector<int32_t> ids =
        tokenizer.Encode(vector.text, {flags.add_special_tokens});
    const absl::StatusOr<std::string> text = tokenizer.Decode(vector.ids);
    const bool same_ids = ids == vector.ids;
    const bool same_text = text.ok() && *text == vector.text;
    if (same_ids && same_text) continue;
    Json difference = {{"entry", i}, {"text", vector.text}};
    absl::StrAppend(&lines, "entry ", i, ", ", Json(vector.text).dump(), "\n");
    if (!same_ids) {
      difference["ids"] = ids;
      difference["expected_ids"] = vector.ids;
      absl::StrAppend(&lines, "  ids       ", absl::StrJoin(ids, " "),
                      "\n  expected  ", absl::StrJoin(vector.ids, " "), "\n");
    }
    if (!same_text) {
      const std::string decoded =
          text.ok() ? Json(*text).dump() : std::string(text.status().message());
      difference["decoded"] = decoded;
      absl::StrAppend(&lines, "  decoded   ", decoded, "\n");
    }
    differences.push_back(std::move(difference));
  }
  const size_t num_different = differences.size();
  if (flags.json) {
    PrintJson(Json{{"texts", vectors.size()},
                   {"agree", vectors.size() - num_different},
                   {"differences", std::move(differences)}});
  } else {
    Print(absl::StrCat(lines, vectors.size() - num_different, " of ",
                       vectors.size(), " texts agree in ids and back\n"));
  }
  return num_different == 0 ? 0 : kDiffersExitCode;
}

// Messages, or an object with them and further variables of the template.
absl::StatusOr<int> RunChat(const TokenizeFlags& flags,
                            const Tokenizer& tokenizer) {
  std::error_code error;
  std::filesystem::path folder = flags.tokenizer;
  if (!std::filesystem::is_directory(folder, error)) {
    folder = folder.has_parent_path() ? folder.parent_path() : ".";
  }
  ASSIGN_OR_RETURN(const ChatTemplate chat,
                   ChatTemplate::Load(folder.string()));
  ASSIGN_OR_RETURN(const std::string content, ReadFile(flags.chat));
  nlohmann::ordered_json messages = nlohmann::ordered_json::parse(
      content, nullptr, /*allow_exceptions=*/false);
  if (messages.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.chat, ": is no JSON"));
  }
  ChatOptions options;
  options.now = absl::Now();
  if (messages.is_object()) {
    options.variables = messages;
    options.variables.erase("messages");
    if (messages.contains("add_generation_prompt")) {
      options.add_generation_prompt = messages["add_generation_prompt"] == true;
      options.variables.erase("add_generation_prompt");
    }
    messages = nlohmann::ordered_json(messages["messages"]);
  }
  ASSIGN_OR_RETURN(const std::string text, chat.Render(messages, options));
  if (flags.json) {
    PrintJson(
        Json{{"text", text},
             {"ids", tokenizer.Encode(text, {flags.add_special_tokens})}});
  } else {
    Print(absl::StrCat(Printable(text), "\n"));
  }
  return 0;
}

absl::StatusOr<int> RunTokenize(const TokenizeFlags& flags) {
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(flags.tokenizer));
  if (!flags.vectors.empty()) return RunVectors(flags, tokenizer);
  if (!flags.chat.empty()) return RunChat(flags, tokenizer);
  ASSIGN_OR_RETURN(const std::string input, ReadInput(flags));
  return flags.decode ? RunDecode(flags, tokenizer, input)
                      : RunEncode(flags, tokenizer, input);
}

}  // namespace

Command AddTokenize(OptionParser& app) {
  OptionParser* tokenize = app.AddSubcommand(
      "tokenize", "Text to token ids and back, by a tokenizer.json");
  auto flags = std::make_shared<TokenizeFlags>();
  tokenize
      ->AddOption("--tokenizer", flags->tokenizer,
                  "A tokenizer.json, or the folder it is in")
      ->TypeName("PATH")
      ->Required();
  auto* input = tokenize->AddGroup("input");
  flags->text_option =
      input->AddOption("text", flags->text, "Text, or ids with --decode")
          ->TypeName("TEXT");
  input
      ->AddOption("--file", flags->file,
                  "File with the text or the ids; - is stdin, as is none")
      ->TypeName("FILE");
  Option* const vectors =
      input
          ->AddOption("--vectors", flags->vectors,
                      "Compares with a list of {\"text\", \"ids\"}: prints "
                      "what differs, and exits with 1 if anything does")
          ->TypeName("FILE");
  Option* const chat =
      input
          ->AddOption("--chat", flags->chat,
                      "List of messages, or an object with \"messages\" and "
                      "variables: prints them as the chat template in the "
                      "tokenizer's folder has it")
          ->TypeName("FILE");
  input->RequireOption(0, 1);
  tokenize->AddFlag("--decode", flags->decode, "Turns ids into text")
      ->Excludes(vectors)
      ->Excludes(chat);
  tokenize->AddFlag("--add-special-tokens", flags->add_special_tokens,
                    "Frames texts as the tokenizer's post-processor says");
  AddJson(*tokenize, flags->json);
  return {tokenize, [flags] { return RunTokenize(*flags); }};
}

}  // namespace strata
