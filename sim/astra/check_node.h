// Whether a node of a trace can be simulated on a system.

#ifndef SIM_ASTRA_CHECK_NODE_H_
#define SIM_ASTRA_CHECK_NODE_H_

#include <optional>

#include "absl/status/status.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/collective_plan.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

// The collective of a COMM_COLL node, or nullopt if its type is none that is
// simulated. Refers to `workload`.
std::optional<CollectiveRequest> ToRequest(const chakra::Workload& workload,
                                           int rank,
                                           const chakra::TraceNode& node);

// Checks every node of `workload`, which CheckWorkload has accepted. Errors:
// see Simulate.
absl::Status CheckNodes(const chakra::Workload& workload,
                        const NetworkConfig& network,
                        const SystemConfig& system,
                        const RemoteMemoryConfig& memory);

}  // namespace strata::astra

#endif  // SIM_ASTRA_CHECK_NODE_H_
