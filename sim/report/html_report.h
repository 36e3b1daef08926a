// A step as a page that needs nothing else: figures, where the time goes, the
// pipeline's timeline, memory; charts are inline SVG.

#ifndef SIM_REPORT_HTML_REPORT_H_
#define SIM_REPORT_HTML_REPORT_H_

#include <string>
#include <vector>

#include "sim/report/step_report.h"
#include "sim/workload/load_replay.h"

namespace strata::sim {

// `balance` is empty where no routing trace was given.
std::string HtmlReport(const StepReport& report,
                       const std::vector<BalancePoint>& balance);

}  // namespace strata::sim

#endif  // SIM_REPORT_HTML_REPORT_H_
