#include "core/tokenizer/template_functions.h"

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
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_call.h"
#include "core/tokenizer/template_list_functions.h"
#include "core/tokenizer/template_text_functions.h"
#include "core/tokenizer/template_value.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

using namespace template_call;  // NOLINT: these are its callees.

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

ValueOr DefaultCall(const Call& call) {
  ASSIGN_OR_RETURN(const auto args, call.Bind({"default_value", "boolean"}));
  const bool is_missing =
      call.input.is_undefined() || (args[1].Truth() && !call.input.Truth());
  if (!is_missing) return call.input;
  return args[0].is_undefined() ? Value("") : args[0];
}

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
