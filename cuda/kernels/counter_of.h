// Counters in device memory, one for the kernels of each stream.

#ifndef CUDA_KERNELS_COUNTER_OF_H_
#define CUDA_KERNELS_COUNTER_OF_H_

#include <cstdint>

#include "cuda_runtime_api.h"

namespace strata::gpu {

// A counter for a kernel that is enqueued on `stream` of the current device, or
// captured from it. It is 0 when the kernel begins if each kernel that has it
// leaves it so: kernels of a stream, and those captured from one stream into
// one graph, run one after the other, and share it with no others.
//
// Null if there is none left (16,384 of a device, and none comes back), or if
// what the stream does cannot be asked. Any thread may ask.
uint32_t* CounterOf(cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_COUNTER_OF_H_
