#include "core/tokenizer/char_set.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

// What stands for something else where it is not escaped.
constexpr absl::string_view kOutside = "\\[](){}.*+?^$|";

// One item: a character or, if `classes` is not 0, \p{...} and its like.
struct Item {
  char32_t c = 0;
  CharClasses classes = 0;
};

std::optional<Item> ParseEscape(absl::string_view& regex) {
  for (const auto& [text, classes] :
       {std::pair<absl::string_view, CharClasses>{"p{L}", kLetter},
        {"p{M}", kMark},
        {"p{N}", kNumber},
        {"p{P}", kPunctuation},
        {"p{S}", kSymbol},
        {"p{Nd}", kDecimalDigit},
        {"s", kSpace},
        {"d", kDecimalDigit}}) {
    if (absl::ConsumePrefix(&regex, text)) return Item{0, classes};
  }
  for (const auto& [text, c] :
       {std::pair<absl::string_view, char32_t>{"r", '\r'},
        {"n", '\n'},
        {"t", '\t'}}) {
    if (absl::ConsumePrefix(&regex, text)) return Item{c, 0};
  }
  if (regex.empty()) return std::nullopt;
  const Decoded escaped = DecodeAt(regex, 0);
  // Of letters and digits each has a meaning of its own.
  if (ClassesOf(escaped.c) & kWord) return std::nullopt;
  regex.remove_prefix(escaped.end);
  return Item{escaped.c, 0};
}

std::optional<Item> ParseItem(absl::string_view& regex) {
  if (regex.empty()) return std::nullopt;
  if (absl::ConsumePrefix(&regex, "\\")) return ParseEscape(regex);
  const Decoded decoded = DecodeAt(regex, 0);
  regex.remove_prefix(decoded.end);
  return Item{decoded.c, 0};
}

}  // namespace

bool CharSet::ContainsAnew(char32_t c) const {
  bool is_in = (ClassesOf(c) & classes_) != 0;
  if (!is_in) {
    // The first range that ends at c or beyond.
    const auto it = std::lower_bound(
        ranges_.begin(), ranges_.end(), c,
        [](const auto& range, char32_t value) { return range.second < value; });
    is_in = it != ranges_.end() && it->first <= c;
  }
  return is_in != is_negated_;
}

void CharSet::Finish() {
  std::sort(ranges_.begin(), ranges_.end());
  // Ranges that overlap become one, or the search by their ends goes wrong.
  std::vector<std::pair<char32_t, char32_t>> merged;
  for (const auto& range : ranges_) {
    if (!merged.empty() && range.first <= merged.back().second) {
      merged.back().second = std::max(merged.back().second, range.second);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
  for (char32_t c = 0; c < ascii_.size(); ++c) ascii_[c] = ContainsAnew(c);
}

bool CharSet::ParseBrackets(absl::string_view& regex) {
  is_negated_ = absl::ConsumePrefix(&regex, "^");
  bool is_first = true;
  while (is_first || !absl::StartsWith(regex, "]")) {
    // A set within a set, an intersection, [:alpha:], and []a].
    if (absl::StartsWith(regex, "[") || absl::StartsWith(regex, "&&") ||
        absl::StartsWith(regex, "]")) {
      return false;
    }
    is_first = false;
    const std::optional<Item> first = ParseItem(regex);
    if (!first) return false;
    if (first->classes != 0) {
      classes_ |= first->classes;
      continue;
    }
    char32_t last = first->c;
    if (absl::StartsWith(regex, "-") && !absl::StartsWith(regex, "-]")) {
      regex.remove_prefix(1);
      const std::optional<Item> end = ParseItem(regex);
      if (!end || end->classes != 0 || end->c < first->c) return false;
      last = end->c;
    }
    ranges_.emplace_back(first->c, last);
  }
  return absl::ConsumePrefix(&regex, "]");
}

std::optional<CharSet> CharSet::Parse(absl::string_view& regex) {
  CharSet set;
  if (absl::ConsumePrefix(&regex, "[")) {
    if (!set.ParseBrackets(regex)) return std::nullopt;
  } else {
    if (regex.empty()) return std::nullopt;
    if (regex[0] != '\\' && absl::StrContains(kOutside, regex.substr(0, 1))) {
      return std::nullopt;
    }
    const std::optional<Item> item = ParseItem(regex);
    if (!item) return std::nullopt;
    set.classes_ = item->classes;
    if (item->classes == 0) set.ranges_.emplace_back(item->c, item->c);
  }
  set.Finish();
  return set;
}

}  // namespace strata
