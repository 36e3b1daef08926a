// The operators of template_functions.h.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_value.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

using Value = TemplateValue;
using ValueOr = absl::StatusOr<TemplateValue>;

absl::Status Error(absl::string_view message) {
  return absl::InvalidArgumentError(message);
}

absl::Status IsUndefined(const Value& value) {
  return Error(absl::StrCat("\"", value.undefined_name(), "\" is undefined"));
}

absl::Status Unfit(absl::string_view sign, const Value& a, const Value& b) {
  if (a.is_undefined()) return IsUndefined(a);
  if (b.is_undefined()) return IsUndefined(b);
  return Error(absl::StrCat("\"", sign, "\" does not take a ", a.TypeName(),
                            " and a ", b.TypeName()));
}

absl::Status Overflow(absl::string_view sign) {
  return Error(absl::StrCat("\"", sign, "\" goes beyond 64 bits"));
}

// Python's: rounds towards minus infinity, the remainder has b's sign.
int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

ValueOr Power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    return Value(
        std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value(exponent == 0 ? int64_t{1} : base);
  if (base == -1) return Value(exponent % 2 == 0 ? int64_t{1} : base);
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) {  // At most 63 turns.
    if (__builtin_mul_overflow(result, base, &result)) return Overflow("**");
  }
  return Value(result);
}

ValueOr IntegerBinary(absl::string_view sign, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflows = false;
  if (sign == "+") {
    overflows = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    overflows = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    overflows = __builtin_mul_overflow(a, b, &result);
  } else if (sign == "**") {
    return Power(a, b);
  } else {
    if (b == 0) return Error("division by zero");
    if (sign == "/") {
      return Value(static_cast<double>(a) / static_cast<double>(b));
    }
    if (b == -1) {  // The smallest number has no opposite.
      overflows = sign == "//" && __builtin_sub_overflow(0, a, &result);
      if (sign == "%") result = 0;
    } else {
      result = sign == "//" ? FloorDivide(a, b) : a - FloorDivide(a, b) * b;
    }
  }
  if (overflows) return Overflow(sign);
  return Value(result);
}

ValueOr FloatBinary(absl::string_view sign, double a, double b) {
  if (sign == "+") return Value(a + b);
  if (sign == "-") return Value(a - b);
  if (sign == "*") return Value(a * b);
  if (sign == "**") return Value(std::pow(a, b));
  if (b == 0) return Error("division by zero");
  if (sign == "/") return Value(a / b);
  const double quotient = std::floor(a / b);
  return Value(sign == "//" ? quotient : a - quotient * b);
}

// A string or a list so many times.
ValueOr Repeat(const Value& value, int64_t count, TemplateBudget& budget) {
  count = std::max<int64_t>(count, 0);
  const size_t size =
      value.is_string() ? value.string().size() : value.list().size();
  if (size > 0 &&
      static_cast<uint64_t>(count) > TemplateBudget::kMaxBytes / size) {
    return budget.SpendBytes(TemplateBudget::kMaxBytes + 1);
  }
  if (value.is_string()) {
    RETURN_IF_ERROR(budget.SpendBytes(size * count));
    std::string text;
    for (int64_t i = 0; i < count && size > 0; ++i) text += value.string();
    return Value(std::move(text));
  }
  RETURN_IF_ERROR(budget.Spend(static_cast<int64_t>(size) * count));
  Value::List items;
  for (int64_t i = 0; i < count && size > 0; ++i) {
    items.insert(items.end(), value.list().begin(), value.list().end());
  }
  return Value::MakeList(std::move(items));
}

// Where each character of a text begins, and its end.
std::vector<size_t> CharacterStarts(absl::string_view text) {
  std::vector<size_t> starts;
  size_t pos = 0;
  while (pos < text.size()) {
    starts.push_back(pos);
    pos = DecodeAt(text, pos).end;
  }
  starts.push_back(pos);
  return starts;
}

absl::StatusOr<int64_t> SliceBound(const Value& value, int64_t size,
                                   bool forward, int64_t fallback) {
  if (value.is_none()) return fallback;
  if (!value.is_int() && !value.is_bool()) {
    return Error(
        absl::StrCat("a slice takes numbers, not a ", value.TypeName()));
  }
  int64_t bound = value.integer();
  if (bound < 0) bound = bound < -size ? -1 : bound + size;
  if (forward) return std::clamp<int64_t>(bound, 0, size);
  return std::clamp<int64_t>(bound, -1, size - 1);
}

}  // namespace

ValueOr TemplateBinary(absl::string_view sign, const Value& a, const Value& b,
                       TemplateBudget& budget) {
  if (sign == "~") {
    RETURN_IF_ERROR(budget.Spend(a.Weight() + b.Weight()));
    const std::string left = a.ToString();
    const std::string right = b.ToString();
    RETURN_IF_ERROR(budget.SpendBytes(left.size() + right.size()));
    return Value(left + right);
  }
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float()
               ? FloatBinary(sign, a.number(), b.number())
               : IntegerBinary(sign, a.integer(), b.integer());
  }
  if (sign == "+" && a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(budget.SpendBytes(a.string().size() + b.string().size()));
    return Value(a.string() + b.string());
  }
  if (sign == "+" && a.is_list() && b.is_list()) {
    RETURN_IF_ERROR(
        budget.Spend(static_cast<int64_t>(a.list().size() + b.list().size())));
    Value::List items = a.list();
    items.insert(items.end(), b.list().begin(), b.list().end());
    return Value::MakeList(std::move(items));
  }
  if (sign == "*" && (a.is_string() || a.is_list()) && b.is_int()) {
    return Repeat(a, b.integer(), budget);
  }
  if (sign == "*" && a.is_int() && (b.is_string() || b.is_list())) {
    return Repeat(b, a.integer(), budget);
  }
  return Unfit(sign, a, b);
}

