#include "core/tokenizer/template_lexer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

using Kind = TemplateToken::Kind;
constexpr size_t kNone = absl::string_view::npos;

std::string WithPlainNewlines(absl::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      text += '\n';
    }
  }
  if (absl::EndsWith(text, "\n")) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : rest_(source) {}

  absl::StatusOr<std::vector<TemplateToken>> Run() {
    while (!rest_.empty()) RETURN_IF_ERROR(LexTextAndTag());
    Put(Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  TemplateToken& Put(Kind kind, absl::string_view text = "") {
    TemplateToken& token = tokens_.emplace_back();
    token.kind = kind;
    token.line = line_;
    token.text = std::string(text);
    return token;
  }

  void Skip(size_t size) {
    line_ +=
        static_cast<int>(std::count(rest_.begin(), rest_.begin() + size, '\n'));
    rest_.remove_prefix(size);
  }

  // Text up to the next tag, and the tag.
  absl::Status LexTextAndTag() {
    size_t tag = 0;
    while (true) {
      tag = rest_.find('{', tag);
      if (tag == kNone || tag + 1 >= rest_.size()) {
        tag = kNone;
        break;
      }
      const char next = rest_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    absl::string_view text = rest_.substr(0, tag);
    if (tag == kNone) {
      PutText(text);
      Skip(rest_.size());
      return absl::OkStatus();
    }
    const char kind = rest_[tag + 1];
    const char sign = tag + 2 < rest_.size() ? rest_[tag + 2] : '\0';
    size_t size = 2;
    if (sign == '-') {
      size = 3;
      text = absl::StripTrailingAsciiWhitespace(text);
    } else if (sign == '+') {
      size = 3;
    } else if (kind != '{') {
      text = WithoutIndent(text);
    }
    PutText(text);
    Skip(tag);
    tag_line_ = line_;
    if (kind == '#') return LexComment();
    Put(kind == '{' ? Kind::kOutputBegin : Kind::kBlockBegin);
    Skip(size);
    RETURN_IF_ERROR(LexTag(kind == '{' ? "}}" : "%}"));
    return kind == '%' ? LexRaw() : absl::OkStatus();
  }

  // Without the white space that a block is indented by.
  absl::string_view WithoutIndent(absl::string_view text) const {
    const size_t newline = text.rfind('\n');
    if (newline == kNone && !line_starts_) return text;
    const size_t start = newline == kNone ? 0 : newline + 1;
    const absl::string_view indent = text.substr(start);
    return absl::StripAsciiWhitespace(indent).empty() ? text.substr(0, start)
                                                      : text;
  }

  void PutText(absl::string_view text) {
    if (!text.empty()) Put(Kind::kText, text);
  }

  // Behind a tag: what its sign says about white space and newlines.
  void SkipAfterTag(char sign, bool trims_newline) {
    line_starts_ = false;
    if (sign == '-') {
      const size_t size =
          rest_.size() - absl::StripLeadingAsciiWhitespace(rest_).size();
      line_starts_ = size > 0 && rest_[size - 1] == '\n';
      Skip(size);
    } else if (sign != '+' && trims_newline && absl::StartsWith(rest_, "\n")) {
      line_starts_ = true;
      Skip(1);
    }
  }

  absl::Status LexComment() {
    const size_t end = rest_.find("#}", 2);
    if (end == kNone) return TemplateError(tag_line_, "{# is not closed");
    const char sign = end > 2 ? rest_[end - 1] : '\0';
    Skip(end + 2);
    SkipAfterTag(sign, /*trims_newline=*/true);
    return absl::OkStatus();
  }

  absl::Status LexTag(absl::string_view close) {
    std::string open;  // Brackets that are not closed yet.
    while (true) {
      Skip(rest_.size() - absl::StripLeadingAsciiWhitespace(rest_).size());
      if (rest_.empty()) {
        return TemplateError(
            tag_line_, close == "}}" ? "{{ is not closed" : "{% is not closed");
      }
      if (open.empty()) {
        const bool has_sign = (rest_[0] == '-' || rest_[0] == '+') &&
                              absl::StartsWith(rest_.substr(1), close);
        if (has_sign || absl::StartsWith(rest_, close)) {
          const bool is_output = close == "}}";
          Put(is_output ? Kind::kOutputEnd : Kind::kBlockEnd);
          const char sign = has_sign ? rest_[0] : '\0';
          Skip(has_sign ? 3 : 2);
          SkipAfterTag(sign, /*trims_newline=*/!is_output);
          return absl::OkStatus();
        }
      }
      RETURN_IF_ERROR(LexToken(open));
    }
  }

  absl::Status LexToken(std::string& open) {
    const char c = rest_[0];
    if (absl::ascii_isalpha(c) || c == '_') {
      size_t size = 1;
      while (size < rest_.size() &&
             (absl::ascii_isalnum(rest_[size]) || rest_[size] == '_')) {
        ++size;
      }
      Put(Kind::kName, rest_.substr(0, size));
      Skip(size);
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(c)) return LexNumber();
    if (c == '"' || c == '\'') return LexString();
    for (const absl::string_view text :
         {"**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
          "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","}) {
      if (!absl::StartsWith(rest_, text)) continue;
      if (text == "[" || text == "(" || text == "{") {
        open += text == "[" ? ']' : text == "(" ? ')' : '}';
      } else if (text == "]" || text == ")" || text == "}") {
        if (open.empty() || open.back() != text[0]) {
          return TemplateError(line_, absl::StrCat("\"", text,
                                                   "\" closes "
                                                   "nothing"));
        }
        open.pop_back();
      }
      Put(Kind::kOperator, text);
      Skip(text.size());
      return absl::OkStatus();
    }
    const absl::string_view bad = rest_.substr(0, DecodeAt(rest_, 0).end);
    return TemplateError(line_, absl::StrCat("unexpected \"", bad, "\""));
  }

  absl::Status LexNumber() {
    size_t size = 0;
    const auto skip_digits = [&] {
      while (size < rest_.size() && absl::ascii_isdigit(rest_[size])) ++size;
    };
    skip_digits();
    bool is_float = false;
    if (size + 1 < rest_.size() && rest_[size] == '.' &&
        absl::ascii_isdigit(rest_[size + 1])) {
      is_float = true;
      ++size;
      skip_digits();
    }
    size_t exponent = size;
    if (exponent < rest_.size() &&
        absl::ascii_tolower(rest_[exponent]) == 'e') {
      ++exponent;
      if (exponent < rest_.size() &&
          (rest_[exponent] == '-' || rest_[exponent] == '+')) {
        ++exponent;
      }
      if (exponent < rest_.size() && absl::ascii_isdigit(rest_[exponent])) {
        is_float = true;
        size = exponent;
        skip_digits();
      }
    }
    const absl::string_view text = rest_.substr(0, size);
    TemplateToken& token = Put(is_float ? Kind::kFloat : Kind::kInteger, text);
    if (is_float ? !absl::SimpleAtod(text, &token.number)
                 : !absl::SimpleAtoi(text, &token.integer)) {
      return TemplateError(line_,
                           absl::StrCat("the number ", text, " is too large"));
    }
    Skip(size);
    return absl::OkStatus();
  }

  absl::Status LexString() {
    const char quote = rest_[0];
    const int line = line_;
    std::string content;
    size_t pos = 1;
    while (pos < rest_.size() && rest_[pos] != quote) {
      if (rest_[pos] != '\\') {
        content += rest_[pos++];
        continue;
      }
      ++pos;
      if (pos == rest_.size()) break;
      pos += Unescape(rest_.substr(pos), content);
    }
    if (pos >= rest_.size())
      return TemplateError(line, "a string is not closed");
    Put(Kind::kString, content);
    Skip(pos + 1);
    return absl::OkStatus();
  }

  // Appends what the text behind a backslash stands for; returns its size.
  static size_t Unescape(absl::string_view text, std::string& content) {
    static constexpr std::pair<char, char> kEscapes[] = {
        {'n', '\n'}, {'t', '\t'}, {'r', '\r'},  {'b', '\b'},  {'f', '\f'},
        {'v', '\v'}, {'a', '\a'}, {'\\', '\\'}, {'\'', '\''}, {'"', '"'}};
    for (const auto& [name, c] : kEscapes) {
      if (text[0] != name) continue;
      content += c;
      return 1;
    }
    if (text[0] == '\n') return 1;  // The line goes on.
    const size_t digits = text[0] == 'x'   ? 2
                          : text[0] == 'u' ? 4
                          : text[0] == 'U' ? 8
                                           : 0;
    uint32_t c = 0;
    if (digits > 0 && text.size() > digits &&
        std::all_of(text.begin() + 1, text.begin() + 1 + digits,
                    [](char d) { return absl::ascii_isxdigit(d); }) &&
        absl::SimpleHexAtoi(text.substr(1, digits), &c) && c < 0x110000 &&
        (c < 0xD800 || c > 0xDFFF)) {
      AppendUtf8(c, content);
      return 1 + digits;
    }
    content += '\\';
    return 0;
  }

  // Behind {% raw %}, everything up to {% endraw %} is text.
  absl::Status LexRaw() {
    const size_t n = tokens_.size();
    if (n < 3 || tokens_[n - 2].text != "raw" ||
        tokens_[n - 2].kind != Kind::kName ||
        tokens_[n - 3].kind != Kind::kBlockBegin) {
      return absl::OkStatus();
    }
    tokens_.resize(n - 3);
    for (size_t tag = rest_.find("{%"); tag != kNone;
         tag = rest_.find("{%", tag + 2)) {
      absl::string_view end = rest_.substr(tag + 2);
      const bool strips = absl::ConsumePrefix(&end, "-");
      end = absl::StripLeadingAsciiWhitespace(end);
      if (!absl::ConsumePrefix(&end, "endraw")) continue;
      end = absl::StripLeadingAsciiWhitespace(end);
      const char sign = absl::StartsWith(end, "-%}") ? '-' : '\0';
      if (sign == '-') end.remove_prefix(1);
      if (!absl::ConsumePrefix(&end, "%}")) continue;
      const absl::string_view text = rest_.substr(0, tag);
      PutText(strips ? absl::StripTrailingAsciiWhitespace(text)
                     : WithoutIndent(text));
      Skip(rest_.size() - end.size());
      SkipAfterTag(sign, /*trims_newline=*/true);
      return absl::OkStatus();
    }
    return TemplateError(tag_line_, "{% raw %} is not closed");
  }

  absl::string_view rest_;
  int line_ = 1;
  int tag_line_ = 1;
  bool line_starts_ = true;  // Where the text behind the last tag begins.
  std::vector<TemplateToken> tokens_;
};

}  // namespace

absl::Status TemplateError(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", message));
}

absl::StatusOr<std::vector<TemplateToken>> LexTemplate(
    absl::string_view source) {
  const std::string text = WithPlainNewlines(source);
  return Lexer(text).Run();
}

}  // namespace strata
