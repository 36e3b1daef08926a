// Rules of JSON itself, in a byte grammar: strings, numbers, any value.

#ifndef SERVING_SCHEMA_JSON_RULES_H_
#define SERVING_SCHEMA_JSON_RULES_H_

#include <cstdint>
#include <vector>

#include "serving/schema/byte_grammar.h"

namespace strata {

// Rules that are made when first asked for. `grammar` must outlive it.
class JsonRules {
 public:
  explicit JsonRules(ByteGrammar& grammar) : g_(grammar) {}

  int32_t Space();      // Little or none; json_schema.h says how much.
  int32_t Character();  // Of a string: UTF-8 or an escape.
  int32_t String();
  int32_t Integer();
  int32_t Number();
  int32_t Boolean();
  int32_t Null();
  int32_t Any();  // Any value.

  // A list of at least `min` and at most `max` (-1: any number) items, between
  // brackets, from `from`; returns the state behind it.
  int32_t List(int32_t from, const std::vector<int32_t>& first, int32_t item,
               int64_t min, int64_t max);
  // An object of any keys whose values are of a rule.
  int32_t Map(int32_t from, int32_t value);
  // A string of so many characters; max -1: any number.
  int32_t StringOf(int32_t from, int64_t min, int64_t max);

 private:
  // One to `max` digits, the first at least `first`.
  int32_t Digits(int32_t from, uint8_t first, int64_t max);
  void HexDigit(int32_t from, int32_t to);

  ByteGrammar& g_;
  int32_t space_ = -1, character_ = -1, string_ = -1, integer_ = -1;
  int32_t number_ = -1, boolean_ = -1, null_ = -1, any_ = -1;
};

}  // namespace strata

#endif  // SERVING_SCHEMA_JSON_RULES_H_
