#include "cuda/kernels/active_clusters.h"

#include <cstddef>

#include "cuda/kernels/tensor_map.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

ActiveClusters::ActiveClusters(const void* kernel, int threads, size_t bytes) {
  if (!IsHopper()) return;
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  for (int i = 0; i < kNumClusterSizes; ++i) {
    cluster.val.clusterDim = {1u << i, 1, 1};
    config.gridDim = dim3(1u << i);
    if (cudaOccupancyMaxActiveClusters(&of[i], kernel, &config) !=
        cudaSuccess) {
      of[i] = 0;
      cudaGetLastError();  // Of that call; there are other sizes.
    }
  }
}

}  // namespace strata::gpu
