// How long a rank's GPU stands still for other ranks within a program, by its
// own clock: no host sees that, as the host waits for the whole program.
//
//   the program's stream  | work | begin ... waits ... end | work |
//   total_ns              +=       end - begin
//
// A kernel that looks for others' flags counts by itself; around what does not,
// a collective of NCCL or the join of a lane, go two kernels of one thread.
// Free of Abseil, so that .cu files include it.

#ifndef CUDA_RUNTIME_WAIT_CLOCK_H_
#define CUDA_RUNTIME_WAIT_CLOCK_H_

#include <cstdint>

#include "cuda_runtime_api.h"

namespace strata::gpu {

// In device memory, of one stream, whose kernels follow each other; zeroed
// before each run.
struct WaitClock {
  int64_t total_ns = 0;
  int64_t begin_ns = 0;  // Of what is waited for now.
};

// What is enqueued between the two is waiting. They do not nest.
cudaError_t BeginWait(WaitClock* clock, cudaStream_t stream);
cudaError_t EndWait(WaitClock* clock, cudaStream_t stream);

#ifdef __CUDACC__
// The same on all of a GPU; it moves on by some microsecond at a time.
__device__ __forceinline__ int64_t Nanoseconds() {
  int64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}
#endif

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_WAIT_CLOCK_H_
