// Damages good files at random, the same way in every run: each is refused or
// works, within bounds of memory and time.

#include "core/tokenizer/fuzz_inputs.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

// Above what any input here needs, so that one which asks for more ends the
// test. Sanitizers reserve address space of their own.
void BoundMemory() {
#ifndef __SANITIZE_ADDRESS__
  const rlimit limit{rlim_t{1} << 30, RLIM_INFINITY};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
#endif
}

int Try(char kind, const std::string& content) {
  const std::string input = kind + content;
  return TokenizerOneInput(reinterpret_cast<const uint8_t*>(input.data()),
                           input.size());
}

std::vector<Json> TokenizerSeeds() {
  Json bytes = ByteLevelJson({"a b", "\u0120 a", "1 2"});
  AddToken(bytes, "<s>", {{"special", true}});
  AddToken(bytes, " x", {{"lstrip", true}, {"single_word", true}});
  Json pieces = SentencePieceJson({"\u2581", "a", "<"}, {"\u2581 a"});
  AddToken(pieces, "</s>x", {{"normalized", true}, {"rstrip", true}});
  Json others = pieces;
  others["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "NFC"}, {"type": "NFD"},
      {"type": "Strip", "strip_left": true, "strip_right": false},
      {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}]})");
  others["pre_tokenizer"] =
      Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"String": "x"},
       "behavior": "MergedWithNext", "invert": false},
      {"type": "Split", "pattern": {"Regex": "\\s+"},
       "behavior": "Removed", "invert": true},
      {"type": "Metaspace", "replacement": "\u2581",
       "prepend_scheme": "first", "split": true}]})");
  others["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "ByteFallback"},
      {"type": "Metaspace", "replacement": "\u2581"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 1},
      {"type": "Fuse"},
      {"type": "Strip", "content": "a", "start": 2, "stop": 3}]})");
  return {bytes, pieces, others};
}

// Small enough that damage meets structure rather than the vocabulary.
Json Trimmed(Json json) {
  Json& vocabulary = json["model"]["vocab"];
  Json kept = Json::object();
  for (const auto& [token, id] : vocabulary.items()) {
    if (id < 8 || id > 250) kept[token] = id;
  }
  vocabulary = kept;
  json["model"]["merges"] = Json::array();
  return json;
}

Json OddValue(Random& random) {
  static const char* const kOdd[] = {
      "null",         "true",        "-1",   "1e308", "9223372036854775807",
      "1048575",      "1048576",     "\"\"", "[]",    "{}",
      "\"\\u2581\"",  "\"\\u0000\"", "[[]]", "2",     "\"ByteLevel\"",
      "\"Sequence\"", "\"a b\"",     "0",    "64",    "{\"String\": \"\"}"};
  if (random.UniformInt(24) == 0) {
    Json deep = Json::object();
    for (int i = 0; i < 40; ++i) {
      deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
    }
    return deep;
  }
  if (random.UniformInt(24) == 0) {
    return std::string(1 + random.UniformInt(3000), 'a');
  }
  return Json::parse(kOdd[random.UniformInt(std::size(kOdd))]);
}

// Changes, removes or doubles a value somewhere in `json`.
void Damage(Json& json, Random& random) {
  if (json.is_structured() && !json.empty() && random.UniformInt(8) != 0) {
    auto it = json.begin();
    std::advance(it, random.UniformInt(json.size()));
    const uint64_t what = random.UniformInt(12);
    if (what == 0) {
      json.erase(it);
    } else if (what == 1 && json.is_array()) {
      json.push_back(Json(*it));
    } else {
      Damage(*it, random);
    }
    return;
  }
  json = OddValue(random);
}

// Cuts, doubles, or overwrites bytes, or puts one of `words` in.
std::string DamageBytes(std::string text, const std::vector<std::string>& words,
                        Random& random) {
  const uint64_t times = 1 + random.UniformInt(4);
  for (uint64_t i = 0; i < times; ++i) {
    const size_t begin = random.UniformInt(text.size() + 1);
    const size_t size =
        std::min<size_t>(random.UniformInt(24), text.size() - begin);
    switch (random.UniformInt(5)) {
      case 0:
        text.erase(begin, size);
        break;
      case 1:
        text.insert(begin, text.substr(begin, size));
        break;
      case 2:
        if (size > 0) text[begin] = static_cast<char>(random.UniformInt(256));
        break;
      default:
        text.insert(begin, words[random.UniformInt(words.size())]);
        break;
    }
  }
  return text;
}

