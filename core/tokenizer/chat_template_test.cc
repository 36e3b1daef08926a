#include "core/tokenizer/chat_template.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

absl::StatusOr<std::string> Render(const std::string& source,
                                   const Json& variables = Json::object(),
                                   const Json& messages = Json::array()) {
  const auto chat = ChatTemplate::Parse(source);
  if (!chat.ok()) return chat.status();
  ChatOptions options;
  options.variables = variables;
  return chat->Render(messages, options);
}

// Of an expression, with a few variables.
std::string Value(const std::string& expression) {
  const Json variables = {
      {"s", "Hello"},
      {"e", ""},
      {"n", 7},
      {"f", 2.5},
      {"t", true},
      {"none_", nullptr},
      {"l", {3, 1, 2}},
      {"d", {{"b", 2}, {"a", 1}}},
      {"people",
       {{{"name", "Ann"}, {"age", 30}}, {{"name", "bob"}, {"age", 20}}}}};
  const auto text = Render(absl::StrCat("{{ ", expression, " }}"), variables);
  return text.ok() ? *text : std::string(text.status().message());
}

TEST(ChatTemplateTest, PrintsAsPythonDoes) {
  EXPECT_EQ(Value("s"), "Hello");
  EXPECT_EQ(Value("[1, 2.0, true, none, 'a\"b', \"it's\"]"),
            "[1, 2.0, True, None, 'a\"b', \"it's\"]");
  EXPECT_EQ(Value("{'a': [1, {}]}"), "{'a': [1, {}]}");
  EXPECT_EQ(Value("1e3, 25E-1"), "[1000.0, 2.5]");
  EXPECT_EQ(Value("[0.1, 100.0, 12345678901234567.0, 0.00001, 1.5]"),
            "[0.1, 100.0, 1.2345678901234568e+16, 1e-05, 1.5]");
  EXPECT_EQ(Value("missing"), "");
  EXPECT_EQ(Value("1, 2"), "[1, 2]");
}

TEST(ChatTemplateTest, BindsOperatorsAsJinjaDoes) {
  EXPECT_EQ(Value("1 + 2 * 3 - 4"), "3");
  EXPECT_EQ(Value("2 ** 3 ** 2"), "64");  // From the left, as Jinja has it.
  EXPECT_EQ(Value("-7 // 2, -7 % 3, 7 / 2"), "[-4, 2, 3.5]");
  EXPECT_EQ(Value("1 + 1 ~ 'a'"),
            "line 1: \"+\" does not take a int and a "
            "string");
  EXPECT_EQ(Value("'a' ~ 1 ~ true ~ none"), "a1TrueNone");
  EXPECT_EQ(Value("not t and e or 'x'"), "x");
  EXPECT_EQ(Value("1 < 2 < 3, 1 < 3 < 2"), "[True, False]");
  EXPECT_EQ(Value("'ell' in s, 2 in l, 'a' in d, 5 not in l"),
            "[True, True, True, True]");
  EXPECT_EQ(Value("'yes' if n > 5 else 'no'"), "yes");
  EXPECT_EQ(Value("'yes' if n > 9"), "");
  EXPECT_EQ(Value("n is odd and n is not even"), "True");
  EXPECT_EQ(Value("not missing is defined"), "True");
  EXPECT_EQ(Value("n is divisibleby 7"), "True");
  EXPECT_EQ(Value("-n|abs"), "7");
  EXPECT_EQ(Value("'ab' * 2 + [1, 2][1] ~ ''"), "abab2");
  EXPECT_EQ(Value("('a' 'b') * 2"), "abab");
  EXPECT_EQ(Value("1 == 1.0, '1' == 1, none_ == none, [1] == [1]"),
            "[True, False, True, True]");
}

TEST(ChatTemplateTest, LooksIntoValues) {
  EXPECT_EQ(Value("d.a, d['b'], d.c is defined, l[0], l[-1], l[9] is defined"),
            "[1, 2, False, 3, 2, False]");
  EXPECT_EQ(Value("l[1:], l[:-1], l[::-1], s[1:3], s[::-1], s[-1]"),
            "[[1, 2], [3, 1], [2, 1, 3], 'el', 'olleH', 'o']");
  EXPECT_EQ(Value("l[5:], l[-9:2], l[2:0:-1], '\u00E9t\u00E9'[1:]"),
            "[[], [3, 1], [2, 1], 't\u00E9']");
  EXPECT_EQ(Value("l[::0]"), "line 1: a slice's step is 0");
  EXPECT_EQ(Value("missing.field"), "line 1: \"missing\" is undefined");
  EXPECT_EQ(Value("people[0].name.upper()"), "ANN");
  EXPECT_EQ(Value("d.items(), d.get('x', 9), d.keys(), d.values()"),
            "[[['b', 2], ['a', 1]], 9, ['b', 'a'], [2, 1]]");
}

