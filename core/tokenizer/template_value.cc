#include "core/tokenizer/template_value.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

absl::Status TooDeep() {
  return absl::InvalidArgumentError(
      absl::StrCat("a value nests deeper than ", TemplateValue::kMaxDepth));
}

absl::Status TooHeavy() {
  return absl::ResourceExhaustedError(
      absl::StrCat("a value has more than ", TemplateValue::kMaxWeight,
                   " items (16 bytes of text are one)"));
}

}  // namespace

void TemplateValue::Dict::Set(const std::string& key, TemplateValue value) {
  const auto [it, is_new] = index_.emplace(key, entries_.size());
  if (is_new) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[it->second].second = std::move(value);
  }
}

const TemplateValue* TemplateValue::Dict::Find(absl::string_view key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

TemplateValue TemplateValue::MakeUndefined(absl::string_view name) {
  TemplateValue value;
  value.data_ = Undefined{std::string(name)};
  return value;
}

TemplateValue TemplateValue::MakeNone() {
  TemplateValue value;
  value.data_ = None{};
  return value;
}

int TemplateValue::Depth() const {
  if (is_list()) return std::get<std::shared_ptr<const ListData>>(data_)->depth;
  if (is_dict()) return std::get<std::shared_ptr<const DictData>>(data_)->depth;
  return 0;
}

absl::StatusOr<TemplateValue> TemplateValue::MakeList(List items) {
  auto data = std::make_shared<ListData>();
  for (const TemplateValue& item : items) {
    if (item.is_namespace() || item.is_loop()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a list cannot hold a ", item.TypeName()));
    }
    data->depth = std::max(data->depth, item.Depth() + 1);
    data->weight += item.Weight();
    if (data->weight > kMaxWeight) return TooHeavy();
  }
  if (data->depth > kMaxDepth) return TooDeep();
  data->items = std::move(items);
  TemplateValue value;
  value.data_ = std::shared_ptr<const ListData>(std::move(data));
  return value;
}

absl::StatusOr<TemplateValue> TemplateValue::MakeDict(Dict dict) {
  auto data = std::make_shared<DictData>();
  for (const auto& [key, item] : dict.entries()) {
    if (item.is_namespace() || item.is_loop()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a dictionary cannot hold a ", item.TypeName()));
    }
    data->depth = std::max(data->depth, item.Depth() + 1);
    data->weight += item.Weight() + static_cast<int64_t>(key.size() / 16) + 1;
    if (data->weight > kMaxWeight) return TooHeavy();
  }
  if (data->depth > kMaxDepth) return TooDeep();
  data->dict = std::move(dict);
  TemplateValue value;
  value.data_ = std::shared_ptr<const DictData>(std::move(data));
  return value;
}

absl::StatusOr<TemplateValue> TemplateValue::FromJson(
    const nlohmann::ordered_json& json, int depth) {
  if (depth > kMaxDepth) return TooDeep();
  switch (json.type()) {
    case nlohmann::json::value_t::boolean:
      return TemplateValue(json.get<bool>());
    case nlohmann::json::value_t::number_integer:
      return TemplateValue(json.get<int64_t>());
    case nlohmann::json::value_t::number_unsigned: {
      const uint64_t value = json.get<uint64_t>();
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return TemplateValue(static_cast<double>(value));
      }
      return TemplateValue(static_cast<int64_t>(value));
    }
    case nlohmann::json::value_t::number_float:
      return TemplateValue(json.get<double>());
    case nlohmann::json::value_t::string:
      return TemplateValue(json.get<std::string>());
    case nlohmann::json::value_t::array: {
      List items;
      for (const auto& item : json) {
        ASSIGN_OR_RETURN(TemplateValue value, FromJson(item, depth + 1));
        items.push_back(std::move(value));
      }
      return MakeList(std::move(items));
    }
    case nlohmann::json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        ASSIGN_OR_RETURN(TemplateValue value, FromJson(item, depth + 1));
        dict.Set(key, std::move(value));
      }
      return MakeDict(std::move(dict));
    }
    default:
      return MakeNone();
  }
}

int64_t TemplateValue::integer() const {
  return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_);
}

double TemplateValue::number() const {
  return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
}

int64_t TemplateValue::Weight() const {
  if (is_string()) return 1 + static_cast<int64_t>(string().size() / 16);
  if (is_list()) {
    return std::get<std::shared_ptr<const ListData>>(data_)->weight;
  }
  if (is_dict()) {
    return std::get<std::shared_ptr<const DictData>>(data_)->weight;
  }
  return 1;
}

bool TemplateValue::Truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (is_string()) return !string().empty();
  if (is_list()) return !list().empty();
  if (is_dict()) return !dict().entries().empty();
  return true;
}

absl::string_view TemplateValue::TypeName() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "string";
  if (is_list()) return "list";
  if (is_dict()) return "dictionary";
  if (is_namespace()) return "namespace";
  if (is_loop()) return "loop";
  return "macro";
}

std::string FormatPythonFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // The fewest digits that read back as the same number.
  std::string text;
  for (int digits = 1; digits <= 17; ++digits) {
    text = absl::StrFormat("%.*e", digits - 1, value);
    if (std::strtod(text.c_str(), nullptr) == value) break;
  }
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) {
    return absl::StrCat(text.substr(0, e), absl::StrFormat("e%+03d", exponent));
  }
  const int digits = static_cast<int>(
      std::count_if(text.begin(), text.begin() + static_cast<int64_t>(e),
                    [](char c) { return c >= '0' && c <= '9'; }));
  return absl::StrFormat("%.*f", std::max(1, digits - 1 - exponent), value);
}

std::string TemplateValue::ToString() const {
  if (is_string()) return string();
  if (is_undefined()) return "";
  return ToRepr();
}