TEST(FuzzInputsTest, DamagedTokenizersAreRefusedOrWork) {
  BoundMemory();
  Random random(/*seed=*/5, /*stream=*/0);
  int accepted = 0;
  constexpr int kTrials = 6000;
  for (const Json& seed : TokenizerSeeds()) {
    ASSERT_TRUE(TryTokenizerJson(seed.dump()));
    const Json trimmed = Trimmed(seed);
    for (int trial = 0; trial < kTrials; ++trial) {
      Json json = trimmed;
      const uint64_t times = 1 + random.UniformInt(3);
      for (uint64_t i = 0; i < times; ++i) Damage(json, random);
      accepted += TryTokenizerJson(
          json.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
  }
  // Damage that nothing survives would test the first check alone.
  EXPECT_GT(accepted, kTrials / 10);
}

TEST(FuzzInputsTest, DamagedBytesOfATokenizerAreRefusedOrWork) {
  BoundMemory();
  Random random(/*seed=*/6, /*stream=*/0);
  const std::vector<std::string> words = {"{",   "}",  "[",    "]",   "\"",
                                          ",",   ":",  "null", "1e9", "-0",
                                          "\\u", "\\", "\xFF"};
  for (const Json& seed : TokenizerSeeds()) {
    const std::string text = Trimmed(seed).dump();
    for (int trial = 0; trial < 2000; ++trial) {
      EXPECT_EQ(Try('t', DamageBytes(text, words, random)), 0);
    }
  }
}

const char* const kTemplates[] = {
    "{% for m in messages %}{% if m['role'] == 'user' %}<u>{{ m.content | trim "
    "}}{% elif m.tool_calls is defined and m.tool_calls %}{% for t in "
    "m.tool_calls %}{{ t.function.arguments | tojson(indent=2) }}{% endfor %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}",
    "{%- set ns = namespace(n=0, text='') -%}{%- for m in messages[1:] if "
    "m.role != 'tool' -%}{%- set ns.n = ns.n + loop.index0 * 2 -%}{%- set "
    "ns.text = ns.text ~ m.role[::-1].upper() -%}{%- if loop.last %}{% break "
    "%}{% endif -%}{%- endfor -%}{{ ns.n }}{{ ns.text.split('S') | join('-') "
    "}}",
    "{% macro show(x, y=[1, (2, 3), {'a': none}]) %}{% for k, v in x | "
    "dictsort %}{{ k }}={{ v | string | replace('a', 'b') | indent(2) }}{% "
    "endfor %}{{ y | length }}{% endmacro %}{{ show(messages[0]) }}{{ "
    "range(3) | list | map('string') | sort(reverse=true) | first }}",
    "{% set x %}a{{ 'b' * 3 }}{% endset %}{{ x.find('b') }}{{ (1 if x in "
    "'aabbb' else 2 ** 3 // 2) % 5 }}{{ messages | selectattr('role', "
    "'equalto', 'user') | map(attribute='content') | join(',') }}{# note #}{% "
    "raw %}{{{% endraw %}"};

TEST(FuzzInputsTest, DamagedTemplatesAreRefusedOrEnd) {
  BoundMemory();
  Random random(/*seed=*/7, /*stream=*/0);
  const std::vector<std::string> words = {"{{ ",
                                          " }}",
                                          "{% ",
                                          " %}",
                                          "{% for x in range(99999) %}",
                                          "{% endfor %}",
                                          "{% if ",
                                          "{% endif %}",
                                          "(",
                                          ")",
                                          "[",
                                          "]",
                                          "{",
                                          "}",
                                          "|",
                                          "| join",
                                          "| replace('', 'a')",
                                          "| tojson",
                                          "*",
                                          "* 999999",
                                          "** 99",
                                          "~ ns.text",
                                          "not ",
                                          "-",
                                          ":",
                                          ",",
                                          "'",
                                          "\\",
                                          ".",
                                          "messages",
                                          "loop.index",
                                          "{% set ns.x = ns %}",
                                          "| indent(999)",
                                          "range(-9, 9, 0)",
                                          "\xC3",
                                          "\n",
                                          "{#",
                                          "-%}",
                                          "show(show)",
                                          "{{ show({}) }}"};
  int rendered = 0;
  constexpr int kTrials = 3000;
  std::vector<std::string> seeds(std::begin(kTemplates), std::end(kTemplates));
  for (const std::string& seed : seeds) {
    ASSERT_TRUE(TryChatTemplate(seed)) << seed;
    for (int trial = 0; trial < kTrials; ++trial) {
      rendered += TryChatTemplate(DamageBytes(seed, words, random));
    }
  }
  EXPECT_GT(rendered, kTrials / 10);
}

TEST(FuzzInputsTest, TemplatesThatWouldGrowWithoutEndAreStopped) {
  BoundMemory();
  for (const char* source :
       {"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}"
        "{% endfor %}",
        "{% set ns = namespace(t='x') %}{% for a in range(99) %}"
        "{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
        "{% set ns = namespace(t=[1]) %}{% for a in range(99) %}"
        "{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t | tojson }}",
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{{ 'x' * 99999999 }}", "{{ ('x' * 9999) | replace('x', 'y' * 9999) }}",
        "{{ range(99999) | map('string') | join('y' * 9999) }}"}) {
    EXPECT_FALSE(TryChatTemplate(source)) << source;
    const Json config = {{"chat_template", source}};
    EXPECT_FALSE(TryTokenizerConfig(config.dump())) << source;
    EXPECT_EQ(Try('g', config.dump()), 0);
    EXPECT_EQ(Try('c', source), 0);
  }
}

TEST(FuzzInputsTest, OtherInputsAreNothing) {
  EXPECT_EQ(TokenizerOneInput(nullptr, 0), 0);
  EXPECT_EQ(Try('?', "x"), 0);
  EXPECT_EQ(Try('t', ""), 0);
  EXPECT_EQ(Try('c', ""), 0);
}

}  // namespace
}  // namespace strata