TEST(ChatTemplateTest, CallsMethodsOfStrings) {
  EXPECT_EQ(Value("' a '.strip() ~ '|' ~ '\\n\\na\\n'.lstrip('\\n') ~ '|'"),
            "a|a\n|");
  EXPECT_EQ(Value("'a<x>b<x>c'.split('<x>'), 'a b  c'.split(), "
                  "'a-b-c'.split('-', 1), 'a-b-c'.rsplit('-', 1)"),
            "[['a', 'b', 'c'], ['a', 'b', 'c'], ['a', 'b-c'], ['a-b', 'c']]");
  EXPECT_EQ(Value("s.startswith('He'), s.endswith(('x', 'o')), s.find('l')"),
            "[True, True, 2]");
  EXPECT_EQ(Value("s.replace('l', 'L', 1), ','.join(['a', 'b']), "
                  "'a b'.title(), s.lower(), 'aXa'.count('a')"),
            "['HeLlo', 'a,b', 'A B', 'hello', 2]");
  EXPECT_EQ(Value("'a\\nb\\n'.splitlines()"), "['a', 'b']");
  EXPECT_THAT(Value("s.encode()"), AllOf(HasSubstr("has no method \"encode\""),
                                         HasSubstr("there are capitalize")));
}

TEST(ChatTemplateTest, AppliesFilters) {
  EXPECT_EQ(Value("' x '|trim|upper ~ (l|length) ~ missing|default('d')"),
            "X3d");
  EXPECT_EQ(Value("e|default('x', true), l|first, l|last, l|sort, l|max"),
            "['x', 3, 2, [1, 2, 3], 3]");
  EXPECT_EQ(Value("people|map(attribute='name')|join(', ')"), "Ann, bob");
  EXPECT_EQ(Value("people|selectattr('age', 'gt', 25)|list|length"), "1");
  EXPECT_EQ(Value("people|rejectattr('name', 'equalto', 'bob')|map("
                  "attribute='name')|first"),
            "Ann");
  EXPECT_EQ(Value("['a', 'b']|reject('equalto', 'a')|list"), "['b']");
  EXPECT_EQ(Value("['b', 'A', 'c']|sort, ['a', 'B']|map('upper')|list"),
            "[['A', 'b', 'c'], ['A', 'B']]");
  EXPECT_EQ(Value("people|sort(attribute='age')|map(attribute='age')|list"),
            "[20, 30]");
  EXPECT_EQ(Value("d|dictsort, d|items|list, l|reverse|list, l|sum"),
            "[[['a', 1], ['b', 2]], [['b', 2], ['a', 1]], [2, 1, 3], 6]");
  EXPECT_EQ(Value("'7'|int + 1, '2.5'|float, 'x'|int, 2.5|round, 3|string"),
            "[8, 2.5, 0, 2.0, '3']");
  EXPECT_EQ(Value("'a\\nb'|indent(2), [1, 1, 2]|unique|list"),
            "['a\\n  b', [1, 2]]");
  EXPECT_THAT(Value("s|shout"),
              AllOf(HasSubstr("no filter \"shout\""), HasSubstr("tojson")));
  EXPECT_THAT(Value("s is shouting"), HasSubstr("no test \"shouting\""));
  EXPECT_EQ(Value("s|upper(1)"),
            "line 1: the filter upper takes at most 0 arguments, not 1");
  EXPECT_EQ(Value("s|replace('l', '', nth=2)"),
            "line 1: the filter replace has no argument \"nth\"");
}

TEST(ChatTemplateTest, WritesJsonAsPythonDoes) {
  const Json tool = Json::parse(
      R"({"name":"f","n":[1,2.0,true,null],"q":"a\"\né","o":{},"l":[]})");
  EXPECT_EQ(*Render("{{ t | tojson }}", {{"t", tool}}),
            "{\"name\": \"f\", \"n\": [1, 2.0, true, null], \"q\": "
            "\"a\\\"\\n\u00E9\", \"o\": {}, \"l\": []}");
  EXPECT_EQ(*Render("{{ t | tojson(indent=2) }}",
                    {{"t", {{"a", {1}}, {"b", Json::object()}}}}),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
  EXPECT_EQ(*Render("{{ '\u00E9\U0001F600'|tojson(ensure_ascii=true) }}"),
            "\"\\u00e9\\ud83d\\ude00\"");
}

