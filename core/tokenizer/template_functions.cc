#include "core/tokenizer/template_functions.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_value.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

using Value = TemplateValue;
using ValueOr = absl::StatusOr<TemplateValue>;
using Args = TemplateArguments;

absl::Status Error(absl::string_view message) {
  return absl::InvalidArgumentError(message);
}

absl::Status IsUndefined(const Value& value) {
  return Error(absl::StrCat("\"", value.undefined_name(), "\" is undefined"));
}

// A callee at work: what it is called, and on what.
struct Call {
  absl::string_view kind;  // "filter", "method", ...
  absl::string_view name;
  const Value& input;
  const Args& args;
  TemplateBudget& budget;

  absl::Status Unfit(absl::string_view want) const {
    if (input.is_undefined()) return IsUndefined(input);
    return Error(absl::StrCat("the ", kind, " ", name, " takes a ", want,
                              ", not a ", input.TypeName()));
  }

  // The arguments by their names; undefined where there is none.
  absl::StatusOr<std::vector<Value>> Bind(
      const std::vector<absl::string_view>& names) const {
    if (args.positional.size() > names.size()) {
      return Error(absl::StrCat("the ", kind, " ", name, " takes at most ",
                                names.size(), " arguments, not ",
                                args.positional.size()));
    }
    std::vector<Value> values = args.positional;
    values.resize(names.size());
    for (const auto& [key, value] : args.named) {
      const auto it = std::find(names.begin(), names.end(), key);
      if (it == names.end()) {
        return Error(absl::StrCat("the ", kind, " ", name,
                                  " has no argument \"", key, "\""));
      }
      values[it - names.begin()] = value;
    }
    return values;
  }

  absl::StatusOr<std::string> Text() const {
    if (input.is_undefined()) return IsUndefined(input);
    RETURN_IF_ERROR(budget.Spend(input.Weight()));
    std::string text = input.ToString();
    RETURN_IF_ERROR(budget.SpendBytes(text.size()));
    return text;
  }
};

absl::StatusOr<int64_t> Integer(const Value& value, int64_t fallback,
                                absl::string_view what) {
  if (value.is_undefined() || value.is_none()) return fallback;
  if (value.is_int() || value.is_bool()) return value.integer();
  return Error(absl::StrCat(what, " is a ", value.TypeName(), "; want an int"));
}

absl::StatusOr<std::string> String(const Value& value,
                                   absl::string_view fallback,
                                   absl::string_view what) {
  if (value.is_undefined() || value.is_none()) return std::string(fallback);
  if (value.is_string()) return value.string();
  return Error(
      absl::StrCat(what, " is a ", value.TypeName(), "; want a string"));
}

// --- Text ---

template <typename IsIn>
std::string Strip(absl::string_view text, bool left, bool right, IsIn is_in) {
  while (left && !text.empty()) {
    const Decoded first = DecodeAt(text, 0);
    if (!is_in(first.c)) break;
    text.remove_prefix(first.end);
  }
  while (right && !text.empty()) {
    const size_t last = PreviousBegin(text, text.size());
    if (!is_in(DecodeAt(text, last).c)) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

ValueOr StripCall(const Call& call, bool left, bool right) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"chars"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  if (args[0].is_undefined() || args[0].is_none()) {
    return Value(Strip(text, left, right, [](char32_t c) {
      return (ClassesOf(c) & kSpace) != 0;
    }));
  }
  ASSIGN_OR_RETURN(const std::string chars, String(args[0], "", "chars"));
  std::vector<char32_t> set;
  for (size_t pos = 0; pos < chars.size();) {
    const Decoded decoded = DecodeAt(chars, pos);
    set.push_back(decoded.c);
    pos = decoded.end;
  }
  std::sort(set.begin(), set.end());
  return Value(Strip(text, left, right, [&](char32_t c) {
    return std::binary_search(set.begin(), set.end(), c);
  }));
}

template <typename Change>
std::string ChangeCase(absl::string_view text, Change change) {
  std::string result;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const Decoded decoded = DecodeAt(text, pos);
    AppendUtf8(change(decoded.c, pos == 0, in_word), result);
    in_word = (ClassesOf(decoded.c) & kLetter) != 0;
    pos = decoded.end;
  }
  return result;
}

