// 16 bytes at a time from memory to shared memory, without registers.

#ifndef CUDA_OPS_DECODE_COPY_ASYNC_CUH_
#define CUDA_OPS_DECODE_COPY_ASYNC_CUH_

#include <cstdint>

#include "cuda_runtime.h"

namespace strata::gpu {

// Both aligned to 16 bytes.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#endif
}

// Waits for those of this thread; a barrier shows them to others.
__device__ __forceinline__ void WaitForCopies16() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_COPY_ASYNC_CUH_
