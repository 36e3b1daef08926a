// How kernels of norms spread rows over threads, which hold them in registers.
//
//   lane:        0   1  ...  t-1     t = 32, 128 or 256 threads a row
//   vector 0:    0   1  ...  t-1     each vector is one 16-byte load of F32
//   vector 1:    t  t+1 ... 2t-1
//     ...

#ifndef CUDA_OPS_RESIDUAL_ROW_TILE_CUH_
#define CUDA_OPS_RESIDUAL_ROW_TILE_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// kWarps warps share a row and each thread holds up to kVectors vectors of it.
// A block has at least four warps.
template <int kWarpsPerRow, int kVectorsPerThread>
struct RowTile {
  static constexpr int kWarps = kWarpsPerRow;
  static constexpr int kVectors = kVectorsPerThread;
  static constexpr int kThreadsPerRow = kWarps * kWarp;
  static constexpr int kRowsPerBlock = kWarps >= 4 ? 1 : 4 / kWarps;
  static constexpr int kThreads = kRowsPerBlock * kThreadsPerRow;

  static __device__ int64_t Row() {
    return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kThreadsPerRow;
  }
  static __device__ int Lane() { return threadIdx.x % kThreadsPerRow; }
  static unsigned Blocks(int64_t rows) {
    return static_cast<unsigned>((rows + kRowsPerBlock - 1) / kRowsPerBlock);
  }
};

using LargestRowTile = RowTile</*kWarpsPerRow=*/8, /*kVectorsPerThread=*/8>;

// Makes each of `value` its sum over the kWarps warps of a row, for each of
// their threads. Rows of more than one warp call it once a kernel, with whole
// blocks.
template <int kWarps, int kSums>
__device__ void SumOverRow(float (&value)[kSums]) {
#pragma unroll
  for (int s = 0; s < kSums; ++s) value[s] = WarpSum(value[s]);
  if constexpr (kWarps > 1) {
    __shared__ float warp_sum[kSums][kWarps];
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int s = 0; s < kSums; ++s) {
        warp_sum[s][threadIdx.x / kWarp] = value[s];
      }
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      value[s] = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) value[s] += warp_sum[s][warp];
    }
  }
}

// An element of the gradient through a norm, with slope = mean(dy * gain * x) *
// rstd^2. Rounded the same in every kernel, before anything is added to it.
__device__ __forceinline__ float NormInputGrad(float dy, float gain, float x,
                                               float slope, float rstd) {
  return __fmul_rn(rstd, fmaf(dy, gain, -__fmul_rn(x, slope)));
}

// Calls `launch` with the smallest tile that holds a row of num_vectors;
// returns cudaErrorNotSupported if none does.
template <typename Launch>
cudaError_t WithRowTile(int num_vectors, Launch launch) {
  if (num_vectors <= 1 * 32) return launch(RowTile<1, 1>());
  if (num_vectors <= 2 * 32) return launch(RowTile<1, 2>());
  if (num_vectors <= 4 * 32) return launch(RowTile<1, 4>());
  if (num_vectors <= 8 * 32) return launch(RowTile<1, 8>());
  if (num_vectors <= 4 * 128) return launch(RowTile<4, 4>());
  if (num_vectors <= 8 * 128) return launch(RowTile<4, 8>());
  if (num_vectors <= 8 * 256) return launch(LargestRowTile());
  return cudaErrorNotSupported;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_RESIDUAL_ROW_TILE_CUH_
