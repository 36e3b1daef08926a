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
// kernel that has seen the last one end has seen all of them end. A thread that
// waits holds up its warp, so what is done before the wait is another warp's or
// comes before it in the program. Behind the wait, what others have written is
// read by plain loads: those by way of the read-only cache (__ldg) may be moved
// ahead of it.

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

// When a kernel begins: behind the one ahead of it in the stream, or earlier.
enum class Begins { kBehind, kAhead };

// Launches a kernel in clusters of `cluster` blocks along x, if that is more
// than one. kAhead: of a kernel that calls WaitForEarlier(); on Hopper it may
// begin early.
template <Begins kBegins, typename... Parameters, typename... Arguments>
cudaError_t LaunchClusters(void (*kernel)(Parameters...), int cluster,
                           dim3 grid, dim3 block, size_t shared,
                           cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute[2];
  unsigned count = 0;
  if (kBegins == Begins::kAhead) {
    attribute[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attribute[count].id = cudaLaunchAttributeClusterDimension;
    attribute[count++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t LaunchClustersAhead(void (*kernel)(Parameters...), int cluster,
                                dim3 grid, dim3 block, size_t shared,
                                cudaStream_t stream,
                                const Arguments&... arguments) {
  return LaunchClusters<Begins::kAhead>(kernel, cluster, grid, block, shared,
                                        stream, arguments...);
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
