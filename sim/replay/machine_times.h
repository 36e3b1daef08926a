// How long a machine takes for operators and collectives, learnt from execution
// traces that it recorded (`strata train --trace`), and traces of other runs
// with these times in place of their own.
//
//   traces of runs of some shapes ──> FitMachineTimes
//                                       an operator: a + b FLOPs + c bytes,
//                                       a, b, c >= 0, by its name
//                                       a network: latency and bandwidth
//                                       │
//   traces of a run of another shape ───┴─> SetOperatorTimes, MachineCluster
//                                             └──> ReplayTraces
//
// An operator is the name of a computation up to its first space. What the
// fits make least is the sum of squares of relative errors, of the mean time of
// each size, weighted by the time that all of that size took; then they are
// scaled so that all sizes together take as long as they did. Of a collective
// counts what its last rank saw of it, which waited for nobody.

#ifndef SIM_REPLAY_MACHINE_TIMES_H_
#define SIM_REPLAY_MACHINE_TIMES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"

namespace strata::sim {

struct OperatorTime {
  double seconds = 0;  // Of a run, whatever its size.
  double seconds_per_flop = 0;
  double seconds_per_byte = 0;
};

struct MachineTimes {
  std::map<std::string, OperatorTime> operators;
  // Of a step of a collective, and of a byte that a rank sends, both of the
  // usual algorithms: core/parallel/traffic_meter.h. 0 without collectives.
  double step_seconds = 0;
  double seconds_per_byte = 0;
};

// Of traces of several runs. Returns the errors of chakra::CheckWorkload and
// PlanTraces, and INVALID_ARGUMENT if no computation has a duration.
absl::StatusOr<MachineTimes> FitMachineTimes(
    const std::vector<chakra::Workload>& workloads);

// Sets the durations of all computations. Returns the share of the time they
// had that is of operators which `times` lacks: those keep their own.
double SetOperatorTimes(const MachineTimes& times, chakra::Workload& workload);

// So many ranks under a switch of those times.
absl::StatusOr<Cluster> MachineCluster(const MachineTimes& times,
                                       int num_ranks);

// As JSON, and back. Returns INVALID_ARGUMENT, with `name`, if it is not such.
std::string ToJson(const MachineTimes& times);
absl::StatusOr<MachineTimes> ParseMachineTimes(absl::string_view text,
                                               absl::string_view name);

}  // namespace strata::sim

#endif  // SIM_REPLAY_MACHINE_TIMES_H_
