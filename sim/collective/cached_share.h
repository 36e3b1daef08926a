// How much of what a collective touches the L2 still holds from the call
// before.
//
// Calls one after the other go through the same buffers in the same order: the
// caller's, and those of NCCL, whose slots take turns. Lines that a miss
// replaces are as good as random, so one is still there, when its turn comes
// again, with the chance that no miss since then hit it:
//
//   share = exp(-(1 - share) * touched / cache)
//
// which is all of them up to the cache's size, 0.4 at one and a half times
// that, 0.2 at twice.

#ifndef SIM_COLLECTIVE_CACHED_SHARE_H_
#define SIM_COLLECTIVE_CACHED_SHARE_H_

#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

// Of `touched` bytes of a GPU's memory, in [0, 1]. 0 where the L2's size is not
// known.
double CachedShare(const GpuConfig& gpu, double touched);

// A time that goes by what a channel reads, as a share of that from memory.
double ReadingTime(const NodeConfig& node, double touched);

// Slots of a channel's buffer that take turns: a message's chunk fills one, a
// ring's slice two.
constexpr double kSlots = 8;
constexpr double kSlotsOfSlice = 2;

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_CACHED_SHARE_H_
