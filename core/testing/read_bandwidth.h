// The machine's memory bandwidth: what benchmarks hold their bytes/s against.

#ifndef CORE_TESTING_READ_BANDWIDTH_H_
#define CORE_TESTING_READ_BANDWIDTH_H_

#include "core/base/thread_pool.h"

namespace strata {

// Bytes per second that all threads of the pool together read from a buffer of
// 1 GiB, far larger than any cache; the best of five passes. 0 if there is no
// memory for it. Takes about a second.
double ReadBandwidth(ThreadPool& pool);

}  // namespace strata

#endif  // CORE_TESTING_READ_BANDWIDTH_H_
