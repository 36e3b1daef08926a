// What kernels share: sizes of launches, sums over a warp and a block.

#ifndef CUDA_OPS_DEVICE_CUH_
#define CUDA_OPS_DEVICE_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime.h"

namespace strata::gpu {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffff;
// Of a block, unless a kernel says otherwise.
constexpr int kBlock = 256;
constexpr int kWarpsPerBlock = kBlock / kWarp;
// Blocks of a loop over elements or rows: enough to fill any GPU several times.
constexpr int64_t kMaxBlocks = 132 * 16;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of kBlock threads for `n` elements, `per_thread` to a thread at a
// time; kernels stride over what is left.
inline unsigned BlocksFor(int64_t n, int64_t per_thread = 1) {
  const int64_t blocks = CeilDiv(n, kBlock * per_thread);
  return static_cast<unsigned>(
      std::min(kMaxBlocks, std::max<int64_t>(1, blocks)));
}

// The same for a warp a row.
inline unsigned BlocksForRows(int64_t rows) { return BlocksFor(rows * kWarp); }

// Index and stride of a loop over elements, and over rows by warps.
__device__ __forceinline__ int64_t FirstElement() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t ElementStride() {
  return int64_t{gridDim.x} * blockDim.x;
}
__device__ __forceinline__ int64_t FirstRow() { return FirstElement() / kWarp; }
__device__ __forceinline__ int64_t RowStride() {
  return ElementStride() / kWarp;
}
__device__ __forceinline__ int Lane() { return threadIdx.x % kWarp; }

// Over kLanes neighbouring lanes, a power of two, to all of them.
template <int kLanes, typename T>
__device__ __forceinline__ T LanesSum(T value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, offset);
  }
  return value;
}

template <int kLanes>
__device__ __forceinline__ float LanesMax(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, offset));
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T WarpSum(T value) {
  return LanesSum<kWarp>(value);
}

__device__ __forceinline__ float WarpMax(float value) {
  return LanesMax<kWarp>(value);
}

// The sum over a block of kBlock threads, to all of them, in a fixed order.
// Ends with a barrier, so that calls may follow each other.
template <typename T>
__device__ T BlockSum(T value) {
  __shared__ T warp_sum[kWarpsPerBlock];
  value = WarpSum(value);
  if (Lane() == 0) warp_sum[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarpsPerBlock; ++warp) sum += warp_sum[warp];
  __syncthreads();
  return sum;
}

// 1 / (1 + exp(-x)), with exp's full precision.
__device__ __forceinline__ float SigmoidOf(float x) {
  return 1.f / (1.f + expf(-x));
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DEVICE_CUH_
