#include "serving/schema/json_rules.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "serving/schema/byte_grammar.h"

namespace strata {
namespace {

constexpr int kMaxIndent = 24;
// So that every number is one that a double can be.
constexpr int64_t kMaxDigits = 20;
constexpr int64_t kMaxExponentDigits = 2;

}  // namespace

int32_t JsonRules::Space() {
  if (space_ >= 0) return space_;
  space_ = g_.AddRule("space");
  const int32_t start = g_.start(space_);
  g_.SetFinal(start);
  g_.SetFinal(g_.Range(start, ' ', ' '));
  int32_t state = g_.Range(start, '\n', '\n');
  g_.SetFinal(state);
  for (int i = 0; i < kMaxIndent; ++i) {
    state = g_.Range(state, ' ', ' ');
    g_.SetFinal(state);
  }
  return space_;
}

void JsonRules::HexDigit(int32_t from, int32_t to) {
  g_.Range(from, '0', '9', to);
  g_.Range(from, 'a', 'f', to);
  g_.Range(from, 'A', 'F', to);
}

int32_t JsonRules::Character() {
  if (character_ >= 0) return character_;
  character_ = g_.AddRule("character");
  const int32_t start = g_.start(character_);
  const int32_t end = g_.AddState();
  g_.SetFinal(end);
  // One byte: all but controls, the quote and the backslash.
  g_.Range(start, 0x20, 0x21, end);
  g_.Range(start, 0x23, 0x5B, end);
  g_.Range(start, 0x5D, 0x7F, end);
  // UTF-8 (table 3-7 of Unicode).
  const int32_t one_more = g_.AddState(), two_more = g_.AddState();
  const int32_t three_more = g_.AddState();
  g_.Range(one_more, 0x80, 0xBF, end);
  g_.Range(two_more, 0x80, 0xBF, one_more);
  g_.Range(three_more, 0x80, 0xBF, two_more);
  g_.Range(start, 0xC2, 0xDF, one_more);
  g_.Range(g_.Range(start, 0xE0, 0xE0), 0xA0, 0xBF, one_more);
  g_.Range(start, 0xE1, 0xEC, two_more);
  g_.Range(g_.Range(start, 0xED, 0xED), 0x80, 0x9F, one_more);
  g_.Range(start, 0xEE, 0xEF, two_more);
  g_.Range(g_.Range(start, 0xF0, 0xF0), 0x90, 0xBF, two_more);
  g_.Range(start, 0xF1, 0xF3, three_more);
  g_.Range(g_.Range(start, 0xF4, 0xF4), 0x80, 0x8F, two_more);
  // Escapes; of \u no surrogates, which would have to come in pairs.
  const int32_t escape = g_.Range(start, '\\', '\\');
  for (const char c : {'"', '\\', '/', 'b', 'f', 'n', 'r', 't'}) {
    g_.Range(escape, c, c, end);
  }
  const int32_t first = g_.Range(escape, 'u', 'u');
  const int32_t third = g_.AddState(), fourth = g_.AddState();
  const int32_t second = g_.AddState(), after_d = g_.AddState();
  g_.Range(first, '0', '9', second);
  g_.Range(first, 'a', 'c', second);
  g_.Range(first, 'A', 'C', second);
  g_.Range(first, 'e', 'f', second);
  g_.Range(first, 'E', 'F', second);
  g_.Range(first, 'd', 'd', after_d);
  g_.Range(first, 'D', 'D', after_d);
  g_.Range(after_d, '0', '7', third);
  HexDigit(second, third);
  HexDigit(third, fourth);
  HexDigit(fourth, end);
  return character_;
}

int32_t JsonRules::StringOf(int32_t from, int64_t min, int64_t max) {
  int32_t state = g_.Range(from, '"', '"');
  const int32_t end = g_.AddState();
  for (int64_t i = 0; i < min; ++i) state = g_.CallRule(state, Character());
  g_.Range(state, '"', '"', end);
  if (max < 0) {
    const int32_t next = g_.CallRule(state, Character());
    g_.Jump(next, state);
    return end;
  }
  for (int64_t i = min; i < max; ++i) {
    state = g_.CallRule(state, Character());
    g_.Range(state, '"', '"', end);
  }
  return end;
}

int32_t JsonRules::String() {
  if (string_ >= 0) return string_;
  string_ = g_.AddRule("string");
  g_.SetFinal(StringOf(g_.start(string_), 0, -1));
  return string_;
}

int32_t JsonRules::Digits(int32_t from, uint8_t first, int64_t max) {
  const int32_t end = g_.AddState();
  for (int64_t i = 0; i < max; ++i) {
    from = g_.Range(from, i == 0 ? first : '0', '9');
    g_.Jump(from, end);
  }
  return end;
}

int32_t JsonRules::Integer() {
  if (integer_ >= 0) return integer_;
  integer_ = g_.AddRule("integer");
  const int32_t start = g_.start(integer_);
  const int32_t unsigned_start = g_.Range(start, '-', '-');
  g_.Jump(start, unsigned_start);
  g_.SetFinal(g_.Range(unsigned_start, '0', '0'));
  g_.SetFinal(Digits(unsigned_start, '1', kMaxDigits));
  return integer_;
}

int32_t JsonRules::Number() {
  if (number_ >= 0) return number_;
  number_ = g_.AddRule("number");
  const int32_t whole = g_.CallRule(g_.start(number_), Integer());
  g_.SetFinal(whole);
  const int32_t fraction = Digits(g_.Range(whole, '.', '.'), '0', kMaxDigits);
  g_.SetFinal(fraction);
  const int32_t exponent = g_.AddState();
  for (const int32_t before : {whole, fraction}) {
    g_.Range(before, 'e', 'e', exponent);
    g_.Range(before, 'E', 'E', exponent);
  }
  const int32_t after_sign = g_.Range(exponent, '+', '+');
  g_.Range(exponent, '-', '-', after_sign);
  g_.Jump(exponent, after_sign);
  g_.SetFinal(Digits(after_sign, '0', kMaxExponentDigits));
  return number_;
}

int32_t JsonRules::Boolean() {
  if (boolean_ >= 0) return boolean_;
  boolean_ = g_.AddRule("boolean");
  g_.SetFinal(g_.Text(g_.start(boolean_), "true"));
  g_.SetFinal(g_.Text(g_.start(boolean_), "false"));
  return boolean_;
}

int32_t JsonRules::Null() {
  if (null_ >= 0) return null_;
  null_ = g_.AddRule("null");
  g_.SetFinal(g_.Text(g_.start(null_), "null"));
  return null_;
}

int32_t JsonRules::List(int32_t from, const std::vector<int32_t>& first,
                        int32_t item, int64_t min, int64_t max) {
  const int32_t open = g_.CallRule(g_.Range(from, '[', '['), Space());
  const int32_t close = g_.AddState(), end = g_.AddState();
  g_.Range(close, ']', ']', end);
  if (min == 0) g_.Jump(open, close);
  if (max == 0) return end;
  const auto num_first = static_cast<int64_t>(first.size());
  // Items that are told apart: those with rules of their own, up to the least
  // number, and up to the largest.
  const int64_t count =
      std::max({int64_t{1}, num_first, min, max < 0 ? 0 : max});
  int32_t before = open;
  for (int64_t i = 0; i < count; ++i) {
    if (max >= 0 && i >= max) break;
    const int32_t rule = i < num_first ? first[i] : item;
    if (rule < 0) break;  // There is no such item.
    const int32_t after = g_.CallRule(before, rule);
    if (i + 1 >= min) g_.Jump(g_.CallRule(after, Space()), close);
    const int32_t comma = g_.Range(after, ',', ',');
    before = g_.CallRule(comma, Space());
    if (i + 1 == count && max < 0 && item >= 0) {
      // From the last on it goes round.
      const int32_t more = g_.CallRule(before, item);
      g_.Jump(g_.CallRule(more, Space()), close);
      g_.Range(more, ',', ',', comma);
    }
  }
  return end;
}

int32_t JsonRules::Map(int32_t from, int32_t value) {
  const int32_t open = g_.CallRule(g_.Range(from, '{', '{'), Space());
  const int32_t close = g_.AddState(), end = g_.AddState();
  g_.Range(close, '}', '}', end);
  g_.Jump(open, close);
  const int32_t key = g_.CallRule(open, String());
  const int32_t colon = g_.Range(key, ':', ':');
  const int32_t after = g_.CallRule(g_.CallRule(colon, Space()), value);
  g_.Jump(g_.CallRule(after, Space()), close);
  const int32_t comma = g_.Range(after, ',', ',');
  const int32_t again = g_.CallRule(g_.CallRule(comma, Space()), String());
  g_.Range(again, ':', ':', colon);
  return end;
}

int32_t JsonRules::Any() {
  if (any_ >= 0) return any_;
  any_ = g_.AddRule("value");
  const int32_t start = g_.start(any_);
  for (const int32_t rule : {String(), Number(), Boolean(), Null()}) {
    g_.SetFinal(g_.CallRule(start, rule));
  }
  g_.SetFinal(Map(start, any_));
  g_.SetFinal(List(start, {}, any_, 0, -1));
  return any_;
}

}  // namespace strata
