// All layouts of a model on a cluster, within limits.
//
//   tp  1, 2, 4, .. GPUs of a node       ep  divisors of the experts
//   pp  divisors of the GPUs             vp  divisors of layers a stage
//   mbs 1, 2, 4                          recompute none, selective, full
//
// What does not divide, or does not fit in memory, is left out and counted.

#ifndef SIM_WORKLOAD_SWEEP_H_
#define SIM_WORKLOAD_SWEEP_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sim/workload/simulator.h"
#include "sim/workload/training_step.h"

namespace strata::sim {

struct SweepOptions {
  int64_t max_tensor = std::numeric_limits<int64_t>::max();
  int64_t max_pipeline = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> zero;  // To be tried; empty: the layout's.
  // Is given what each layout would be simulated with, and may change its
  // loads: where experts are placed depends on how many ranks share them.
  std::function<absl::Status(StepInputs& inputs)> prepare;
};

struct SweepPoint {
  std::string layout;
  std::string schedule;
  double seconds = 0;
  double tokens_per_second_per_gpu = 0;
  double mfu_causal = 0;
  double memory_bytes = 0;
  double dollars = 0;
};

struct Sweep {
  std::vector<SweepPoint> points;  // The fastest first.
  int64_t tried = 0;
  int64_t not_dividing = 0;
  int64_t out_of_memory = 0;
};

// The scenario's layout says what is fixed (gbs, seq, precision, flags);
// schedules "1f1b", "interleaved", "zb1p" and, for experts, "dualpipe" are
// tried.
//
// Returns the error of the scenario's model, cluster or layout, or of
// `prepare`.
absl::StatusOr<Sweep> SweepLayouts(const Scenario& scenario,
                                   Simulator& simulator,
                                   const SweepOptions& options = {});

// "layout,schedule,seconds,...", the fastest first.
std::string ToCsv(const Sweep& sweep);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_SWEEP_H_
