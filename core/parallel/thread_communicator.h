// Communicators between threads of one process: for tests, and for trying a
// mesh without MPI.

#ifndef CORE_PARALLEL_THREAD_COMMUNICATOR_H_
#define CORE_PARALLEL_THREAD_COMMUNICATOR_H_

#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"

namespace strata {

// One for each of `size` ranks; each is for one thread at a time. Where calls
// do not agree, every rank's error says which rank called what.
std::vector<std::unique_ptr<Communicator>> ThreadCommunicators(
    int size, absl::Duration timeout, absl::string_view name = "world");

}  // namespace strata

#endif  // CORE_PARALLEL_THREAD_COMMUNICATOR_H_
