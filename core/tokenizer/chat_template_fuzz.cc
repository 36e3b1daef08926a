// Chat templates: programs of strangers. Each comes to an end, with a text or
// with an error that names a line.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/testing/fuzz_target.h"
#include "core/tokenizer/chat_template.h"
#include "nlohmann/json.hpp"

namespace {

// Of a hundred thousand, what an input costs is seen; the default is for
// templates of users.
constexpr int64_t kMaxSteps = 100000;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat = ChatTemplate::Parse(source);
  if (!chat.ok()) {
    CHECK(absl::IsInvalidArgument(chat.status())) << chat.status();
    CHECK(!chat.status().message().empty());
    return 0;
  }
  static const auto* const kMessages =
      new nlohmann::ordered_json(nlohmann::ordered_json::parse(R"([
        {"role": "system", "content": "Be  brief. "},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
          {"type": "function", "function": {"name": "f", "arguments":
            {"x": 1, "y": [true, 2.5, "z"]}}}]},
        {"role": "user", "content": [{"type": "text", "text": "Hm"}]}])"));
  ChatOptions options;
  options.variables = {{"tools", nlohmann::ordered_json::array()},
                       {"enable_thinking", false},
                       {"n", 3}};
  options.now = absl::FromUnixSeconds(1700000000);
  options.max_steps = kMaxSteps;
  const auto text = chat->Render(*kMessages, options);
  if (!text.ok()) {
    CHECK(absl::IsInvalidArgument(text.status()) ||
          absl::IsResourceExhausted(text.status()))
        << text.status();
    CHECK(!text.status().message().empty());
    return 0;
  }
  // Rendering changes nothing of the template.
  const auto again = chat->Render(*kMessages, options);
  CHECK(again.ok() && *again == *text) << again.status();
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  return {
      "{%- for m in messages -%}<|{{ m.role }}|>{{ m['content'] | trim }}"
      "{%- if not loop.last %},{% elif m.role == 'user' %}!{% else %}?"
      "{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}",
      "{% set ns = namespace(n=0, s='') %}{% for i in range(3) %}"
      "{% set ns.n = ns.n + i * 2 // 1 %}{% endfor %}{{ ns.n ~ ns.s }}"
      "{{ messages | length }}{{ messages[0].content.split(' ')[-1:] }}",
      "{% macro show(x, y='a') %}{{ x | tojson(indent=2) }}{{ y | upper }}"
      "{% endmacro %}{{ show(messages[2].tool_calls) }}"
      "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no' }}",
      "{{ raise_exception('no ' + messages[0]['role']) }}",
      "{# a comment #}{{ 'a' in 'abc' and (1, 2.5e3, none, true) is iterable }}"
      "{{ {'k': [1, 2]} | items | list }}{{ 'x' * 3 if n > 2 else 'y' }}",
  };
}

}  // namespace strata
