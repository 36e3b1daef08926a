#include <algorithm>
#include <cstdint>

#include "cuda/kernels/round_rows.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 16;

__device__ __forceinline__ uint32_t Pair(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A thread eight elements at a time.
__global__ void __launch_bounds__(kThreads)
    RoundKernel(Extent rows, int64_t pieces, const float4* x, uint4* y,
                bool zero_tail) {
  const int64_t there = rows.Get() * pieces;
  const int64_t all = zero_tail ? rows.bound * pieces : there;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < all;
       i += int64_t{gridDim.x} * kThreads) {
    uint4 rounded = {0, 0, 0, 0};
    if (i < there) {
      const float4 a = __ldcs(x + 2 * i), b = __ldcs(x + 2 * i + 1);
      rounded = {Pair(a.x, a.y), Pair(a.z, a.w), Pair(b.x, b.y),
                 Pair(b.z, b.w)};
    }
    y[i] = rounded;
  }
}

}  // namespace

cudaError_t RoundRows(Extent rows, int64_t columns, const float* x,
                      __nv_bfloat16* y, cudaStream_t stream, bool zero_tail) {
  const int64_t pieces = rows.bound * columns / 8;
  if (pieces == 0) return cudaSuccess;
  const int64_t blocks =
      std::min(kMaxBlocks, (pieces + kThreads - 1) / kThreads);
  RoundKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      rows, columns / 8, reinterpret_cast<const float4*>(x),
      reinterpret_cast<uint4*>(y), zero_tail);
  return cudaGetLastError();
}

}  // namespace strata::gpu