ValueOr CaseCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  if (call.name == "upper") {
    return Value(
        ChangeCase(text, [](char32_t c, bool, bool) { return ToUpper(c); }));
  }
  if (call.name == "lower") {
    return Value(
        ChangeCase(text, [](char32_t c, bool, bool) { return ToLower(c); }));
  }
  if (call.name == "capitalize") {
    return Value(ChangeCase(text, [](char32_t c, bool is_first, bool) {
      return is_first ? ToUpper(c) : ToLower(c);
    }));
  }
  return Value(ChangeCase(text, [](char32_t c, bool, bool in_word) {
    return in_word ? ToLower(c) : ToUpper(c);
  }));
}

ValueOr ReplaceCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"old", "new", "count"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  ASSIGN_OR_RETURN(const std::string from, String(args[0], "", "old"));
  ASSIGN_OR_RETURN(const std::string to, String(args[1], "", "new"));
  ASSIGN_OR_RETURN(int64_t count, Integer(args[2], -1, "count"));
  if (from.empty()) return Error("replace looks for the empty string");
  RETURN_IF_ERROR(call.budget.SpendSearch(text, from));
  std::string result;
  absl::string_view rest = text;
  while (count != 0) {
    const size_t pos = rest.find(from);
    if (pos == absl::string_view::npos) break;
    RETURN_IF_ERROR(call.budget.SpendBytes(pos + to.size()));
    if (result.size() + pos + to.size() > TemplateBudget::kMaxBytes) {
      return call.budget.SpendBytes(TemplateBudget::kMaxBytes + 1);
    }
    absl::StrAppend(&result, rest.substr(0, pos), to);
    rest.remove_prefix(pos + from.size());
    --count;
  }
  absl::StrAppend(&result, rest);
  return Value(std::move(result));
}

ValueOr SplitCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"sep", "maxsplit"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  ASSIGN_OR_RETURN(int64_t most, Integer(args[1], -1, "maxsplit"));
  Value::List parts;
  absl::string_view rest = text;
  const auto put = [&](absl::string_view part) -> absl::Status {
    parts.emplace_back(std::string(part));
    return call.budget.SpendBytes(part.size());
  };
  if (args[0].is_undefined() || args[0].is_none()) {
    // At runs of white space, of which none makes an empty part.
    rest = absl::StripLeadingAsciiWhitespace(rest);
    for (; !rest.empty() && most != 0; --most) {
      const size_t end = rest.find_first_of(" \t\n\v\f\r");
      if (end == absl::string_view::npos) break;
      RETURN_IF_ERROR(put(rest.substr(0, end)));
      rest = absl::StripLeadingAsciiWhitespace(rest.substr(end));
    }
    if (!rest.empty()) {
      RETURN_IF_ERROR(
          put(most == 0 ? rest : absl::StripTrailingAsciiWhitespace(rest)));
    }
    return Value::MakeList(std::move(parts));
  }
  ASSIGN_OR_RETURN(const std::string separator, String(args[0], "", "sep"));
  if (separator.empty()) return Error("split at the empty string");
  RETURN_IF_ERROR(call.budget.SpendSearch(text, separator));
  const bool from_right = call.name == "rsplit";
  for (; most != 0; --most) {
    const size_t pos =
        from_right ? rest.rfind(separator) : rest.find(separator);
    if (pos == absl::string_view::npos) break;
    if (from_right) {
      RETURN_IF_ERROR(put(rest.substr(pos + separator.size())));
      rest = rest.substr(0, pos);
    } else {
      RETURN_IF_ERROR(put(rest.substr(0, pos)));
      rest.remove_prefix(pos + separator.size());
    }
  }
  RETURN_IF_ERROR(put(rest));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value::MakeList(std::move(parts));
}

// startswith, endswith: of one string, or any of a list.
ValueOr AffixCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"affix"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  const Value::List affixes =
      args[0].is_list() ? args[0].list() : Value::List{args[0]};
  for (const Value& affix : affixes) {
    if (!affix.is_string()) {
      return Error(
          absl::StrCat(call.name, " takes a string, not a ", affix.TypeName()));
    }
    if (call.name == "startswith" ? absl::StartsWith(text, affix.string())
                                  : absl::EndsWith(text, affix.string())) {
      return Value(true);
    }
  }
  return Value(false);
}

