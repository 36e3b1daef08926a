// The chat template of a tokenizer_config.json: messages to the text that a
// model was trained on.
//
//   [{"role": "user", "content": "Hi"}]  ->  "<|user|>Hi<|assistant|>"
//
// Templates are programs in Jinja. The subset here is what published chat
// templates use (docs/tokenizer.md lists it); what it has not is an error that
// names the line. A program ends after a bounded number of steps and bytes, so
// a template of a stranger's may be run.

#ifndef CORE_TOKENIZER_CHAT_TEMPLATE_H_
#define CORE_TOKENIZER_CHAT_TEMPLATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_parser.h"
#include "nlohmann/json.hpp"

namespace strata {

struct ChatOptions {
  bool add_generation_prompt = true;  // The assistant is to speak next.
  // Further variables: "tools", "enable_thinking", ...
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  // The date for strftime_now; without it that is undefined, and templates that
  // want a date take one of their own.
  std::optional<absl::Time> now;
  int64_t max_steps = TemplateBudget::kSteps;
};

class ChatTemplate {
 public:
  // Returns INVALID_ARGUMENT, with the line, if it is none.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view source);

  // Reads "chat_template" (the one named "default" of a list), and the special
  // tokens that templates refer to, of the content of a tokenizer_config.json.
  //
  // Returns NOT_FOUND if it has no template.
  static absl::StatusOr<ChatTemplate> FromConfig(absl::string_view json);

  // The same of a file, or of the tokenizer_config.json in a folder; a
  // chat_template.jinja beside it, as newer models have, goes first.
  static absl::StatusOr<ChatTemplate> Load(const std::string& path);

  // Returns INVALID_ARGUMENT if messages are no list of objects, or with the
  // line if the template refuses them or errs; RESOURCE_EXHAUSTED if it does
  // not come to an end.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& messages,
                                     const ChatOptions& options = {}) const;

  // bos_token, eos_token, ... of the config.
  const std::vector<std::pair<std::string, std::string>>& special_tokens()
      const {
    return special_tokens_;
  }

 private:
  TemplateTree tree_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_CHAT_TEMPLATE_H_
