#include "core/tokenizer/split_pattern.h"

#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/tokenizer/char_set.h"
#include "core/tokenizer/unicode.h"

namespace strata {

const char kGpt2Regex[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|)"
    R"(\s+(?!\S)|\s+)";
const char kLlama3Regex[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kQwen2Regex[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kDeepSeekV3Regex[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
    "[^\r\n"
    R"(\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+)"
    "[\r\n]*|"
    R"(\s*)"
    "[\r\n]+|"
    R"(\s+(?!\S)|\s+)";

namespace {

constexpr size_t kNone = absl::string_view::npos;

bool IsAsciiLetter(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool IsNewline(char32_t c) { return c == '\r' || c == '\n'; }

// A character with its classes; `classes` is 0 and `end` is `pos` at the end of
// the text.
struct Char {
  char32_t c = 0;
  CharClasses classes = 0;
  size_t end = 0;
};

Char CharAt(absl::string_view text, size_t pos) {
  if (pos >= text.size()) return {0, 0, pos};
  const Decoded decoded = DecodeAt(text, pos);
  return {decoded.c, ClassesOf(decoded.c), decoded.end};
}

// Where the run of characters that `is_in` holds for ends.
template <typename Predicate>
size_t RunEnd(absl::string_view text, size_t pos, Predicate is_in) {
  while (pos < text.size()) {
    const Char next = CharAt(text, pos);
    if (!is_in(next)) break;
    pos = next.end;
  }
  return pos;
}

size_t RunEnd(absl::string_view text, size_t pos, CharClasses classes) {
  return RunEnd(text, pos, [classes](const Char& c) {
    return (c.classes & classes) != 0;
  });
}

size_t NewlinesEnd(absl::string_view text, size_t pos) {
  while (pos < text.size() && IsNewline(text[pos])) ++pos;
  return pos;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ at a white-space character: up to the last newline
// of the run; else all but its last character, which goes with what follows;
// else the run. Without `newlines`, the last two alone.
size_t SpacesEnd(absl::string_view text, size_t pos, bool newlines) {
  size_t after_newline = kNone;
  size_t last = pos;  // Where the run's last character begins.
  size_t end = pos;
  while (end < text.size()) {
    const Char next = CharAt(text, end);
    if (!(next.classes & kSpace)) break;
    last = end;
    end = next.end;
    if (IsNewline(next.c)) after_newline = end;
  }
  if (newlines && after_newline != kNone) return after_newline;
  if (end == text.size() || last == pos) return end;
  return last;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d) at an apostrophe, or `pos` if there is none.
// Without case, s is also U+017F.
size_t ContractionEnd(absl::string_view text, size_t pos, bool any_case) {
  const auto lower = [&](size_t i) -> char {
    if (i >= text.size()) return 0;
    const char c = text[i];
    return any_case && c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
  };
  const char first = lower(pos + 1);
  const char second = lower(pos + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') {
    return pos + 2;
  }
  if ((second == 'e' && (first == 'r' || first == 'v')) ||
      (first == 'l' && second == 'l')) {
    return pos + 3;
  }
  if (any_case && absl::StartsWith(text.substr(pos + 1), "\xC5\xBF")) {
    return pos + 3;
  }
  return pos;
}

constexpr CharClasses kLetterOrNumber = kLetter | kNumber;

bool IsOther(const Char& c) {  // [^\s\p{L}\p{N}]
  return !(c.classes & (kSpace | kLetterOrNumber));
}

class Gpt2 : public SplitPattern {
 public:
  Match Find(absl::string_view text, size_t from) const override {
    if (from >= text.size()) return {};
    return {from, End(text, from)};
  }

 private:
  static size_t End(absl::string_view text, size_t pos) {
    if (text[pos] == '\'') {
      const size_t end = ContractionEnd(text, pos, /*any_case=*/false);
      if (end != pos) return end;
    }
    const size_t start = text[pos] == ' ' ? pos + 1 : pos;
    if (start < text.size()) {
      const Char first = CharAt(text, start);
      if (first.classes & kLetter) return RunEnd(text, first.end, kLetter);
      if (first.classes & kNumber) return RunEnd(text, first.end, kNumber);
      if (IsOther(first)) return RunEnd(text, first.end, IsOther);
    }
    return SpacesEnd(text, pos, /*newlines=*/false);
  }
};

// LLAMA3, and QWEN2 with digits one by one.
class Llama3 : public SplitPattern {
 public:
  explicit Llama3(int max_digits) : max_digits_(max_digits) {}

  Match Find(absl::string_view text, size_t from) const override {
    if (from >= text.size()) return {};
    return {from, End(text, from)};
  }

 private:
  size_t End(absl::string_view text, size_t pos) const {
    if (text[pos] == '\'') {
      const size_t end = ContractionEnd(text, pos, /*any_case=*/true);
      if (end != pos) return end;
    }
    const Char first = CharAt(text, pos);
    if (first.classes & kLetter) return RunEnd(text, first.end, kLetter);
    if (first.classes & kNumber) {
      size_t end = first.end;
      for (int i = 1; i < max_digits_; ++i) {
        const Char next = CharAt(text, end);
        if (!(next.classes & kNumber)) break;
        end = next.end;
      }
      return end;
    }
    const Char second = CharAt(text, first.end);
    if (!IsNewline(first.c) && (second.classes & kLetter)) {
      return RunEnd(text, second.end, kLetter);
    }
    const bool has_second = first.end < text.size();
    if (IsOther(first) || (first.c == ' ' && has_second && IsOther(second))) {
      return NewlinesEnd(text, RunEnd(text, first.end, IsOther));
    }
    return SpacesEnd(text, pos, /*newlines=*/true);
  }

  const int max_digits_;
};

class DeepSeekV3 : public SplitPattern {
 public:
  Match Find(absl::string_view text, size_t from) const override {
    for (size_t pos = from; pos < text.size();) {
      const Char first = CharAt(text, pos);
      const size_t end = End(text, pos, first);
      if (end != pos) return {pos, end};
      pos = first.end;
    }
    return {};
  }

 private:
  static constexpr CharClasses kLetterOrMark = kLetter | kMark;
  static constexpr CharClasses kSign = kPunctuation | kSymbol;

  // `pos` if no match begins there.
  static size_t End(absl::string_view text, size_t pos, const Char& first) {
    const Char second = CharAt(text, first.end);
    // All that is ASCII and a sign is listed in the expression.
    if (first.c < 0x80 && (first.classes & kSign) && IsAsciiLetter(second.c)) {
      return RunEnd(text, second.end,
                    [](const Char& c) { return IsAsciiLetter(c.c); });
    }
    if (first.classes & kLetterOrMark) {
      return RunEnd(text, first.end, kLetterOrMark);
    }
    if (!IsNewline(first.c) && !(first.classes & kSign) &&
        (second.classes & kLetterOrMark)) {
      return RunEnd(text, second.end, kLetterOrMark);
    }
    if ((first.classes & kSign) ||
        (first.c == ' ' && (second.classes & kSign))) {
      return NewlinesEnd(text, RunEnd(text, first.end, kSign));
    }
    if (first.classes & kSpace) return SpacesEnd(text, pos, /*newlines=*/true);
    return pos;
  }
};

// Y?X{1,n}, or X+$.
class Run : public SplitPattern {
 public:
  Run(std::optional<CharSet> prefix, CharSet set, size_t max_length,
      bool at_line_end)
      : prefix_(std::move(prefix)),
        set_(std::move(set)),
        max_length_(max_length),
        at_line_end_(at_line_end) {}

  Match Find(absl::string_view text, size_t from) const override {
    for (size_t pos = from; pos < text.size();) {
      const Decoded first = DecodeAt(text, pos);
      if (prefix_ && prefix_->Contains(first.c) && first.end < text.size() &&
          set_.Contains(DecodeAt(text, first.end).c)) {
        return {pos, End(text, first.end)};
      }
      if (!set_.Contains(first.c)) {
        pos = first.end;
        continue;
      }
      const size_t end = End(text, pos);
      if (!at_line_end_) return {pos, end};
      const size_t line_end = LastLineEnd(text, pos, end);
      if (line_end != kNone) return {pos, line_end};
      pos = end;
    }
    return {};
  }

 private:
  size_t End(absl::string_view text, size_t pos) const {
    for (size_t n = 0; n < max_length_ && pos < text.size(); ++n) {
      const Decoded next = DecodeAt(text, pos);
      if (!set_.Contains(next.c)) break;
      pos = next.end;
    }
    return pos;
  }

  // The last place after `begin`, up to `end`, that $ matches at: before a
  // newline, or the end of the text.
  static size_t LastLineEnd(absl::string_view text, size_t begin, size_t end) {
    if (end == text.size() || text[end] == '\n') return end;
    const size_t newline = text.substr(0, end).rfind('\n');
    return newline != kNone && newline > begin ? newline : kNone;
  }

  const std::optional<CharSet> prefix_;
  const CharSet set_;
  const size_t max_length_;
  const bool at_line_end_;
};

class Text : public SplitPattern {
 public:
  explicit Text(std::string text) : text_(std::move(text)) {}

  Match Find(absl::string_view text, size_t from) const override {
    if (text_.empty()) return {};
    const size_t begin = text.find(text_, from);
    if (begin == kNone) return {};
    return {begin, begin + text_.size()};
  }

 private:
  const std::string text_;
};

// Null if it is no run.
std::unique_ptr<SplitPattern> ParseRun(absl::string_view regex) {
  std::optional<CharSet> prefix;
  std::optional<CharSet> set = CharSet::Parse(regex);
  if (!set) return nullptr;
  if (absl::ConsumePrefix(&regex, "?")) {
    prefix = std::move(set);
    set = CharSet::Parse(regex);
    if (!set) return nullptr;
  }
  size_t max_length = 1;
  if (absl::ConsumePrefix(&regex, "+")) {
    max_length = std::numeric_limits<size_t>::max();
  } else if (absl::ConsumePrefix(&regex, "{1,")) {
    const size_t end = regex.find('}');
    uint32_t number = 0;
    if (end == kNone || !absl::SimpleAtoi(regex.substr(0, end), &number) ||
        number < 1) {
      return nullptr;
    }
    max_length = number;
    regex.remove_prefix(end + 1);
  }
  const bool at_line_end = !prefix && max_length > 1 && regex == "$";
  if (at_line_end) regex.remove_prefix(1);
  if (!regex.empty()) return nullptr;
  return std::make_unique<Run>(std::move(prefix), *std::move(set), max_length,
                               at_line_end);
}

// Files write a newline in a class as itself or as an escape.
std::string WithEscapes(absl::string_view regex) {
  std::string escaped;
  for (const char c : regex) {
    if (c == '\r') {
      escaped += "\\r";
    } else if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SplitPattern>> RegexPattern(
    absl::string_view regex) {
  const std::string escaped = WithEscapes(regex);
  if (escaped == kGpt2Regex) return std::make_unique<Gpt2>();
  if (escaped == kLlama3Regex) return std::make_unique<Llama3>(3);
  if (escaped == kQwen2Regex) return std::make_unique<Llama3>(1);
  if (escaped == WithEscapes(kDeepSeekV3Regex)) {
    return std::make_unique<DeepSeekV3>();
  }
  if (std::unique_ptr<SplitPattern> run = ParseRun(regex)) return run;
  return absl::UnimplementedError(absl::StrCat(
      "the regular expression \"", escaped,
      "\" is not supported; there are those of GPT-2, Llama 3, Qwen 2 and "
      "DeepSeek V3, and runs of a class: X, X+, X{1,n}, Y?X+, X+$"));
}

std::unique_ptr<SplitPattern> TextPattern(std::string text) {
  return std::make_unique<Text>(std::move(text));
}

std::unique_ptr<SplitPattern> Gpt2Pattern() { return std::make_unique<Gpt2>(); }

std::unique_ptr<SplitPattern> DigitsPattern(bool one_by_one) {
  absl::string_view regex = "\\p{N}";
  return std::make_unique<Run>(
      std::nullopt, *CharSet::Parse(regex),
      one_by_one ? 1 : std::numeric_limits<size_t>::max(),
      /*at_line_end=*/false);
}

}  // namespace strata
