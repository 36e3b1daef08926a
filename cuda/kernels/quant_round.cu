#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_round.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kRoundThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 8;

// A thread eight columns at a time.
__global__ void __launch_bounds__(kRoundThreads)
    RoundKernel(Extent extent, int k, int padded, const float* x,
                __nv_bfloat16* y) {
  WaitForEarlier();
  LetLaterBegin();
  const int64_t pieces = padded / 8, all = extent.Get() * pieces;
  for (int64_t i = int64_t{blockIdx.x} * kRoundThreads + threadIdx.x; i < all;
       i += int64_t{gridDim.x} * kRoundThreads) {
    const int at = static_cast<int>(i % pieces) * 8;
    const float* const from = x + i / pieces * k + at;
    float v[8] = {};
    if (k % 4 == 0 && at + 8 <= k) {
      const float4 a = __ldg(reinterpret_cast<const float4*>(from));
      const float4 b = __ldg(reinterpret_cast<const float4*>(from) + 1);
      v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
      v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (at + j < k) v[j] = __ldg(from + j);
      }
    }
    *reinterpret_cast<uint4*>(y + i * 8) = RoundedEight(v);
  }
}

}  // namespace

int64_t RoundedElements(const QuantProductArgs& args) {
  return args.rows.bound * RoundedColumns(args.w);
}

cudaError_t RoundForProduct(const QuantProductArgs& args,
                            __nv_bfloat16* rounded, cudaStream_t stream) {
  const int64_t padded = RoundedColumns(args.w);
  const int64_t all = args.rows.bound * padded / 8;
  const int64_t blocks =
      std::min(kMaxBlocks, (all + kRoundThreads - 1) / kRoundThreads);
  return LaunchAhead(RoundKernel, dim3(static_cast<unsigned>(blocks)),
                     dim3(kRoundThreads), 0, stream, args.rows, args.w.k,
                     static_cast<int>(padded), args.x, rounded);
}

}  // namespace strata::gpu
