// Who waits for whom when nothing is left to happen.

#ifndef SIM_ASTRA_DEADLOCK_H_
#define SIM_ASTRA_DEADLOCK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "sim/astra/collective_log.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

// ABORTED, with the chain of waits from the lowest rank that is not done.
// `waits_in` has for each rank the index of a node that it has started and that
// has not ended, and nullopt for ranks that are done; one at least is not.
absl::Status DeadlockError(
    const chakra::Workload& workload, const CollectiveLog& log, int64_t now_ns,
    const std::vector<std::optional<uint32_t>>& waits_in);

}  // namespace strata::astra

#endif  // SIM_ASTRA_DEADLOCK_H_
