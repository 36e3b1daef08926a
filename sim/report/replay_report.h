// Replayed traces for people and programs: a summary, JSON that Compare reads
// (step_report.h), a Chrome trace, a page.

#ifndef SIM_REPORT_REPLAY_REPORT_H_
#define SIM_REPORT_REPLAY_REPORT_H_

#include <string>

#include "nlohmann/json.hpp"
#include "sim/cluster/cluster.h"
#include "sim/replay/replay.h"
#include "sim/replay/replay_summary.h"

namespace strata::sim {

// The pointers' objects are the caller's.
struct ReplayReport {
  std::string traces;  // The prefix that was replayed.
  std::string cluster_name;
  const Cluster* cluster = nullptr;
  const ReplayResult* result = nullptr;
  ReplaySummary summary;

  double Seconds() const;
  double Dollars() const;  // Of the whole cluster for that time.
  double Kwh() const;
};

// Some twenty lines: time, utilisation, cost, where the time goes, the critical
// path.
std::string Summary(const ReplayReport& report);

// All numbers of the summary, and those of every rank. "parts" are the means
// over ranks.
nlohmann::ordered_json ToJson(const ReplayReport& report);

// A process a rank; threads for what it does at once: computations, the host,
// loads and stores, and as many for communication as run beside each other.
// Arrows follow messages.
std::string ChromeTrace(const ReplayReport& report);

// A self-contained page: parts, ranks over time (the first 64), ranks.
std::string HtmlReport(const ReplayReport& report);

}  // namespace strata::sim

#endif  // SIM_REPORT_REPLAY_REPORT_H_
