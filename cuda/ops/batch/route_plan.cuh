// The dispatch plan of up to 64 tokens, by a block: a stable sort of slots by
// expert. A token has an expert once, so which tokens an expert has is 64 bits,
// and a slot's place among its rows how many bits lie below the token's.

#ifndef CUDA_OPS_BATCH_ROUTE_PLAN_CUH_
#define CUDA_OPS_BATCH_ROUTE_PLAN_CUH_

#include <cstdint>

#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/device.cuh"

namespace strata::gpu {

constexpr int kMaxRoutedTokens = 64;

// In shared memory. First tokens are cleared, then noted with all experts that
// they have, then rows begin; barriers of the block lie between.
struct RoutePlan {
  int expert[kMaxRoutedTokens * kMaxChosen];               // [t, k]
  uint32_t tokens[kMaxOffered][kMaxRoutedTokens / kWarp];  // A bit a token.
  int32_t start[kMaxOffered];  // An expert's first row.
  int rows_of_warp[kMaxOffered / kWarp];

  __device__ __forceinline__ void Clear(int experts) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < 2 * experts;
         i += static_cast<int>(blockDim.x)) {
      tokens[i / 2][i % 2] = 0;
    }
  }

  __device__ __forceinline__ void Note(int token, int chosen) {
    atomicOr(&tokens[chosen][token / kWarp], 1u << token % kWarp);
  }

  __device__ __forceinline__ int RowsOf(int e) const {
    return __popc(tokens[e][0]) + __popc(tokens[e][1]);
  }

  // By a block with a thread an expert.
  __device__ __forceinline__ void StartRows(int experts) {
    const int e = static_cast<int>(threadIdx.x), warp = e / kWarp;
    const int rows = e < experts ? RowsOf(e) : 0;
    int before = rows;
    if (warp < kMaxOffered / kWarp) {
#pragma unroll
      for (int d = 1; d < kWarp; d *= 2) {
        const int other = __shfl_up_sync(kWholeWarp, before, d);
        if (Lane() >= d) before += other;
      }
      if (Lane() == kWarp - 1) rows_of_warp[warp] = before;
    }
    __syncthreads();
    if (e >= experts) return;
    before -= rows;
#pragma unroll
    for (int w = 0; w < kMaxOffered / kWarp; ++w) {
      if (w < warp) before += rows_of_warp[w];
    }
    start[e] = before;
  }

  // Of the token's slot that has expert e.
  __device__ __forceinline__ int RowOf(int token, int e) const {
    const uint32_t below = (1u << token % kWarp) - 1;
    const int row = start[e];
    return token < kWarp
               ? row + __popc(tokens[e][0] & below)
               : row + __popc(tokens[e][0]) + __popc(tokens[e][1] & below);
  }

  __device__ __forceinline__ void StoreOffsets(const ChooseExpertsArgs& a,
                                               int slots) const {
    const int e = static_cast<int>(threadIdx.x);
    if (e < a.num_experts) a.offset[e] = start[e];
    if (e == 0) a.offset[a.num_experts] = *a.rows = slots;
  }
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_ROUTE_PLAN_CUH_
