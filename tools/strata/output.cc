#include "tools/strata/output.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

void PrintLine(absl::string_view prefix, absl::string_view message) {
  const std::string line =
      absl::StrCat(prefix, absl::StrReplaceAll(message, {{"\n", " "}}), "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

template <typename Json>
bool PrintJsonText(const Json& json) {
  // Names of domains are names of folders: any bytes.
  return Print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

// Columns that UTF-8 text takes, if each character takes one.
size_t NumColumns(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

bool Print(absl::string_view text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
}

bool PrintJson(const nlohmann::json& json) { return PrintJsonText(json); }
bool PrintJson(const nlohmann::ordered_json& json) {
  return PrintJsonText(json);
}

bool FlushOutput() {
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

void PrintError(absl::string_view message) { PrintLine("strata: ", message); }
void PrintNote(absl::string_view message) { PrintLine("note: ", message); }

std::string Printable(absl::string_view text) {
  std::string printable;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_control =
        (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
    // U+0080 to U+009F are controls too.
    const bool is_c1 = byte == 0xC2 && i + 1 < text.size() &&
                       static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (is_control || is_c1) {
      printable += kReplacement;
      i += is_c1 ? 1 : 0;
    } else {
      printable += text[i];
    }
  }
  return printable;
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      width[i] = std::max(width[i], NumColumns(row[i]));
    }
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      const std::string& cell = rows[r][i];
      const std::string padding(width[i] - NumColumns(cell), ' ');
      absl::StrAppend(&line, i == 0 ? "" : "  ", i == 0 ? cell : padding,
                      i == 0 ? padding : cell);
    }
    absl::StrAppend(&text, line.substr(0, line.find_last_not_of(' ') + 1),
                    "\n");
    if (r == 0) {
      for (size_t i = 0; i < width.size(); ++i) {
        absl::StrAppend(&text, i == 0 ? "" : "  ", std::string(width[i], '-'));
      }
      text += "\n";
    }
  }
  return text;
}

std::string FormatInteger(int64_t number) {
  std::string digits = absl::StrCat(number);
  const size_t sign = number < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > sign + 3;) {
    i -= 3;
    digits.insert(i, ",");
  }
  return digits;
}

}  // namespace strata
