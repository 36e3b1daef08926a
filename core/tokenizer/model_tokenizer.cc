#include "core/tokenizer/model_tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/json_node.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr char kGenerationConfigFile[] = "generation_config.json";
constexpr char kModelConfigFile[] = "config.json";

// What published tokenizers call the end of a text.
constexpr absl::string_view kEndTexts[] = {
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};

absl::Status InFile(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(path, ": ", status.message()));
}

// The text of a token: a string, or an object that says more about it; "" if
// there is none.
absl::StatusOr<std::string> TokenText(const JsonNode& config,
                                      absl::string_view key) {
  if (!config.Has(key)) return std::string();
  if (!config.json()[std::string(key)].is_object()) return config.String(key);
  ASSIGN_OR_RETURN(const JsonNode token, config.Object(key));
  return token.String("content");
}

// Calls `use` with the file's content, an object; does nothing if there is no
// file.
template <typename Use>
absl::Status WithFile(const std::string& path, Use use) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  const absl::StatusOr<nlohmann::json> json = ParseJsonFile(*text);
  if (!json.ok()) return InFile(path, json.status());
  if (!json->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", json->type_name(), "; want an object"));
  }
  return InFile(path, use(JsonNode(*json)));
}

}  // namespace

bool HasTokenizer(const std::string& folder) {
  std::error_code ignored;
  return fs::exists(fs::path(folder) / kTokenizerFile, ignored);
}

absl::StatusOr<ModelTokenizer> ModelTokenizer::Load(const std::string& path) {
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  const fs::path file =
      is_folder ? fs::path(path) / kTokenizerFile : fs::path(path);
  ASSIGN_OR_RETURN(std::string json, ReadFile(file.string()));
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(json);
  if (!tokenizer.ok()) return InFile(file.string(), tokenizer.status());
  ModelTokenizer model(*std::move(tokenizer), std::move(json));
  if (file.filename() == kTokenizerFile) {
    const fs::path folder = file.parent_path();
    RETURN_IF_ERROR(model.ReadConfig((folder / kTokenizerConfigFile).string()));
    RETURN_IF_ERROR(
        model.ReadEndIds((folder / kGenerationConfigFile).string()));
    if (model.end_tokens_.empty()) {
      RETURN_IF_ERROR(model.ReadEndIds((folder / kModelConfigFile).string()));
    }
  }
  if (model.end_token_ == Bpe::kNoId && model.end_tokens_.size() == 1 &&
      model.tokenizer_.TokenOf(*model.end_tokens_.begin()) != nullptr) {
    model.end_token_ = *model.end_tokens_.begin();
  }
  if (model.end_token_ == Bpe::kNoId) model.GuessEndToken();
  if (model.end_token_ != Bpe::kNoId) {
    model.end_tokens_.insert(model.end_token_);
  }
  return model;
}

absl::Status ModelTokenizer::ReadConfig(const std::string& path) {
  return WithFile(path, [&](const JsonNode& config) -> absl::Status {
    const auto find = [&](const char* key) -> absl::StatusOr<int32_t> {
      ASSIGN_OR_RETURN(const std::string text, TokenText(config, key));
      const int32_t id = text.empty() ? Bpe::kNoId : tokenizer_.IdOf(text);
      if (!text.empty() && id == Bpe::kNoId) {
        return config.Error(absl::StrCat(
            key, " is \"", text, "\", which the tokenizer does not have"));
      }
      return id;
    };
    ASSIGN_OR_RETURN(end_token_, find("eos_token"));
    if (!config.Has("add_bos_token")) return absl::OkStatus();
    ASSIGN_OR_RETURN(const bool adds, config.Bool("add_bos_token"));
    if (!adds) {
      begin_ = Begin::kNothing;
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(begin_token_, find("bos_token"));
    if (begin_token_ == Bpe::kNoId) {
      return config.Error("add_bos_token is true, and there is no bos_token");
    }
    begin_ = Begin::kToken;
    return absl::OkStatus();
  });
}

absl::Status ModelTokenizer::ReadEndIds(const std::string& path) {
  return WithFile(path, [&](const JsonNode& config) -> absl::Status {
    if (!config.Has("eos_token_id")) return absl::OkStatus();
    const nlohmann::json& field = config.json()["eos_token_id"];
    for (const nlohmann::json& id :
         field.is_array() ? field : nlohmann::json::array({field})) {
      if (!id.is_number_integer() || id < 0 || id >= Bpe::kMaxIds) {
        return config.Error(absl::StrCat("eos_token_id has ", id.dump(),
                                         "; want ids, 0 to ",
                                         Bpe::kMaxIds - 1));
      }
      end_tokens_.insert(id.get<int32_t>());
    }
    return absl::OkStatus();
  });
}

void ModelTokenizer::GuessEndToken() {
  std::vector<int32_t> special;
  for (const AddedToken& token : tokenizer_.added_tokens().tokens()) {
    if (token.special) special.push_back(token.id);
  }
  if (special.size() == 1) end_token_ = special[0];
  for (const absl::string_view text : kEndTexts) {
    if (end_token_ != Bpe::kNoId) return;
    const int32_t id = tokenizer_.IdOf(text);
    if (id != Bpe::kNoId && tokenizer_.IsSpecial(id)) end_token_ = id;
  }
}

std::vector<int32_t> ModelTokenizer::EncodePrompt(
    absl::string_view text, bool find_special_tokens) const {
  EncodeOptions options;
  options.parse_special_tokens = find_special_tokens;
  options.add_special_tokens = begin_ == Begin::kPostProcessor;
  std::vector<int32_t> ids = tokenizer_.Encode(text, options);
  if (begin_ == Begin::kToken) ids.insert(ids.begin(), begin_token_);
  return ids;
}

std::vector<int32_t> ModelTokenizer::EncodeChat(absl::string_view text) const {
  EncodeOptions options;
  options.add_special_tokens = false;
  return tokenizer_.Encode(text, options);
}

std::string EndTokenConfig(absl::string_view end_text) {
  nlohmann::ordered_json json = {{"add_bos_token", !end_text.empty()}};
  if (!end_text.empty()) {
    json["bos_token"] = std::string(end_text);
    json["eos_token"] = std::string(end_text);
  }
  return json.dump(2) + "\n";
}

}  // namespace strata
