#include "cuda/runtime/wait_clock.h"

namespace strata::gpu {
namespace {

__global__ void BeginKernel(WaitClock* clock) {
  clock->begin_ns = Nanoseconds();
}

__global__ void EndKernel(WaitClock* clock) {
  clock->total_ns += Nanoseconds() - clock->begin_ns;
}

}  // namespace

cudaError_t BeginWait(WaitClock* clock, cudaStream_t stream) {
  BeginKernel<<<1, 1, 0, stream>>>(clock);
  return cudaGetLastError();
}

cudaError_t EndWait(WaitClock* clock, cudaStream_t stream) {
  EndKernel<<<1, 1, 0, stream>>>(clock);
  return cudaGetLastError();
}

}  // namespace strata::gpu