ValueOr IndentCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"width", "first", "blank"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  std::string margin;
  if (args[0].is_string()) {
    margin = args[0].string();
  } else {
    ASSIGN_OR_RETURN(const int64_t width, Integer(args[0], 4, "width"));
    if (width > 1024) return Error(absl::StrCat("indents by ", width));
    margin = std::string(std::max<int64_t>(width, 0), ' ');
  }
  std::string result;
  bool is_first = true;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    RETURN_IF_ERROR(call.budget.SpendBytes(line.size() + margin.size()));
    if (!is_first) result += '\n';
    if (is_first ? args[1].Truth() : !line.empty() || args[2].Truth()) {
      result += margin;
    }
    absl::StrAppend(&result, line);
    is_first = false;
  }
  return Value(std::move(result));
}

ValueOr JoinCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"d", "attribute"}));
  ASSIGN_OR_RETURN(const std::string separator, String(args[0], "", "d"));
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  std::string result;
  bool is_first = true;
  for (const Value& item : items) {
    std::string text;
    RETURN_IF_ERROR(call.budget.Spend(item.Weight()));
    if (args[1].is_undefined()) {
      text = item.ToString();
    } else {
      ASSIGN_OR_RETURN(const Value value, TemplateItem(item, args[1]));
      text = value.ToString();
    }
    RETURN_IF_ERROR(call.budget.SpendBytes(text.size() + separator.size()));
    if (result.size() + text.size() + separator.size() >
        TemplateBudget::kMaxBytes) {
      return call.budget.SpendBytes(TemplateBudget::kMaxBytes + 1);
    }
    if (!is_first) result += separator;
    result += text;
    is_first = false;
  }
  return Value(std::move(result));
}

ValueOr JsonCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"indent", "ensure_ascii",
                                               "separators", "sort_keys"}));
  TemplateJsonStyle style;
  ASSIGN_OR_RETURN(const int64_t indent, Integer(args[0], -1, "indent"));
  if (indent > 64) return Error(absl::StrCat("tojson indents by ", indent));
  style.indent = static_cast<int>(std::max<int64_t>(indent, -1));
  style.ensure_ascii = args[1].Truth();
  if (args[2].is_list() && args[2].list().size() == 2 &&
      args[2].list()[0].is_string() && args[2].list()[1].is_string()) {
    style.item_separator = args[2].list()[0].string();
    style.key_separator = args[2].list()[1].string();
  }
  style.sort_keys = args[3].Truth();
  if (call.input.is_undefined()) return IsUndefined(call.input);
  RETURN_IF_ERROR(call.budget.Spend(call.input.Weight()));
  ASSIGN_OR_RETURN(std::string json, ToTemplateJson(call.input, style));
  RETURN_IF_ERROR(call.budget.SpendBytes(json.size()));
  return Value(std::move(json));
}

// --- Numbers ---

ValueOr NumberCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"default"}));
  const bool to_int = call.name == "int";
  const Value fallback = !args[0].is_undefined() ? args[0]
                         : to_int                ? Value(int64_t{0})
                                                 : Value(0.0);
  const Value& input = call.input;
  if (input.is_string()) {
    const absl::string_view text = absl::StripAsciiWhitespace(input.string());
    int64_t integer = 0;
    double number = 0;
    if (to_int && absl::SimpleAtoi(text, &integer)) return Value(integer);
    if (!absl::SimpleAtod(text, &number)) return fallback;
    if (!to_int) return Value(number);
    if (!(std::abs(number) < 9e18)) return fallback;
    return Value(static_cast<int64_t>(number));
  }
  if (!input.is_number()) return fallback;
  if (!to_int) return Value(input.number());
  if (!input.is_float()) return Value(input.integer());
  if (!(std::abs(input.number()) < 9e18)) return fallback;
  return Value(static_cast<int64_t>(input.number()));
}

ValueOr RoundCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"precision", "method"}));
  ASSIGN_OR_RETURN(const int64_t precision, Integer(args[0], 0, "precision"));
  ASSIGN_OR_RETURN(const std::string method,
                   String(args[1], "common", "method"));
  if (!call.input.is_number()) return call.Unfit("number");
  if (precision < 0 || precision > 15) {
    return Error(absl::StrCat("precision is ", precision, "; want 0 to 15"));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = call.input.number() * scale;
  const double rounded = method == "ceil"    ? std::ceil(scaled)
                         : method == "floor" ? std::floor(scaled)
                                             : std::nearbyint(scaled);
  return Value(rounded / scale);
}

ValueOr AbsCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  if (!call.input.is_number()) return call.Unfit("number");
  if (call.input.is_float()) return Value(std::abs(call.input.number()));
  const int64_t integer = call.input.integer();
  if (integer == INT64_MIN) return Error("abs goes beyond 64 bits");
  return Value(integer < 0 ? -integer : integer);
}

