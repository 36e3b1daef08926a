#include "core/tokenizer/chat_template.h"

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
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/template_evaluator.h"
#include "core/tokenizer/template_parser.h"
#include "core/tokenizer/template_value.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

// The template in the field: a string, or a list of {"name", "template"}.
absl::StatusOr<std::string> FindSource(const JsonNode& config) {
  if (!config.Has("chat_template")) {
    return absl::NotFoundError("there is no \"chat_template\"");
  }
  const nlohmann::json& field = config.json()["chat_template"];
  if (!field.is_array()) return config.String("chat_template");
  ASSIGN_OR_RETURN(const auto items, config.Array("chat_template"));
  for (const JsonNode& item : items) {
    ASSIGN_OR_RETURN(const std::string name, item.String("name"));
    if (name == "default") return item.String("template");
  }
  return absl::NotFoundError("\"chat_template\" has none named \"default\"");
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view source) {
  ChatTemplate chat;
  ASSIGN_OR_RETURN(chat.tree_,
                   ParseTemplate(ToUtf8({source.data(), source.size()})));
  return chat;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromConfig(absl::string_view json) {
  ASSIGN_OR_RETURN(const nlohmann::json parsed, ParseJsonFile(json));
  const JsonNode config(parsed);
  ASSIGN_OR_RETURN(const std::string source, FindSource(config));
  absl::StatusOr<ChatTemplate> chat = Parse(source);
  if (!chat.ok()) {
    return absl::Status(
        chat.status().code(),
        absl::StrCat("chat_template, ", chat.status().message()));
  }
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token",
                           "pad_token", "cls_token", "mask_token"}) {
    if (!config.Has(name)) continue;
    // A string, or an object that says more about the token.
    if (parsed[name].is_object()) {
      ASSIGN_OR_RETURN(const JsonNode token, config.Object(name));
      ASSIGN_OR_RETURN(std::string content, token.String("content"));
      chat->special_tokens_.emplace_back(name, std::move(content));
    } else {
      ASSIGN_OR_RETURN(std::string content, config.String(name));
      chat->special_tokens_.emplace_back(name, std::move(content));
    }
  }
  return chat;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& path) {
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  const std::string config =
      is_folder ? absl::StrCat(path, "/tokenizer_config.json") : path;
  const std::string source =
      is_folder ? absl::StrCat(path, "/chat_template.jinja") : "";
  ASSIGN_OR_RETURN(std::string json, ReadFile(config));
  std::string named = config;
  if (is_folder && fs::exists(source, error)) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(source));
    ASSIGN_OR_RETURN(nlohmann::json parsed, ParseJsonFile(json));
    if (parsed.is_object()) parsed["chat_template"] = ToUtf8(text);
    json = parsed.dump();
    named = source;
  }
  absl::StatusOr<ChatTemplate> chat = FromConfig(json);
  if (chat.ok()) return chat;
  return absl::Status(chat.status().code(),
                      absl::StrCat(named, ": ", chat.status().message()));
}

absl::StatusOr<std::string> ChatTemplate::Render(
    const nlohmann::ordered_json& messages, const ChatOptions& options) const {
  if (!messages.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages are ", messages.type_name(),
                     "; want a list of {\"role\": ..., \"content\": ...}"));
  }
  for (const auto& message : messages) {
    if (message.is_object()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a message is ", message.type_name(),
                     "; want an object with role and content"));
  }
  std::vector<std::pair<std::string, TemplateValue>> variables;
  for (const auto& [name, content] : special_tokens_) {
    variables.emplace_back(name, TemplateValue(content));
  }
  for (const auto& [name, json] : options.variables.items()) {
    ASSIGN_OR_RETURN(TemplateValue value, TemplateValue::FromJson(json));
    variables.emplace_back(name, std::move(value));
  }
  ASSIGN_OR_RETURN(TemplateValue list, TemplateValue::FromJson(messages));
  variables.emplace_back("messages", std::move(list));
  variables.emplace_back("add_generation_prompt",
                         TemplateValue(options.add_generation_prompt));
  return EvaluateTemplate(tree_, std::move(variables), options.now,
                          options.max_steps);
}

}  // namespace strata
