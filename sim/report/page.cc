#include "sim/report/page.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace strata::sim {
namespace {

constexpr const char* kColours[] = {"#3b6ea5", "#d08b2c", "#5a9a5a", "#9a9a9a",
                                    "#8a63a6", "#c3b091", "#b34a4a", "#d96c6c",
                                    "#e5a3a3", "#7f4f24", "#4a4a4a", "#bdbdbd",
                                    "#2a8a8a", "#6b705c"};

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of the UTF-8 character that `text` begins with; 0 if it is none.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const size_t size = byte(0) < 0x80                      ? 1
                      : byte(0) >= 0xC2 && byte(0) < 0xE0 ? 2
                      : byte(0) >= 0xE0 && byte(0) < 0xF0 ? 3
                      : byte(0) >= 0xF0 && byte(0) < 0xF5 ? 4
                                                          : 0;
  if (size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return size;
}

}  // namespace

// Charts keep their size on narrow screens and scroll; tables too.
const absl::string_view kPageStyle = R"(<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 960px;
       padding: 0 1em; color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5em; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin-top: 2em; }
p { overflow-wrap: anywhere; } p.sub { color: #555; margin-top: .2em; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8em; }
dl div { background: #f4f4f2; padding: .6em .9em; border-radius: 6px; }
dt { color: #555; font-size: .85em; } dd { margin: 0; font-size: 1.35em; }
dd small { font-size: .6em; color: #555; display: block; line-height: 1.35; }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .25em .8em; align-items: center; }
.bars .bar { display: flex; align-items: center; gap: .5em; min-width: 0; }
.bars .bar span { height: 1em; border-radius: 2px; flex: none; }
.bars .bar small { white-space: nowrap; font-size: .85em; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .scroll svg { min-width: 640px; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; }
.key > span { white-space: nowrap; margin-right: .8em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15em .9em .15em 0; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
li { overflow-wrap: anywhere; }
@media (max-width: 600px) { .bars { grid-template-columns: 1fr; gap: 0; }
  .bars .bar { margin-bottom: .5em; } }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #16181a; } dl div { background: #24272a; }
  dt, dd small, p.sub { color: #aaa; } svg text { fill: #e8e8e8; } }
</style>
)";

const char* ChartColour(size_t index) {
  return kColours[index % std::size(kColours)];
}

std::string Escaped(absl::string_view text) {
  std::string escaped;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    const char c = text[0];
    if (size == 0 || (static_cast<unsigned char>(c) < 0x20 && c != '\n')) {
      escaped += kReplacement;
    } else if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else {
      absl::StrAppend(&escaped, text.substr(0, size));
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return escaped;
}

std::string Figure(absl::string_view name, absl::string_view value,
                   absl::string_view unit) {
  return absl::StrFormat(
      "<div><dt>%s</dt><dd>%s <small>%s</small></dd></div>\n", Escaped(name),
      Escaped(value), Escaped(unit));
}

std::string OpenSvg(int height, absl::string_view title) {
  return absl::StrFormat(
      "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n",
      kChartWidth, height, Escaped(title));
}

std::string Bars(const std::vector<PageBar>& bars, absl::string_view unit,
                 double whole, absl::string_view title) {
  // Of the row, so that what stands beside the longest has room.
  constexpr double kLongestPercent = 60;
  double longest = 0;
  for (const PageBar& bar : bars) longest = std::max(longest, bar.value);
  std::string html =
      absl::StrFormat("<div class=\"bars\" role=\"group\" aria-label=\"%s\">\n",
                      Escaped(title));
  for (const PageBar& bar : bars) {
    absl::StrAppendFormat(
        &html,
        "<div>%s</div><div class=\"bar\"><span style=\"width:%.2f%%;"
        "background:%s\"></span><small>%.4g %s, %.1f %%</small></div>\n",
        Escaped(bar.name),
        longest > 0 ? bar.value / longest * kLongestPercent : 0.0,
        ChartColour(bar.colour), bar.value, unit,
        whole > 0 ? 100 * bar.value / whole : 0.0);
  }
  return html + "</div>\n";
}

}  // namespace strata::sim
