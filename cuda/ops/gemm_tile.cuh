// A tile of a matrix product in F32, by one block: what grouped products are
// made of.
//
//   c [64, 64] = a [64, k] * b [k, 64]
//
// An operand lies either with its inner extent (k) together, as rows of a
// product by w^T do, or with its outer extent together.

#ifndef CUDA_OPS_GEMM_TILE_CUH_
#define CUDA_OPS_GEMM_TILE_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kTile = 64;       // Rows and columns of c.
constexpr int kTileDepth = 16;  // Of k, at a time.
// Rows of 68 floats stay aligned to 16 bytes and begin 4 banks apart.
constexpr int kTilePitch = kTile + 4;

struct TileBuffers {
  float a[kTileDepth][kTilePitch];
  float b[kTileDepth][kTilePitch];
};

template <typename T>
__device__ __forceinline__ float ToFloat(T x) {
  return static_cast<float>(x);
}

// to[p][i] = element (i, p) of the operand at `from`, for i < left and p of
// [0, depth); zeros beyond. 256 threads, four elements each.
template <bool kInnerTogether, typename T>
__device__ __forceinline__ void LoadTile(const T* from, int64_t ld, int left,
                                         int depth, float (*to)[kTilePitch]) {
  if constexpr (kInnerTogether) {
    const int i = threadIdx.x / 4, p = threadIdx.x % 4 * 4;
    const T* const row = from + i * ld + p;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      to[p + j][i] = i < left && p + j < depth ? ToFloat(row[j]) : 0.f;
    }
  } else {
    const int p = threadIdx.x / 16, i = threadIdx.x % 16 * 4;
    const T* const row = from + p * ld + i;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      to[p][i + j] = i + j < left && p < depth ? ToFloat(row[j]) : 0.f;
    }
  }
}

// `a` and `b` stand at the tile's first row and column; `rows` and `columns` of
// it are there. Thread (x, y) of 16 x 16 makes a square of 4 x 4.
template <bool kAInnerTogether, bool kBInnerTogether, typename TB>
__device__ void GemmTile(TileBuffers& buffers, const float* a, int64_t lda,
                         const TB* b, int64_t ldb, int rows, int columns,
                         int64_t k, float* c, int64_t ldc) {
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  float sum[4][4] = {};
  for (int64_t p = 0; p < k; p += kTileDepth) {
    const int depth = static_cast<int>(min(k - p, int64_t{kTileDepth}));
    LoadTile<kAInnerTogether>(a + (kAInnerTogether ? p : p * lda), lda, rows,
                              depth, buffers.a);
    LoadTile<kBInnerTogether>(b + (kBInnerTogether ? p : p * ldb), ldb, columns,
                              depth, buffers.b);
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kTileDepth; ++q) {
      const float4 u = *reinterpret_cast<const float4*>(&buffers.a[q][y]);
      const float4 v = *reinterpret_cast<const float4*>(&buffers.b[q][x]);
      const float us[4] = {u.x, u.y, u.z, u.w};
      const float vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(us[i], vs[j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (y + i < rows && x + j < columns) c[(y + i) * ldc + x + j] = sum[i][j];
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_GEMM_TILE_CUH_
