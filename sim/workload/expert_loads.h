// How the tokens of a step spread over experts, and experts over ranks.
//
//   share      [gates][experts]  of the gate's rows, sums to 1
//   placement  [gates][slots]    which expert a slot holds; ranks hold
//                                neighbouring slots
//     |
//     v
//   rows       [local slots] of the rank that has the most

#ifndef SIM_WORKLOAD_EXPERT_LOADS_H_
#define SIM_WORKLOAD_EXPERT_LOADS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/parallel/placement.h"
#include "core/trace/routing_reader.h"
#include "sim/workload/model_graph.h"

namespace strata::sim {

struct ExpertLoads {
  std::string origin = "even";  // For people: "even", "power law 1.2", a file.
  std::vector<std::vector<double>> share;  // Empty: even.
  std::vector<double> rows_per_token;      // [gates]; empty: the model's.
  std::vector<Placement> placement;        // Empty: expert e in slot e.
};

// Shares proportional to (1 + rank)^-exponent, in an order drawn from `seed`
// for each gate. 0 is even.
ExpertLoads PowerLawLoads(const std::vector<Gate>& gates, double exponent,
                          uint64_t seed);

// The power law, of each gate its own, whose shares have that Gini coefficient
// (core/parallel/load_stats.h): what a trainer tells of a run.
//
// Returns INVALID_ARGUMENT if a gate has too few experts for it: of E experts
// it is below 1 - 1 / E.
absl::StatusOr<ExpertLoads> LoadsOfGini(const std::vector<Gate>& gates,
                                        double gini, uint64_t seed);

// Loads of the experts as tokens of one window of records.
struct LoadWindow {
  int64_t first_step = 0;
  int64_t last_step = 0;
  std::vector<std::vector<double>> load;  // [gates of the trace][experts]
  std::vector<double> tokens;             // [gates of the trace]
};

// A trace's records in `num_windows` windows (fewer if it has fewer records).
//
// Returns the reader's error, or INVALID_ARGUMENT if there is no record.
absl::StatusOr<std::vector<LoadWindow>> ReadWindows(const std::string& path,
                                                    int64_t num_windows);

// The loads of a window for a model's gates: gate by gate where the trace has
// the model's gates, otherwise the trace's gates in turn, their experts'
// shares stretched over the model's number (an interpolation of the sorted
// shares, dealt out by `seed`), so that the skew is the trace's.
ExpertLoads LoadsOfWindow(const LoadWindow& window,
                          const std::vector<Gate>& gates,
                          absl::string_view origin, uint64_t seed);

// Loads from CSV, "layer,expert,tokens" with that header: what serving and
// training logs can be brought to. Layers are numbered as the model's; a layer
// without rows is even.
//
// Returns INVALID_ARGUMENT with the line's number for what is not so, or the
// system's error.
absl::StatusOr<ExpertLoads> ReadLoadsCsv(const std::string& path,
                                         const std::vector<Gate>& gates);

// Rows of each local slot on each rank: `rows` over the whole group, divided
// by share; an expert's replicas have even parts.
std::vector<std::vector<double>> RowsOfRanks(const ExpertLoads& loads,
                                             const Gate& gate, int gate_index,
                                             int64_t num_ranks, double rows);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_EXPERT_LOADS_H_