// --- Lists ---

ValueOr LengthCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  const Value& input = call.input;
  if (input.is_undefined()) return Value(int64_t{0});
  if (input.is_list()) return Value(static_cast<int64_t>(input.list().size()));
  if (input.is_dict()) {
    return Value(static_cast<int64_t>(input.dict().entries().size()));
  }
  if (!input.is_string()) return call.Unfit("string, list or dictionary");
  RETURN_IF_ERROR(call.budget.SpendBytes(input.string().size()));
  return Value(static_cast<int64_t>(std::count_if(
      input.string().begin(), input.string().end(),
      [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; })));
}

ValueOr EndCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  if (items.empty()) return Value::MakeUndefined(call.name);
  return call.name == "first" ? items.front() : items.back();
}

absl::StatusOr<Value::List> Pairs(const Value& dict, TemplateBudget& budget) {
  Value::List pairs;
  for (const auto& [key, value] : dict.dict().entries()) {
    RETURN_IF_ERROR(budget.Spend(2));
    ASSIGN_OR_RETURN(Value pair, Value::MakeList({Value(key), value}));
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

ValueOr ItemsCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  if (call.input.is_undefined()) return Value::MakeList({});
  if (!call.input.is_dict()) return call.Unfit("dictionary");
  ASSIGN_OR_RETURN(auto pairs, Pairs(call.input, call.budget));
  return Value::MakeList(std::move(pairs));
}

// sort, dictsort, min, max, unique: by value; text without case unless asked.
struct SortKey {
  bool any_case = true;

  absl::StatusOr<int> Compare(const Value& a, const Value& b,
                              TemplateBudget& budget) const {
    RETURN_IF_ERROR(budget.Spend(a.Weight() + b.Weight()));
    if (any_case && a.is_string() && b.is_string()) {
      const std::string left = absl::AsciiStrToLower(a.string());
      const std::string right = absl::AsciiStrToLower(b.string());
      return left < right ? -1 : left > right;
    }
    ASSIGN_OR_RETURN(const bool less, TemplateCompare("<", a, b, budget));
    if (less) return -1;
    ASSIGN_OR_RETURN(const bool more, TemplateCompare(">", a, b, budget));
    return more ? 1 : 0;
  }
};

// By insertion into halves, as a comparison may fail: stable.
absl::Status MergeSort(std::vector<std::pair<Value, Value>>& keyed,
                       const SortKey& key, bool reverse,
                       TemplateBudget& budget) {
  std::vector<std::pair<Value, Value>> merged(keyed.size());
  for (size_t width = 1; width < keyed.size(); width *= 2) {
    for (size_t begin = 0; begin < keyed.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, keyed.size());
      const size_t end = std::min(begin + 2 * width, keyed.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_left = right == end;
        if (left < middle && right < end) {
          ASSIGN_OR_RETURN(int order, key.Compare(keyed[left].first,
                                                  keyed[right].first, budget));
          take_left = reverse ? order >= 0 : order <= 0;
        }
        merged[out] = keyed[take_left ? left++ : right++];
      }
    }
    keyed.swap(merged);
  }
  return absl::OkStatus();
}

ValueOr SortCall(const Call& call) {
  const bool of_dict = call.name == "dictsort";
  ASSIGN_OR_RETURN(const auto args,
                   of_dict
                       ? call.Bind({"case_sensitive", "by", "reverse"})
                       : call.Bind({"reverse", "case_sensitive", "attribute"}));
  if (of_dict && !call.input.is_dict()) return call.Unfit("dictionary");
  Value::List items;
  if (of_dict) {
    ASSIGN_OR_RETURN(items, Pairs(call.input, call.budget));
  } else {
    ASSIGN_OR_RETURN(items, TemplateItems(call.input, call.budget));
  }
  const bool by_value = of_dict && args[1] == Value("value");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    Value key = item;
    if (of_dict) {
      key = item.list()[by_value ? 1 : 0];
    } else if (!args[2].is_undefined()) {
      ASSIGN_OR_RETURN(key, TemplateItem(item, args[2]));
    }
    keyed.emplace_back(std::move(key), item);
  }
  const SortKey order{!args[of_dict ? 0 : 1].Truth()};
  RETURN_IF_ERROR(
      MergeSort(keyed, order, args[of_dict ? 2 : 0].Truth(), call.budget));
  for (size_t i = 0; i < items.size(); ++i) items[i] = keyed[i].second;
  return Value::MakeList(std::move(items));
}

