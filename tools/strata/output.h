// What the command line prints, and where.

#ifndef TOOLS_STRATA_OUTPUT_H_
#define TOOLS_STRATA_OUTPUT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

// To stdout. False once that fails: a full disk, a reader that has gone.
bool Print(absl::string_view text);
bool PrintJson(const nlohmann::json& json);
bool PrintJson(const nlohmann::ordered_json& json);
bool FlushOutput();

// Lines on stderr: "strata: ..." and "note: ...". Breaks within are blanked, so
// that it is one line.
void PrintError(absl::string_view message);
void PrintNote(absl::string_view message);

// `text`, which is UTF-8, without what would steer a terminal: control
// characters but tab and newline become U+FFFD.
std::string Printable(absl::string_view text);

// Rows of cells in columns: the first flush left, the others right. The first
// row is the header.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// "1234567" as "1,234,567".
std::string FormatInteger(int64_t number);

}  // namespace strata

#endif  // TOOLS_STRATA_OUTPUT_H_
