// Signs of life of a machine's ranks, which are processes: where one is waited
// for in vain, it is the one that has not been heard of.
//
//   rank 0   beats while it waits   --+
//   rank 1   is stopped               +--  a table that all map: [ranks] when
//   rank 2   beats while it waits   --+    each was last heard of
//
// One a process, as its ranks and threads are. Without Join(), and of ranks on
// other machines, nothing is known and nothing said.

#ifndef CORE_PARALLEL_PULSE_H_
#define CORE_PARALLEL_PULSE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"

namespace strata {

// To be called by every rank of `world`, once a process. Returns the errors of
// its calls; that there is no memory to share is none.
absl::Status JoinPulse(Communicator& world);

// This rank is there: from wherever it waits, over and over. Costs a store.
void BeatPulse();

// "; rank 1 was last heard of 61s ago" for each that has been silent for
// `at_least` and longer; empty if none has.
std::string SilentRanks(absl::Duration at_least);

}  // namespace strata

#endif  // CORE_PARALLEL_PULSE_H_