std::string TemplateValue::ToRepr() const {
  std::string text;
  AppendRepr(text);
  return text;
}

namespace {

std::string Quote(absl::string_view text) {
  const char quote = text.find('\'') != absl::string_view::npos &&
                             text.find('"') == absl::string_view::npos
                         ? '"'
                         : '\'';
  std::string quoted(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\r') {
      quoted += "\\r";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(&quoted, "\\x%02x", c);
    } else {
      quoted += c;
    }
  }
  return quoted += quote;
}

std::string QuoteJson(absl::string_view text, bool ensure_ascii) {
  std::string quoted = "\"";
  for (size_t pos = 0; pos < text.size();) {
    const Decoded decoded = DecodeAt(text, pos);
    const char32_t c = decoded.c;
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += static_cast<char>(c);
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\r') {
      quoted += "\\r";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (c == '\b') {
      quoted += "\\b";
    } else if (c == '\f') {
      quoted += "\\f";
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<uint32_t>(c));
    } else if (ensure_ascii && c >= 0x10000) {
      const uint32_t pair = c - 0x10000;
      absl::StrAppendFormat(&quoted, "\\u%04x\\u%04x", 0xD800 + (pair >> 10),
                            0xDC00 + (pair & 0x3FF));
    } else {
      absl::StrAppend(&quoted, text.substr(pos, decoded.end - pos));
    }
    pos = decoded.end;
  }
  return quoted += '"';
}

class JsonWriter {
 public:
  explicit JsonWriter(const TemplateJsonStyle& style) : style_(style) {}

  absl::Status Write(const TemplateValue& value, int level) {
    if (value.is_none()) {
      text_ += "null";
    } else if (value.is_bool()) {
      text_ += value.integer() ? "true" : "false";
    } else if (value.is_int()) {
      absl::StrAppend(&text_, value.integer());
    } else if (value.is_float()) {
      const double number = value.number();
      text_ += std::isnan(number)   ? "NaN"
               : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                    : FormatPythonFloat(number);
    } else if (value.is_string()) {
      text_ += QuoteJson(value.string(), style_.ensure_ascii);
    } else if (value.is_list()) {
      return WriteItems(
          '[', ']', value.list(), level,
          [&](const TemplateValue& item) { return Write(item, level + 1); });
    } else if (value.is_dict()) {
      auto entries = value.dict().entries();
      if (style_.sort_keys) {
        std::sort(
            entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
      }
      return WriteItems('{', '}', entries, level, [&](const auto& entry) {
        absl::StrAppend(&text_, QuoteJson(entry.first, style_.ensure_ascii),
                        style_.key_separator);
        return Write(entry.second, level + 1);
      });
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("a value that is ", value.TypeName(), " is no JSON"));
    }
    return absl::OkStatus();
  }

  std::string text() && { return std::move(text_); }

 private:
  template <typename Items, typename WriteItem>
  absl::Status WriteItems(char open, char close, const Items& items, int level,
                          WriteItem write) {
    text_ += open;
    bool is_first = true;
    for (const auto& item : items) {
      if (!is_first) {
        // json.dumps leaves no space at a line's end.
        text_ += style_.indent >= 0 && style_.item_separator == ", "
                     ? ","
                     : style_.item_separator;
      }
      is_first = false;
      NewLine(level + 1);
      RETURN_IF_ERROR(write(item));
    }
    if (!is_first) NewLine(level);
    text_ += close;
    return absl::OkStatus();
  }

  void NewLine(int level) {
    if (style_.indent < 0) return;
    text_ += '\n';
    text_.append(static_cast<size_t>(style_.indent) * level, ' ');
  }

  const TemplateJsonStyle& style_;
  std::string text_;
};

}  // namespace

void TemplateValue::AppendRepr(std::string& text) const {
  if (is_undefined()) {
    text += "Undefined";
  } else if (is_none()) {
    text += "None";
  } else if (is_bool()) {
    text += integer() ? "True" : "False";
  } else if (is_int()) {
    absl::StrAppend(&text, integer());
  } else if (is_float()) {
    text += FormatPythonFloat(number());
  } else if (is_string()) {
    text += Quote(string());
  } else if (is_list()) {
    absl::string_view separator = "";
    text += '[';
    for (const TemplateValue& item : list()) {
      absl::StrAppend(&text, separator);
      item.AppendRepr(text);
      separator = ", ";
    }
    text += ']';
  } else if (is_dict()) {
    absl::string_view separator = "";
    text += '{';
    for (const auto& [key, item] : dict().entries()) {
      absl::StrAppend(&text, separator, Quote(key), ": ");
      item.AppendRepr(text);
      separator = ", ";
    }
    text += '}';
  } else {
    absl::StrAppend(&text, "<", TypeName(), ">");
  }
}

bool operator==(const TemplateValue& a, const TemplateValue& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.number() == b.number();
    return a.integer() == b.integer();
  }
  if (a.is_string() && b.is_string()) return a.string() == b.string();
  if (a.is_list() && b.is_list()) return a.list() == b.list();
  if (a.is_dict() && b.is_dict()) {
    if (a.dict().entries().size() != b.dict().entries().size()) return false;
    for (const auto& [key, value] : a.dict().entries()) {
      const TemplateValue* const other = b.dict().Find(key);
      if (other == nullptr || !(value == *other)) return false;
    }
    return true;
  }
  if (a.is_namespace() && b.is_namespace()) {
    return &a.name_space() == &b.name_space();
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

absl::StatusOr<std::string> ToTemplateJson(const TemplateValue& value,
                                           const TemplateJsonStyle& style) {
  JsonWriter writer(style);
  RETURN_IF_ERROR(writer.Write(value, /*level=*/0));
  return std::move(writer).text();
}

}  // namespace strata
