// The scorecard as one self-contained HTML page.

#ifndef TOOLS_SCORECARD_HTML_H_
#define TOOLS_SCORECARD_HTML_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"

namespace strata {

// `manifest` is shown below the claims.
std::string ScorecardPage(const std::vector<ClaimResult>& claims,
                          const std::vector<ScoredRun>& runs,
                          const nlohmann::json& manifest);

// How a measure reads: "2.7900 ± 0.0100", "1.350 ± 0.010 (want at least 1.27)".
std::string FormatSpread(const Spread& spread);
std::string FormatRatio(const Measure& measure);

}  // namespace strata

#endif  // TOOLS_SCORECARD_HTML_H_