absl::StatusOr<bool> TemplateCompare(absl::string_view sign, const Value& a,
                                     const Value& b, TemplateBudget& budget) {
  RETURN_IF_ERROR(budget.Spend(std::min(a.Weight(), b.Weight())));
  if (sign == "==") return a == b;
  if (sign == "!=") return !(a == b);
  if (sign == "in" || sign == "not in") {
    bool is_in = false;
    if (b.is_string()) {
      if (!a.is_string()) return Unfit(sign, a, b);
      RETURN_IF_ERROR(budget.SpendSearch(b.string(), a.string()));
      is_in = absl::StrContains(b.string(), a.string());
    } else if (b.is_list()) {
      RETURN_IF_ERROR(budget.Spend(b.Weight()));
      is_in = std::find(b.list().begin(), b.list().end(), a) != b.list().end();
    } else if (b.is_dict()) {
      is_in = a.is_string() && b.dict().Find(a.string()) != nullptr;
    } else if (!b.is_undefined()) {
      return Unfit(sign, a, b);
    }
    return is_in == (sign == "in");
  }
  int order = 0;
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) {
      const double x = a.number();
      const double y = b.number();
      if (std::isnan(x) || std::isnan(y)) return false;
      order = x < y ? -1 : x > y;
    } else {
      order = a.integer() < b.integer() ? -1 : a.integer() > b.integer();
    }
  } else if (a.is_string() && b.is_string()) {
    order = a.string().compare(b.string());  // As code points are ordered.
  } else {
    return Unfit(sign, a, b);
  }
  if (sign == "<") return order < 0;
  if (sign == "<=") return order <= 0;
  if (sign == ">") return order > 0;
  return order >= 0;
}

ValueOr TemplateAttribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) return IsUndefined(object);
  if (object.is_dict()) {
    const Value* const found = object.dict().Find(name);
    if (found != nullptr) return *found;
  } else if (object.is_namespace()) {
    const Value* const found = object.name_space().fields.Find(name);
    if (found != nullptr) return *found;
  } else if (object.is_loop()) {
    const Value::Loop& loop = object.loop();
    const int64_t size = static_cast<int64_t>(loop.items->size());
    if (name == "index") return Value(loop.index + 1);
    if (name == "index0") return Value(loop.index);
    if (name == "revindex") return Value(size - loop.index);
    if (name == "revindex0") return Value(size - loop.index - 1);
    if (name == "first") return Value(loop.index == 0);
    if (name == "last") return Value(loop.index + 1 == size);
    if (name == "length") return Value(size);
    // Of recursive loops, which are not supported.
    if (name == "depth") return Value(int64_t{1});
    if (name == "depth0") return Value(int64_t{0});
    if (name == "previtem" && loop.index > 0) {
      return (*loop.items)[loop.index - 1];
    }
    if (name == "nextitem" && loop.index + 1 < size) {
      return (*loop.items)[loop.index + 1];
    }
  }
  return Value::MakeUndefined(name);
}

ValueOr TemplateItem(const Value& object, const Value& key) {
  if (object.is_undefined()) return IsUndefined(object);
  if (key.is_string()) return TemplateAttribute(object, key.string());
  if ((object.is_list() || object.is_string()) &&
      (key.is_int() || key.is_bool())) {
    int64_t index = key.integer();
    if (object.is_list()) {
      const int64_t size = static_cast<int64_t>(object.list().size());
      if (index < 0) index += size;
      if (index >= 0 && index < size) return object.list()[index];
    } else {
      const std::vector<size_t> starts = CharacterStarts(object.string());
      const int64_t size = static_cast<int64_t>(starts.size()) - 1;
      if (index < 0) index += size;
      if (index >= 0 && index < size) {
        return Value(object.string().substr(starts[index],
                                            starts[index + 1] - starts[index]));
      }
    }
  }
  return Value::MakeUndefined(key.ToString());
}

ValueOr TemplateSlice(const Value& object, const Value& start,
                      const Value& stop, const Value& step,
                      TemplateBudget& budget) {
  if (object.is_undefined()) return IsUndefined(object);
  if (!object.is_list() && !object.is_string()) {
    return Error(absl::StrCat("a ", object.TypeName(), " has no slices"));
  }
  if (!step.is_none() && !step.is_int()) {
    return Error("a slice's step is no number");
  }
  const int64_t stride = step.is_none() ? 1 : step.integer();
  if (stride == 0) return Error("a slice's step is 0");
  const bool forward = stride > 0;
  std::vector<size_t> starts;
  if (object.is_string()) {
    RETURN_IF_ERROR(budget.SpendBytes(object.string().size()));
    starts = CharacterStarts(object.string());
  }
  const int64_t size = static_cast<int64_t>(
      object.is_string() ? starts.size() - 1 : object.list().size());
  ASSIGN_OR_RETURN(const int64_t first,
                   SliceBound(start, size, forward, forward ? 0 : size - 1));
  ASSIGN_OR_RETURN(const int64_t end,
                   SliceBound(stop, size, forward, forward ? size : -1));
  Value::List items;
  std::string text;
  for (int64_t i = first; forward ? i < end : i > end;) {
    RETURN_IF_ERROR(budget.Spend());
    if (object.is_string()) {
      text.append(object.string(), starts[i], starts[i + 1] - starts[i]);
    } else {
      items.push_back(object.list()[i]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (object.is_string()) return Value(std::move(text));
  return Value::MakeList(std::move(items));
}

}  // namespace strata
