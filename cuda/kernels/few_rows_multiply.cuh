// Products of a warp's 32 rows of packed weights by 8 or 16 rows of x, in BF16
// products of 16 x 8 x 16 with F32 sums.

#ifndef CUDA_KERNELS_FEW_ROWS_MULTIPLY_CUH_
#define CUDA_KERNELS_FEW_ROWS_MULTIPLY_CUH_

#include <cstdint>

#include "cuda/kernels/packed_chunk.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

__device__ __forceinline__ void MultiplyAdd(float (&d)[4],
                                            const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The sums of a chunk of 32 rows of w: thread (g, t) of a warp has rows g,
// g + 8, g + 16 and g + 24, and of d[m][u] those of rows 16 m + g and eight
// below for rows 8 u + 2 t and the next of x. `x(p, q, u)` are the thread's
// eight columns of a piece of a row.
template <int kBits, int kProducts, int kPieces, typename X>
__device__ __forceinline__ void AddChunk(const Chunk<kBits> (&row)[4],
                                         int group_shift, X x,
                                         float (&total)[2][kProducts][4]) {
  constexpr int kChunk = kChunkPieces<kBits>;
  float sum[2][kProducts][4];
#pragma unroll
  for (int p = 0; p < kChunk; ++p) {
    if (p == 0 || group_shift == 5 || (group_shift == 6 && p % 2 == 0)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[m][u][i] = 0;
        }
      }
    }
    uint4 b[kPieces][kProducts];
#pragma unroll
    for (int q = 0; q < kPieces; ++q) {
#pragma unroll
      for (int u = 0; u < kProducts; ++u) b[q][u] = x(p, q, u);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t a[2][4];  // [half of the rows]
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Chunk<kBits>& c = row[2 * m + half];
          const Zero<kBits> zero(c.Zero(p));
          const uint32_t word = c.code[WordOf<kBits>(p, j)];
          if (IsHigh<kBits>(p)) {
            a[m][half] = zero.template Integers<true>(word, 0);
            a[m][half + 2] = zero.template Integers<true>(word, 1);
          } else {
            a[m][half] = zero.template Integers<false>(word, 0);
            a[m][half + 2] = zero.template Integers<false>(word, 1);
          }
        }
      }
#pragma unroll
      for (int q = 0; q < kPieces; ++q) {
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
          const uint4& v = b[q][u];
          MultiplyAdd(sum[0][u], a[0], j == 0 ? v.x : v.z, j == 0 ? v.y : v.w);
          MultiplyAdd(sum[1][u], a[1], j == 0 ? v.x : v.z, j == 0 ? v.y : v.w);
        }
      }
    }
    if (p + 1 == kChunk || group_shift == 5 ||
        (group_shift == 6 && p % 2 == 1)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float upper = row[2 * m].Scale(p);
        const float lower = row[2 * m + 1].Scale(p);
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
          float(&to)[4] = total[m][u];
          to[0] = fmaf(upper, sum[m][u][0], to[0]);
          to[1] = fmaf(upper, sum[m][u][1], to[1]);
          to[2] = fmaf(lower, sum[m][u][2], to[2]);
          to[3] = fmaf(lower, sum[m][u][3], to[3]);
        }
      }
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_MULTIPLY_CUH_
