#include "core/tokenizer/fuzz_inputs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxTextBytes = 512;
// A tenth of what a template may take, so that many are tried in a second.
constexpr int64_t kMaxSteps = TemplateBudget::kSteps / 10;

// The file decides what tokens a text becomes, but whatever that is, it has
// text, and the text comes in whole characters.
void CheckText(const Tokenizer& tokenizer, absl::string_view text) {
  for (const bool parse_special : {false, true}) {
    EncodeOptions options;
    // A post-processor may name ids that are those of no token.
    options.add_special_tokens = false;
    options.parse_special_tokens = parse_special;
    const std::vector<int32_t> ids = tokenizer.Encode(text, options);
    TextStream stream(tokenizer, /*skip_special_tokens=*/false);
    std::string streamed;
    const auto take = [&](const std::string& part) {
      CHECK(FindInvalidUtf8(part) == absl::string_view::npos)
          << "the stream gives half a character";
      streamed += part;
    };
    for (const int32_t id : ids) {
      CHECK(id >= 0 && id < tokenizer.vocab_size())
          << "id " << id << " of " << tokenizer.vocab_size();
      CHECK(tokenizer.TokenOf(id) != nullptr) << "id " << id << " is no token";
      take(stream.Push(id));
    }
    take(stream.Finish());
    const absl::StatusOr<std::string> decoded = tokenizer.Decode(ids);
    CHECK(decoded.ok()) << decoded.status();
    CHECK(*decoded == streamed) << "the stream gives another text";
  }
}

bool Render(const ChatTemplate& chat) {
  static const auto* const kMessages = new Json(Json::parse(R"([
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "1 + 1?", "name": "x"},
      {"role": "assistant", "content": null, "tool_calls": [
          {"function": {"name": "add", "arguments": {"a": 1, "b": [2.5]}}}]},
      {"role": "tool", "content": [{"type": "text", "text": "2"}]}])"));
  ChatOptions options;
  options.max_steps = kMaxSteps;
  options.variables = Json::parse(R"({"tools": [{"type": "function"}]})");
  const absl::StatusOr<std::string> text = chat.Render(*kMessages, options);
  if (text.ok()) {
    CHECK(text->size() <= 2 * TemplateBudget::kMaxBytes)
        << text->size() << " bytes";
    CHECK(FindInvalidUtf8(*text) == absl::string_view::npos)
        << "the text is no UTF-8";
  }
  return text.ok();
}

}  // namespace

bool TryTokenizerJson(absl::string_view json) {
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(json);
  if (!tokenizer.ok()) return false;
  CHECK_LE(tokenizer->vocab_size(), Bpe::kMaxIds);
  for (const absl::string_view text :
       {"", " ", "  \n\t x", "I'm 12345 <s>a</s> caf\u00E9 \u5B66\u7FD2",
        "e\u0301\u0323 \U0001F636\u200D\u3000aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "\xE2\x82 \xFF\xC3"}) {
    CheckText(*tokenizer, text);
  }
  CheckText(*tokenizer, json.substr(0, kMaxTextBytes));
  return true;
}

bool TryChatTemplate(absl::string_view source) {
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::Parse(source);
  return chat.ok() && Render(*chat);
}

bool TryTokenizerConfig(absl::string_view json) {
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::FromConfig(json);
  return chat.ok() && Render(*chat);
}

int TokenizerOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view content(reinterpret_cast<const char*>(data) + 1,
                                  size - 1);
  switch (data[0]) {
    case 't':
      TryTokenizerJson(content);
      break;
    case 'c':
      TryChatTemplate(content);
      break;
    case 'g':
      TryTokenizerConfig(content);
      break;
    default:
      break;
  }
  return 0;
}

}  // namespace strata
