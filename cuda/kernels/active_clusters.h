// How many clusters of blocks run at once on the current device, whose
// multiprocessors lie in groups that a cluster cannot leave.

#ifndef CUDA_KERNELS_ACTIVE_CLUSTERS_H_
#define CUDA_KERNELS_ACTIVE_CLUSTERS_H_

#include <cstddef>

namespace strata::gpu {

constexpr int kNumClusterSizes = 4;  // 1, 2, 4 and 8 blocks.

struct ActiveClusters {
  int of[kNumClusterSizes] = {};  // 0: none may, as on GPUs before Hopper.

  // Of a kernel with so many threads, and bytes of shared memory, a block.
  ActiveClusters(const void* kernel, int threads, size_t bytes);
};

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_ACTIVE_CLUSTERS_H_
