#include "core/tokenizer/template_list_functions.h"

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
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_call.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_value.h"

namespace strata::template_call {
namespace {

absl::StatusOr<Value::List> Pairs(const Value& dict, TemplateBudget& budget) {
  Value::List pairs;
  for (const auto& [key, value] : dict.dict().entries()) {
    RETURN_IF_ERROR(budget.Spend(2));
    ASSIGN_OR_RETURN(Value pair, Value::MakeList({Value(key), value}));
    pairs.push_back(std::move(pair));
  }
  return pairs;
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

// Takes the first argument, a name, off the others.
absl::StatusOr<std::string> TakeName(Args& args, absl::string_view fallback) {
  if (args.positional.empty()) return std::string(fallback);
  ASSIGN_OR_RETURN(std::string name, String(args.positional[0], "", "a name"));
  args.positional.erase(args.positional.begin());
  return name;
}

}  // namespace

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

ValueOr ItemsCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  if (call.input.is_undefined()) return Value::MakeList({});
  if (!call.input.is_dict()) return call.Unfit("dictionary");
  ASSIGN_OR_RETURN(auto pairs, Pairs(call.input, call.budget));
  return Value::MakeList(std::move(pairs));
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

ValueOr ListCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  ASSIGN_OR_RETURN(auto items, TemplateItems(call.input, call.budget));
  return Value::MakeList(std::move(items));
}

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

}  // namespace strata::template_call
