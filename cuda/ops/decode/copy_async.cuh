// A few bytes at a time from memory to shared memory, without registers.

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

// The same, or zeros if not `there`.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global,
                                            bool there) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
#endif
}

// 4 or 8 bytes, both aligned to as many.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "n"(kBytes)
               : "memory");
#endif
}

// Policies of L2 for the copy engine (sm90.cuh): of what is read once, which
// leaves it before all else does. ptxas 13.0 makes an illegal instruction of an
// asynchronous copy of 16 bytes with such a policy if its place in shared
// memory is a uniform register plus another, so those have none.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
#endif
  return policy;
}
// What others read too.
__device__ __forceinline__ uint64_t ReadByOthers() {
  uint64_t policy = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("createpolicy.fractional.L2::evict_normal.b64 %0;" : "=l"(policy));
#endif
  return policy;
}

// Those of this thread since the last call are a group.
__device__ __forceinline__ void EndCopies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's groups but the last kPending.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Waits for all of this thread; a barrier shows them to others.
__device__ __forceinline__ void WaitForCopies16() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_COPY_ASYNC_CUH_