ValueOr ExtremeCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  if (items.empty()) return Value::MakeUndefined(call.name);
  Value best = items[0];
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(const int order,
                     SortKey().Compare(item, best, call.budget));
    if (call.name == "min" ? order < 0 : order > 0) best = item;
  }
  return best;
}

ValueOr SumCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"attribute", "start"}));
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  Value sum = args[1].is_undefined() ? Value(int64_t{0}) : args[1];
  for (const Value& item : items) {
    Value value = item;
    if (!args[0].is_undefined()) {
      ASSIGN_OR_RETURN(value, TemplateItem(item, args[0]));
    }
    ASSIGN_OR_RETURN(sum, TemplateBinary("+", sum, value, call.budget));
  }
  return sum;
}

ValueOr UniqueCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  Value::List unique;
  for (const Value& item : items) {
    RETURN_IF_ERROR(call.budget.Spend(static_cast<int64_t>(unique.size()) + 1));
    if (std::find(unique.begin(), unique.end(), item) == unique.end()) {
      unique.push_back(item);
    }
  }
  return Value::MakeList(std::move(unique));
}

ValueOr ReverseCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  const bool is_text = call.input.is_string();
  ASSIGN_OR_RETURN(auto items, TemplateItems(call.input, call.budget));
  std::reverse(items.begin(), items.end());
  if (!is_text) return Value::MakeList(std::move(items));
  std::string text;
  for (const Value& item : items) text += item.string();
  return Value(std::move(text));
}

// Takes the first argument, a name, off the others.
absl::StatusOr<std::string> TakeName(Args& args, absl::string_view fallback) {
  if (args.positional.empty()) return std::string(fallback);
  ASSIGN_OR_RETURN(std::string name, String(args.positional[0], "", "a name"));
  args.positional.erase(args.positional.begin());
  return name;
}

// select, reject, selectattr, rejectattr: the items that pass a test, or whose
// attribute does.
ValueOr SelectCall(const Call& call) {
  const bool keep = absl::StartsWith(call.name, "select");
  const bool by_attribute = absl::EndsWith(call.name, "attr");
  Args rest = call.args;
  std::string attribute;
  if (by_attribute) {
    ASSIGN_OR_RETURN(attribute, TakeName(rest, ""));
  }
  ASSIGN_OR_RETURN(const std::string test, TakeName(rest, ""));
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  Value::List kept;
  for (const Value& item : items) {
    Value value = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(value, TemplateAttribute(item, attribute));
    }
    bool passes = value.Truth();
    if (!test.empty()) {
      ASSIGN_OR_RETURN(passes,
                       CallTemplateTest(test, value, rest, call.budget));
    }
    if (passes == keep) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

// map('filter', ...) or map(attribute='name', default=...).
ValueOr MapCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto items, TemplateItems(call.input, call.budget));
  Args rest = call.args;
  std::string filter;
  std::vector<Value> named(2);
  if (rest.positional.empty()) {
    ASSIGN_OR_RETURN(named, call.Bind({"attribute", "default"}));
  } else {
    ASSIGN_OR_RETURN(filter, TakeName(rest, ""));
    if (filter == "map") return Error("map of map is not supported");
  }
  Value::List mapped;
  for (const Value& item : items) {
    if (!filter.empty()) {
      ASSIGN_OR_RETURN(Value value,
                       CallTemplateFilter(filter, item, rest, call.budget));
      mapped.push_back(std::move(value));
      continue;
    }
    ASSIGN_OR_RETURN(Value value, TemplateItem(item, named[0]));
    mapped.push_back(value.is_undefined() ? named[1] : std::move(value));
  }
  return Value::MakeList(std::move(mapped));
}

ValueOr DefaultCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"default_value", "boolean"}));
  const bool is_missing =
      call.input.is_undefined() || (args[1].Truth() && !call.input.Truth());
  if (!is_missing) return call.input;
  return args[0].is_undefined() ? Value("") : args[0];
}

ValueOr ListCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(auto items, TemplateItems(call.input, call.budget));
  return Value::MakeList(std::move(items));
}

ValueOr TextCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  RETURN_IF_ERROR(call.budget.Spend(call.input.Weight()));
  std::string text = call.input.ToString();
  RETURN_IF_ERROR(call.budget.SpendBytes(text.size()));
  return Value(std::move(text));
}

ValueOr TrimCall(const Call& call) { return StripCall(call, true, true); }