TEST(ChatTemplateTest, LoopsAndSets) {
  EXPECT_EQ(*Render("{% for i in [1, 2, 3] %}{{ loop.index }}/{{ loop.length "
                    "}}{{ ',' if not loop.last }}{% endfor %}"),
            "1/3,2/3,3/3");
  EXPECT_EQ(*Render("{% for k, v in d.items() if v > 1 %}{{ k }}{% endfor %}",
                    {{"d", {{"a", 1}, {"b", 2}}}}),
            "b");
  EXPECT_EQ(*Render("{% for i in [] %}x{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(*Render("{% for i in range(9) %}{% if i == 1 %}{% continue %}"
                    "{% elif i == 3 %}{% break %}{% endif %}{{ i }}"
                    "{% endfor %}"),
            "02");
  // What a loop sets stays in it; a namespace does not.
  EXPECT_EQ(*Render("{% set x = 1 %}{% set ns = namespace(x=1) %}"
                    "{% for i in [5] %}{% set x = i %}{% set ns.x = i %}"
                    "{% endfor %}{{ x }}{{ ns.x }}"),
            "15");
  EXPECT_EQ(*Render("{% set a, b = [1, 2] %}{{ a }}{{ b }}"), "12");
  EXPECT_EQ(*Render("{% set x %}a{{ 1 }}{% endset %}{{ x * 2 }}"), "a1a1");
  EXPECT_EQ(*Render("{% for a in [1, 2] %}{% for b in [3] %}{{ a }}{{ b }}"
                    "{{ loop.depth }}{% endfor %}{{ loop.previtem }};"
                    "{% endfor %}"),
            "131;2311;");
}

TEST(ChatTemplateTest, CallsMacros) {
  EXPECT_EQ(*Render("{% macro f(a, b='y') %}<{{ a }}{{ b }}>{% endmacro %}"
                    "{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}"),
            "<1y><12><43><y>");
  EXPECT_EQ(*Render("{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}"
                    "{% endif %}{% endmacro %}{{ f(3) }}"),
            "3210");
  // A macro does not see the variables of who calls it.
  EXPECT_EQ(*Render("{% set g = 1 %}{% macro f() %}{{ g }}{{ i }}{% endmacro %}"
                    "{% for i in [7] %}{{ f() }}{% endfor %}"),
            "1");
}

