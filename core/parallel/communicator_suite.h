// What every communicator must do: one suite for threads, MPI and NCCL.

#ifndef CORE_PARALLEL_COMMUNICATOR_SUITE_H_
#define CORE_PARALLEL_COMMUNICATOR_SUITE_H_

#include <string>
#include <vector>

#include "core/parallel/communicator.h"

namespace strata {

// To be called by every rank of `world`; returns what went wrong on this one.
// All calls: even, uneven and empty pieces, on both sides of where
// implementations change their algorithm; groups that are not contiguous, of
// one rank, and many at once; messages that overtake, also to oneself; sums
// that repeat bit for bit.
std::vector<std::string> RunCommunicatorSuite(Communicator& world);

// The same, of host communicators, on two threads of each rank at once, each
// with a group of its own of all ranks.
std::vector<std::string> RunSuiteOnTwoThreads(Communicator& world);

}  // namespace strata

#endif  // CORE_PARALLEL_COMMUNICATOR_SUITE_H_