using Function = ValueOr (*)(const Call&);
struct NamedFunction {
  absl::string_view name;
  Function function;
};

constexpr NamedFunction kFilters[] = {
    {"abs", AbsCall},           {"capitalize", CaseCall},
    {"count", LengthCall},      {"d", DefaultCall},
    {"default", DefaultCall},   {"dictsort", SortCall},
    {"first", EndCall},         {"float", NumberCall},
    {"indent", IndentCall},     {"int", NumberCall},
    {"items", ItemsCall},       {"join", JoinCall},
    {"last", EndCall},          {"length", LengthCall},
    {"list", ListCall},         {"lower", CaseCall},
    {"map", MapCall},           {"max", ExtremeCall},
    {"min", ExtremeCall},       {"reject", SelectCall},
    {"rejectattr", SelectCall}, {"replace", ReplaceCall},
    {"reverse", ReverseCall},   {"round", RoundCall},
    {"safe", TextCall},         {"select", SelectCall},
    {"selectattr", SelectCall}, {"sort", SortCall},
    {"string", TextCall},       {"sum", SumCall},
    {"title", CaseCall},        {"tojson", JsonCall},
    {"trim", TrimCall},         {"unique", UniqueCall},
    {"upper", CaseCall}};

ValueOr LeftStripCall(const Call& call) { return StripCall(call, true, false); }
ValueOr RightStripCall(const Call& call) {
  return StripCall(call, false, true);
}

ValueOr SplitLinesCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  Value::List lines;
  absl::string_view rest = text;
  while (!rest.empty()) {
    RETURN_IF_ERROR(call.budget.Spend());
    const size_t end = rest.find('\n');
    lines.emplace_back(std::string(rest.substr(0, end)));
    if (end == absl::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return Value::MakeList(std::move(lines));
}

ValueOr CountCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"sub"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  ASSIGN_OR_RETURN(const std::string part, String(args[0], "", "sub"));
  if (part.empty()) return Error("count of the empty string");
  RETURN_IF_ERROR(call.budget.SpendSearch(text, part));
  int64_t count = 0;
  for (size_t pos = text.find(part); pos != std::string::npos;
       pos = text.find(part, pos + part.size())) {
    ++count;
  }
  return Value(count);
}

ValueOr FindCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"sub"}));
  ASSIGN_OR_RETURN(const std::string text, call.Text());
  ASSIGN_OR_RETURN(const std::string part, String(args[0], "", "sub"));
  RETURN_IF_ERROR(call.budget.SpendSearch(text, part));
  const size_t pos = call.name == "rfind" ? text.rfind(part) : text.find(part);
  if (pos == std::string::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(std::count_if(
      text.begin(), text.begin() + static_cast<int64_t>(pos),
      [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; })));
}

// 'separator'.join(items).
ValueOr JoinByCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"iterable"}));
  const Args separator{{call.input}, {}};
  return JoinCall({call.kind, call.name, args[0], separator, call.budget});
}

constexpr NamedFunction kTextMethods[] = {{"capitalize", CaseCall},
                                          {"count", CountCall},
                                          {"endswith", AffixCall},
                                          {"find", FindCall},
                                          {"join", JoinByCall},
                                          {"lower", CaseCall},
                                          {"lstrip", LeftStripCall},
                                          {"replace", ReplaceCall},
                                          {"rfind", FindCall},
                                          {"rsplit", SplitCall},
                                          {"rstrip", RightStripCall},
                                          {"split", SplitCall},
                                          {"splitlines", SplitLinesCall},
                                          {"startswith", AffixCall},
                                          {"strip", TrimCall},
                                          {"title", CaseCall},
                                          {"upper", CaseCall}};

ValueOr GetCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"key", "default"}));
  const Value* const found =
      args[0].is_string() ? call.input.dict().Find(args[0].string()) : nullptr;
  if (found != nullptr) return *found;
  return args[1].is_undefined() ? Value::MakeNone() : args[1];
}

ValueOr KeysCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  Value::List items;
  for (const auto& [key, value] : call.input.dict().entries()) {
    RETURN_IF_ERROR(call.budget.Spend());
    items.push_back(call.name == "keys" ? Value(key) : value);
  }
  return Value::MakeList(std::move(items));
}

constexpr NamedFunction kDictMethods[] = {{"get", GetCall},
                                          {"items", ItemsCall},
                                          {"keys", KeysCall},
                                          {"values", KeysCall}};

