// The rows of a gate's experts over the ranks that share them out.

#ifndef SIM_WORKLOAD_GATE_ROWS_H_
#define SIM_WORKLOAD_GATE_ROWS_H_

#include <numeric>
#include <vector>

namespace strata::sim {

struct GateRows {
  std::vector<double> busiest;  // [its experts], of the rank with the most.
  std::vector<double> every;    // Of all ranks, one after another.
  double sum = 0;               // Of the busiest.
  double mean = 0;              // Over ranks.
};

// `ranks` as of RowsOfRanks() (expert_loads.h), of which there is one at least.
inline GateRows SpreadOver(const std::vector<std::vector<double>>& ranks) {
  GateRows of;
  double rows = 0;
  for (const std::vector<double>& rank : ranks) {
    const double sum = std::accumulate(rank.begin(), rank.end(), 0.0);
    if (of.busiest.empty() || sum > of.sum) {
      of.busiest = rank;
      of.sum = sum;
    }
    of.every.insert(of.every.end(), rank.begin(), rank.end());
    rows += sum;
  }
  of.mean = rows / static_cast<double>(ranks.size());
  return of;
}

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_GATE_ROWS_H_