TEST(ChatTemplateTest, TreatsWhiteSpaceAsTransformersDoes) {
  // trim_blocks: a block's newline goes. lstrip_blocks: so does its indent.
  EXPECT_EQ(*Render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(*Render("{# note #}\n  {{ 1 }}\n  x {% set y = 1 %} z"),
            "  1\n  x  z");
  EXPECT_EQ(*Render("a \n {%- if true -%} \n b {%+ endif +%}\nc"), "ab \nc");
  EXPECT_EQ(*Render("a {{- 1 -}} b\n\n"), "a1b\n");
  EXPECT_EQ(*Render("{% if true %}\n  {% if true %}\nx{% endif %}{% endif %}"),
            "x");
  EXPECT_EQ(*Render("{% raw %}{{ x }}{% endraw %}!"), "{{ x }}!");
  EXPECT_EQ(*Render("a\r\nb\rc"), "a\nb\nc");
  EXPECT_EQ(*Render("{{ {'a': {'b': 1}} }}{ {"), "{'a': {'b': 1}}{ {");
  EXPECT_EQ(*Render("{% generation %}x{% endgeneration %}"), "x");
}

TEST(ChatTemplateTest, KnowsDateOnlyIfGivenOne) {
  const auto chat = ChatTemplate::Parse(
      "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}"
      "{% else %}no date{% endif %}");
  ASSERT_THAT(chat, IsOk());
  ChatOptions options;
  EXPECT_EQ(*chat->Render(Json::array(), options), "no date");
  options.now =
      absl::FromCivil(absl::CivilDay(2024, 7, 26), absl::LocalTimeZone());
  EXPECT_EQ(*chat->Render(Json::array(), options), "26 Jul 2024");
}

// In the manner of each family, in our own words.
TEST(ChatTemplateTest, RendersConversations) {
  const Json messages = {
      {{"role", "system"}, {"content", "Be brief."}},
      {{"role", "user"}, {"content", " Hi "}},
      {{"role", "assistant"}, {"content", "<think>hm</think>\n\nHello"}},
      {{"role", "user"}, {"content", "Bye"}}};
  EXPECT_EQ(
      *Render("{%- for m in messages %}\n"
              "    {%- set text = '<|start|>' + m['role'] + '<|end|>\\n\\n' + "
              "m['content'] | trim + '<|eot|>' %}\n"
              "    {{- text }}\n"
              "{%- endfor %}\n"
              "{%- if add_generation_prompt %}\n"
              "    {{- '<|start|>assistant<|end|>\\n\\n' }}\n"
              "{%- endif %}",
              Json::object(), messages),
      "<|start|>system<|end|>\n\nBe brief.<|eot|>"
      "<|start|>user<|end|>\n\nHi<|eot|>"
      "<|start|>assistant<|end|>\n\n<think>hm</think>\n\nHello<|eot|>"
      "<|start|>user<|end|>\n\nBye<|eot|><|start|>assistant<|end|>\n\n");
  // Roles must alternate; the last thought is left out.
  const std::string alternating =
      "{%- if messages[0].role == 'system' %}{%- set system = "
      "messages[0].content %}{%- set rest = messages[1:] %}{%- else %}"
      "{%- set rest = messages %}{%- endif %}"
      "{%- for m in rest %}"
      "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
      "{{- raise_exception('roles must alternate') }}{%- endif %}"
      "{%- if m.role == 'user' %}[I]{{ system ~ '|' if loop.first and system "
      "is "
      "defined }}{{ m.content.strip() }}[/I]{%- else %}"
      "{{- m.content.split('</think>')[-1].lstrip('\\n') }}</s>{%- endif %}"
      "{%- endfor %}";
  EXPECT_EQ(*Render(alternating, Json::object(), messages),
            "[I]Be brief.|Hi[/I]Hello</s>[I]Bye[/I]");
  EXPECT_THAT(Render(alternating, Json::object(),
                     {{{"role", "assistant"}, {"content", "x"}}}),
              StatusIs(kInvalid, HasSubstr("refuses: roles must alternate")));
}

TEST(ChatTemplateTest, ReadsConfigsOfEachForm) {
  const auto chat = ChatTemplate::FromConfig(
      R"({"bos_token":{"content":"<b>","lstrip":false},"eos_token":"<e>",
          "pad_token":null,"chat_template":"{{bos_token}}{{messages[0].content}}{{eos_token}}"})");
  ASSERT_THAT(chat, IsOk());
  EXPECT_EQ(*chat->Render({{{"role", "user"}, {"content", "x"}}}), "<b>x<e>");
  EXPECT_EQ(*ChatTemplate::FromConfig(
                 R"({"chat_template":[{"name":"tool","template":"t"},
                                      {"name":"default","template":"d"}]})")
                 ->Render(Json::array()),
            "d");
  EXPECT_THAT(
      ChatTemplate::FromConfig("{}"),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("chat_template")));
  EXPECT_THAT(ChatTemplate::FromConfig(R"({"chat_template":"a\n{% if"})"),
              StatusIs(kInvalid, StartsWith("chat_template, line 2: ")));
  EXPECT_THAT(ChatTemplate::FromConfig(R"({"chat_template":7})"),
              StatusIs(kInvalid, HasSubstr("want a string")));
  EXPECT_THAT(chat->Render(Json::object()),
              StatusIs(kInvalid, HasSubstr("messages are object")));
  EXPECT_THAT(chat->Render({1}),
              StatusIs(kInvalid, HasSubstr("a message is number")));
}

TEST(ChatTemplateTest, SaysTheLineOfWhatIsNoTemplate) {
  const auto error = [](const std::string& source) {
    const auto text = Render("a\nb\n" + source);
    return text.ok() ? "rendered " + *text
                     : std::string(text.status().message());
  };
  EXPECT_EQ(error("{{ 1"), "line 3: {{ is not closed");
  EXPECT_EQ(error("{# 1"), "line 3: {# is not closed");
  EXPECT_EQ(error("{% if x %}"),
            "line 3: got the template's end; want {% endif %} for line 3");
  EXPECT_EQ(error("{% endfor %}"),
            "line 3: there is no statement {% endfor %} here; supported are "
            "break, continue, for, generation, if, macro, raw, set");
  EXPECT_EQ(error("{{ 'a }}"), "line 3: a string is not closed");
  EXPECT_EQ(error("{{ 1 + }}"), "line 3: got }}; want an expression");
  EXPECT_EQ(error("{{ (1 }}"), "line 3: \"}\" closes nothing");
  EXPECT_EQ(error("{{ $ }}"), "line 3: unexpected \"$\"");
  EXPECT_EQ(error("{{ 99999999999999999999 }}"),
            "line 3: the number 99999999999999999999 is too large");
  EXPECT_EQ(error("{% include 'x' %}").substr(0, 40),
            "line 3: there is no statement {% include");
  EXPECT_EQ(error("{% break %}"), "line 3: {% break %} is in no loop");
  EXPECT_EQ(error("{% raw %}x"), "line 3: {% raw %} is not closed");
  EXPECT_EQ(error("{{ f(*x) }}"),
            "line 3: * and ** are not supported in calls");
  EXPECT_EQ(error("\n{{ f(1) }}").substr(0, 32),
            "line 4: there is no function \"f\"");
  EXPECT_EQ(error("{% set a.b = 1 %}"),
            "line 3: \"a\" is a undefined; only fields of a namespace can be "
            "set");
  EXPECT_EQ(error("{% for a, b in [[1]] %}{% endfor %}"),
            "line 3: got a list of 1 for 2 variables");
  EXPECT_EQ(error("{{ 1 // 0 }}"), "line 3: division by zero");
  EXPECT_EQ(error("{{ 9223372036854775807 + 1 }}"),
            "line 3: \"+\" goes beyond 64 bits");
  EXPECT_EQ(error("{% set r = range %}{{ r(3) }}"),
            "line 3: \"r\" is a function kept in a variable, which is not "
            "supported");
}