template <size_t kSize>
const NamedFunction* FindFunction(const NamedFunction (&functions)[kSize],
                                  absl::string_view name) {
  for (const NamedFunction& function : functions) {
    if (function.name == name) return &function;
  }
  return nullptr;
}

template <size_t kSize>
absl::Status NoFunction(absl::string_view what,
                        const NamedFunction (&functions)[kSize]) {
  return Error(absl::StrCat(
      what, "; there are ",
      absl::StrJoin(functions, ", ",
                    [](std::string* out, const NamedFunction& function) {
                      absl::StrAppend(out, function.name);
                    })));
}

ValueOr Range(const Args& args, TemplateBudget& budget) {
  constexpr int64_t kMaxRange = 100000;  // As in Jinja's sandbox.
  const Value none = Value::MakeNone();
  const Call call{"function", "range", none, args, budget};
  ASSIGN_OR_RETURN(const auto bound, call.Bind({"start", "stop", "step"}));
  const bool has_start = !bound[1].is_undefined();
  ASSIGN_OR_RETURN(const int64_t start,
                   Integer(has_start ? bound[0] : Value(), 0, "start"));
  ASSIGN_OR_RETURN(const int64_t stop,
                   Integer(has_start ? bound[1] : bound[0], 0, "stop"));
  ASSIGN_OR_RETURN(const int64_t step, Integer(bound[2], 1, "step"));
  if (step == 0) return Error("the step of range is 0");
  Value::List items;
  int64_t i = start;
  while (step > 0 ? i < stop : i > stop) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      return Error(absl::StrCat("range has more than ", kMaxRange, " numbers"));
    }
    RETURN_IF_ERROR(budget.Spend());
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::MakeList(std::move(items));
}

}  // namespace

absl::Status TemplateBudget::Spend(int64_t steps) {
  spent_ += steps;
  if (spent_ <= limit_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the template takes more than ", limit_,
                   " steps; does it loop without end?"));
}

absl::Status TemplateBudget::SpendBytes(size_t bytes) {
  if (bytes > kMaxBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the template makes a string of more than ", kMaxBytes, " bytes"));
  }
  return Spend(static_cast<int64_t>(bytes / 16));
}

absl::Status TemplateBudget::SpendSearch(absl::string_view text,
                                         absl::string_view part) {
  return Spend(static_cast<int64_t>(text.size() / 16 +
                                    text.size() * part.size() / 1024));
}

absl::StatusOr<Value::List> TemplateItems(const Value& value,
                                          TemplateBudget& budget) {
  if (value.is_undefined()) return Value::List();
  Value::List items;
  if (value.is_list()) {
    items = value.list();
  } else if (value.is_dict()) {
    for (const auto& [key, item] : value.dict().entries()) {
      items.emplace_back(key);
    }
  } else if (value.is_string()) {
    const absl::string_view text = value.string();
    RETURN_IF_ERROR(budget.Spend(static_cast<int64_t>(text.size())));
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = DecodeAt(text, pos).end;
      items.emplace_back(std::string(text.substr(pos, end - pos)));
      pos = end;
    }
  } else {
    return Error(absl::StrCat("a ", value.TypeName(), " has no items"));
  }
  RETURN_IF_ERROR(budget.Spend(static_cast<int64_t>(items.size())));
  return items;
}

ValueOr CallTemplateFilter(absl::string_view name, const Value& input,
                           const Args& args, TemplateBudget& budget) {
  RETURN_IF_ERROR(budget.Spend());
  const NamedFunction* const filter = FindFunction(kFilters, name);
  if (filter == nullptr) {
    return NoFunction(absl::StrCat("there is no filter \"", name, "\""),
                      kFilters);
  }
  return filter->function({"filter", name, input, args, budget});
}

