#include "core/tokenizer/template_text_functions.h"

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
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_call.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_value.h"
#include "core/tokenizer/unicode.h"

namespace strata::template_call {
namespace {

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

}  // namespace

ValueOr TextCall(const Call& call) {
  RETURN_IF_ERROR(call.Bind({}).status());
  RETURN_IF_ERROR(call.budget.Spend(call.input.Weight()));
  std::string text = call.input.ToString();
  RETURN_IF_ERROR(call.budget.SpendBytes(text.size()));
  return Value(std::move(text));
}

ValueOr TrimCall(const Call& call) { return StripCall(call, true, true); }

ValueOr LeftStripCall(const Call& call) { return StripCall(call, true, false); }
ValueOr RightStripCall(const Call& call) {
  return StripCall(call, false, true);
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

}  // namespace strata::template_call
