// Parts of self-contained HTML pages: style, figures, bar charts.

#ifndef SIM_REPORT_PAGE_H_
#define SIM_REPORT_PAGE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace strata::sim {

// A chart's width in its own units; it is scaled to the page.
inline constexpr int kChartWidth = 900;

extern const absl::string_view kPageStyle;

// Colours that are told apart, in the order of use.
const char* ChartColour(size_t index);

// Text for HTML. What is not UTF-8 or would be a control character becomes
// U+FFFD.
std::string Escaped(absl::string_view text);

// An item of a <dl> of figures.
std::string Figure(absl::string_view name, absl::string_view value,
                   absl::string_view unit);

std::string OpenSvg(int height, absl::string_view title);

struct PageBar {
  std::string name;
  double value = 0;
  size_t colour = 0;  // Of ChartColour.
};

// Bars, the longest as wide as there is room; beside each its value and its
// share of `whole`.
std::string Bars(const std::vector<PageBar>& bars, absl::string_view unit,
                 double whole, absl::string_view title);

}  // namespace strata::sim

#endif  // SIM_REPORT_PAGE_H_