absl::StatusOr<bool> CallTemplateTest(absl::string_view name,
                                      const Value& input, const Args& args,
                                      TemplateBudget& budget) {
  RETURN_IF_ERROR(budget.Spend());
  static constexpr std::pair<absl::string_view, absl::string_view> kSigns[] = {
      {"==", "=="},         {"eq", "=="}, {"equalto", "=="}, {"!=", "!="},
      {"ne", "!="},         {"<", "<"},   {"lt", "<"},       {"lessthan", "<"},
      {"<=", "<="},         {"le", "<="}, {">", ">"},        {"gt", ">"},
      {"greaterthan", ">"}, {">=", ">="}, {"ge", ">="},      {"in", "in"}};
  const Call call{"test", name, input, args, budget};
  for (const auto& [known, sign] : kSigns) {
    if (name != known) continue;
    if (args.positional.size() != 1) {
      return Error(absl::StrCat("the test ", name, " takes one argument"));
    }
    return TemplateCompare(sign, input, args.positional[0], budget);
  }
  if (name == "divisibleby") {
    ASSIGN_OR_RETURN(const auto bound, call.Bind({"num"}));
    ASSIGN_OR_RETURN(const int64_t divisor, Integer(bound[0], 0, "num"));
    if (!input.is_int()) return call.Unfit("number");
    if (divisor == 0) return Error("division by zero");
    return divisor == -1 || input.integer() % divisor == 0;
  }
  RETURN_IF_ERROR(call.Bind({}).status());
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.is_string();
  if (name == "number") return input.is_number();
  if (name == "integer") return input.is_int();
  if (name == "float") return input.is_float();
  if (name == "boolean") return input.is_bool();
  if (name == "true") return input.is_bool() && input.Truth();
  if (name == "false") return input.is_bool() && !input.Truth();
  if (name == "mapping") return input.is_dict();
  if (name == "sequence" || name == "iterable") {
    return input.is_list() || input.is_string() || input.is_dict() ||
           input.is_undefined();
  }
  if (name == "callable") return input.is_macro();
  if (name == "odd" || name == "even") {
    if (!input.is_int()) return call.Unfit("number");
    return (input.integer() % 2 != 0) == (name == "odd");
  }
  if (name == "upper" || name == "lower") {
    ASSIGN_OR_RETURN(const Value changed, CaseCall(call));
    return changed == input;
  }
  return Error(absl::StrCat(
      "there is no test \"", name,
      "\"; there are boolean, callable, defined, divisibleby, eq, equalto, "
      "even, false, float, ge, gt, in, integer, iterable, le, lower, lt, "
      "mapping, ne, none, number, odd, sequence, string, true, undefined, "
      "upper"));
}

ValueOr CallTemplateMethod(const Value& object, absl::string_view name,
                           const Args& args, TemplateBudget& budget) {
  RETURN_IF_ERROR(budget.Spend());
  if (object.is_undefined()) return IsUndefined(object);
  const absl::string_view type = object.TypeName();
  const std::string what =
      absl::StrCat("a ", type, " has no method \"", name, "\"");
  const NamedFunction* method = nullptr;
  if (object.is_string()) {
    method = FindFunction(kTextMethods, name);
    if (method == nullptr) return NoFunction(what, kTextMethods);
  } else if (object.is_dict()) {
    method = FindFunction(kDictMethods, name);
    if (method == nullptr) return NoFunction(what, kDictMethods);
  } else {
    return Error(what);
  }
  return method->function({"method", name, object, args, budget});
}

bool IsTemplateFunction(absl::string_view name, bool has_now) {
  return name == "range" || name == "namespace" || name == "dict" ||
         name == "raise_exception" || (has_now && name == "strftime_now");
}

ValueOr CallTemplateFunction(absl::string_view name, const Args& args,
                             const std::optional<absl::Time>& now,
                             TemplateBudget& budget) {
  RETURN_IF_ERROR(budget.Spend());
  if (name == "range") return Range(args, budget);
  if (name == "namespace" || name == "dict") {
    if (!args.positional.empty()) {
      return Error(absl::StrCat(name, " takes arguments with names"));
    }
    Value::Dict fields;
    for (const auto& [key, value] : args.named) fields.Set(key, value);
    if (name == "dict") return Value::MakeDict(std::move(fields));
    auto space = std::make_shared<Value::Namespace>();
    for (const auto& [key, value] : fields.entries()) {
      if (value.is_namespace()) {
        return Error("a namespace cannot hold a namespace");
      }
    }
    space->fields = std::move(fields);
    return Value(std::move(space));
  }
  const Value none = Value::MakeNone();
  const Call call{"function", name, none, args, budget};
  if (name == "raise_exception") {
    ASSIGN_OR_RETURN(const auto bound, call.Bind({"message"}));
    return Error(absl::StrCat("the template refuses: ", bound[0].ToString()));
  }
  ASSIGN_OR_RETURN(const auto bound, call.Bind({"format"}));
  ASSIGN_OR_RETURN(const std::string format, String(bound[0], "", "format"));
  if (format.size() > 256) return Error("the format of strftime_now is long");
  return Value(absl::FormatTime(format, *now, absl::LocalTimeZone()));
}

}  // namespace strata
