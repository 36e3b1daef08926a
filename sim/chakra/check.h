// Whether the traces of a workload fit together, before anything runs.

#ifndef SIM_CHAKRA_CHECK_H_
#define SIM_CHAKRA_CHECK_H_

#include "absl/status/status.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {

// Returns INVALID_ARGUMENT in one line that names file, rank, node (id and
// name) and partner, for the first of:
//
//   - a communication node that lacks an attribute, runs on the CPU, or has a
//     rank outside of the workload;
//   - nodes of a rank that wait for each other in a cycle;
//   - a process group that no file defines, or that the rank is not in;
//   - a send without its receive, a receive without its send, or a pair whose
//     sizes differ (by source, destination and tag, in the order of ids);
//   - a collective that some of its group's ranks issue less often than others,
//     or with another size.
//
// What passes can still lock up, since which of two collectives comes first may
// depend on times: the simulator then says who waits for whom.
//
// Of kAstra a broadcast lasts as its node says and waits for nobody, so it is
// not looked at, and a rank sends to others only. Of kReplay a broadcast is a
// collective as the others, and a rank that has several stages of a pipeline
// may send to itself.
enum class TraceRules { kAstra, kReplay };
absl::Status CheckWorkload(const Workload& workload,
                           TraceRules rules = TraceRules::kAstra);

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_CHECK_H_
