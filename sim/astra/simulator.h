// Replays a workload in ASTRA-sim's analytical mode, to its cycle (1 ns).
//
// Event driven: every step of every collective on every rank is simulated, in
// the order in which ASTRA-sim would run them, since on a congested link the
// order decides. docs/chakra.md has the rules.

#ifndef SIM_ASTRA_SIMULATOR_H_
#define SIM_ASTRA_SIMULATOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

struct SimulationOptions {
  bool congestion_aware = false;
  int queues_per_dimension = 1;
  double injection_scale = 1;  // Of the endpoint delay.
};

struct RankResult {
  int64_t finish_ns = 0;
  // Time in which the GPU did not compute: finish less all compute nodes.
  int64_t exposed_ns = 0;
};

struct SimulationResult {
  std::vector<RankResult> ranks;
  int64_t num_events = 0;
};

// Runs the workload to its end. All arguments describe the same ranks.
//
// Returns the errors of chakra::CheckWorkload and CheckCollective, with file,
// rank and node; INVALID_ARGUMENT for a node that lacks what it needs, and if
// ranks issue a group's collectives in different orders; UNIMPLEMENTED for a
// kind of node or collective that is not simulated; OUT_OF_RANGE if the time
// exceeds 2^62 ns; ABORTED, saying who waits for whom, if ranks wait for each
// other for ever.
absl::StatusOr<SimulationResult> Simulate(const chakra::Workload& workload,
                                          const NetworkConfig& network,
                                          const SystemConfig& system,
                                          const RemoteMemoryConfig& memory,
                                          const SimulationOptions& options);

}  // namespace strata::astra

#endif  // SIM_ASTRA_SIMULATOR_H_
