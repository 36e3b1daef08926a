// 16 rows of a BF16 weight times up to eight rows of BF16, by a warp. The
// weight is the left operand of mma.m16n8k16, the rows are the right one. What
// is summed over may come in any order, as long as both sides agree: a lane
// takes 16 bytes that lie together for two products at a time.
//
//   lane 4 g + c   weight rows g and g + 8, row g of the others, of each 32
//                  columns those from 8 c on
//   results        weight rows g (d[0], d[1]) and g + 8 (d[2], d[3]) of the
//                  others' rows 2 c and 2 c + 1

#ifndef CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_
#define CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kTileRows = 16;     // Of a weight.
constexpr int kTileTokens = 8;    // Rows of the others.
constexpr int kTileColumns = 32;  // Of a step.
constexpr int kStepsAhead = 8;    // Whose weights are on their way.

__device__ __forceinline__ void MultiplyTile(float (&d)[4], uint4 upper,
                                             uint4 lower, uint4 x) {
  const auto multiply = [&](uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                            uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, "
        "%3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  };
  multiply(upper.x, lower.x, upper.y, lower.y, x.x, x.y);
  multiply(upper.z, lower.z, upper.w, lower.w, x.z, x.w);
}

// The weights of the next steps of a lane.
struct StepsAhead {
  const uint4* upper;
  const uint4* lower;
  uint4 next_upper[kStepsAhead], next_lower[kStepsAhead];

  // Of the steps from `base` on.
  __device__ __forceinline__ void Load(int base, int steps) {
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) {
      if (base + i < steps) {
        next_upper[i] = __ldcs(upper + (base + i) * (kTileColumns / 8));
        next_lower[i] = __ldcs(lower + (base + i) * (kTileColumns / 8));
      }
    }
  }
};

// d += of `steps` steps, the first of which are in `w` already; x(step) is the
// lane's 16 bytes of the others' rows.
template <typename X>
__device__ __forceinline__ void MultiplySteps(StepsAhead& w, int steps, X x,
                                              float (&d)[4]) {
  for (int base = 0; base < steps; base += kStepsAhead) {
    uint4 b[kStepsAhead];
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) {
      if (base + i < steps) b[i] = x(base + i);
    }
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) {
      if (base + i < steps) {
        MultiplyTile(d, w.next_upper[i], w.next_lower[i], b[i]);
      }
    }
    if (base + kStepsAhead < steps) w.Load(base + kStepsAhead, steps);
  }
}

// A warp's results, where `sums` [warps][16][8] are added up.
__device__ __forceinline__ void StoreTile(
    const float (&d)[4], float (&sums)[kTileRows][kTileTokens]) {
  const int g = Lane() / 4, c = Lane() % 4;
  sums[g][2 * c] = d[0];
  sums[g][2 * c + 1] = d[1];
  sums[g + 8][2 * c] = d[2];
  sums[g + 8][2 * c + 1] = d[3];
}

__device__ __forceinline__ float SumOfWarps(
    const float (&sums)[kWarpsPerBlock][kTileRows][kTileTokens], int row,
    int token) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarpsPerBlock; ++w) sum += sums[w][row][token];
  return sum;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_