TEST(ChatTemplateTest, ComesToAnEnd) {
  // Steps.
  EXPECT_THAT(
      Render("{% for a in range(100000) %}\n{% for b in range(100000) %}"
             "{% endfor %}{% endfor %}"),
      StatusIs(kExhausted, AllOf(StartsWith("line 2: "),
                                 HasSubstr("does it loop without end?"))));
  // Text.
  EXPECT_THAT(Render("{% set x = 'abcdefgh' * 100000 %}"
                     "{% for a in range(1000) %}{{ x }}{% endfor %}"),
              StatusIs(kExhausted, HasSubstr("16777216 bytes")));
  EXPECT_THAT(Render("{{ 'a' * 999999999999 }}"),
              StatusIs(kExhausted, HasSubstr("16777216 bytes")));
  EXPECT_THAT(Render("{{ [1] * 999999999999 }}"),
              StatusIs(kExhausted, HasSubstr("")));
  EXPECT_THAT(Render("{% set ns = namespace(x='a') %}{% for a in range(99) %}"
                     "{% set ns.x = ns.x + ns.x %}{% endfor %}"),
              StatusIs(kExhausted, HasSubstr("16777216 bytes")));
  // Depth.
  EXPECT_THAT(Render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
              StatusIs(kExhausted, HasSubstr("call itself without end?")));
  EXPECT_THAT(Render(absl::StrCat("{{ ", std::string(100000, '('), "1",
                                  std::string(100000, ')'), " }}")),
              StatusIs(kInvalid, HasSubstr("nests deeper than 100")));
  EXPECT_THAT(Render(absl::StrCat("{{ ", std::string(100000, '-'), "1 }}")),
              StatusIs(kInvalid, HasSubstr("nests deeper than 100")));
  std::string sum = "1";
  std::string nots;
  std::string ifs;
  for (int i = 0; i < 10000; ++i) {
    sum += " + 1";
    nots += "not ";
    ifs += "{% if true %}";
  }
  EXPECT_THAT(Render("{{ " + sum + " }}"),
              StatusIs(kInvalid, HasSubstr("nests deeper than 100")));
  EXPECT_THAT(Render("{{ " + nots + "1 }}"),
              StatusIs(kInvalid, HasSubstr("nests deeper than 100")));
  EXPECT_THAT(Render(ifs), StatusIs(kInvalid, HasSubstr("nests deeper than")));
  EXPECT_THAT(Render("{% set ns = namespace(x=[]) %}{% for a in range(9999) %}"
                     "{% set ns.x = [ns.x] %}{% endfor %}"),
              StatusIs(kInvalid, HasSubstr("a value nests deeper than 100")));
  // A list of two lists of two lists: 2^60 items, if none were shared.
  EXPECT_THAT(Render("{% set ns = namespace(x=[1]) %}{% for a in range(60) %}"
                     "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"),
              StatusIs(kExhausted, HasSubstr("a value has more than 1048576")));
  EXPECT_THAT(Render("{% set ns = namespace(x=1) %}{% set ns.me = ns %}"),
              StatusIs(kInvalid, HasSubstr("cannot hold a namespace")));
  EXPECT_THAT(Render("{{ range(100001) }}"),
              StatusIs(kInvalid, HasSubstr("more than 100000 numbers")));
  std::string deep(200, '[');
  deep += std::string(200, ']');
  EXPECT_THAT(Render("x", {{"v", Json::parse(deep)}}),
              StatusIs(kInvalid, HasSubstr("nests deeper than 100")));
}

}  // namespace
}  // namespace strata
