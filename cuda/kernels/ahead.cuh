// Kernels that begin before the one ahead of them in the stream has ended, so
// that what does not depend on it, the loading of weights, hides the launch
// (programmatic dependent launch: CUDA Programming Guide 13.0, 4.5).
//
//   kernel   loads weights into registers
//            WaitForEarlier()     all earlier kernels have ended
//            LetLaterBegin()
//            the rest
//
// Each such kernel waits, in every thread, before it ends or returns: then a
// kernel that has seen the last one end has seen all of them end.

#ifndef CUDA_KERNELS_AHEAD_CUH_
#define CUDA_KERNELS_AHEAD_CUH_

#include <cstddef>

#include "cuda_runtime.h"

namespace strata::gpu {

__device__ __forceinline__ void WaitForEarlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void LetLaterBegin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Launches a kernel that calls WaitForEarlier(), in clusters of `cluster`
// blocks along x if that is more than one; on Hopper it may begin early.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchClustersAhead(void (*kernel)(Parameters...), int cluster,
                                dim3 grid, dim3 block, size_t shared,
                                cudaStream_t stream,
                                const Arguments&... arguments) {
  cudaLaunchAttribute attribute[2];
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = 1;
  attribute[1].id = cudaLaunchAttributeClusterDimension;
  attribute[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The same without clusters.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchAhead(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared, cudaStream_t stream,
                        const Arguments&... arguments) {
  return LaunchClustersAhead(kernel, /*cluster=*/1, grid, block, shared, stream,
                             arguments...);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_AHEAD_CUH_
