// Products of a block's tokens with a gate's experts in tensor cores, where
// both lie in shared memory:
//
//   a [n, k]  tokens' rows      b [m, k]  experts'
//     |
//     |  a warp 16 rows of a by 8 of b
//     v
//   c [n, m]
//
// Floats are split into as many BF16 as a template says: three make a product
// as exact as F32's own (tier_gate.h). Within 16 of k a lane's four lie
// together; the order is a's and b's alike, so sums are the same.

#ifndef CUDA_OPS_GATE_PRODUCTS_CUH_
#define CUDA_OPS_GATE_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kTileRows = 16, kTileColumns = 8, kTileDepth = 16;

// Two floats' BF16 in a register, the first low, and what that leaves of them.
__device__ __forceinline__ uint32_t TakePiece(float& x, float& y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  x -= __low2float(pair);
  y -= __high2float(pair);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// sum [16, 8] += a [16, 16] b [16, 8], by a warp.
__device__ __forceinline__ void MultiplyTile(float (&sum)[4],
                                             const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// How experts' rows are multiplied: each by a token's row, or added up by it.
enum class ExpertOrder { kAlong, kAcross };

// Rows in shared memory, `pitch` floats apart, which is even.
struct SharedRows {
  const float* at;
  int pitch;
  int rows;
};

// c [n, columns] = a b^T, or a b if kAcross, for up to 32 rows of a, plus
// `add`, which lies like c, if it is not null. By the warps of a block from
// number `first_warp` on, a tile each, and round. Tiles' rows behind the last
// of a or b are that one; k and columns are whole tiles, with zeros in a and b
// behind what they have of k.
//
// Not inlined: a gate has four of these, and they would be most of its code.
template <int kPieces, ExpertOrder kOrder>
__device__ __noinline__ void MultiplyRows(SharedRows a, SharedRows b, int k,
                                          const float* add, float* c,
                                          int c_pitch, int columns,
                                          int first_warp) {
  const int two = a.rows > kTileRows;  // Rows of tiles, less one.
  const int jobs = (1 + two) * (columns / kTileColumns);
  const int warps = blockDim.x / kWarp;
  const int warp = threadIdx.x / kWarp - first_warp;
#pragma unroll 1
  for (int job = warp < 0 ? warp + warps : warp; job < jobs; job += warps) {
    const int row = (job & two) * kTileRows + Lane() / 4;
    const int column = (job >> two) * kTileColumns;
    const int part = Lane() % 4 * 4;
    const float* upper = a.at + min(row, a.rows - 1) * a.pitch + part;
    const float* lower = a.at + min(row + 8, a.rows - 1) * a.pitch + part;
    const int across = column + Lane() / 4;
    const float* other = kOrder == ExpertOrder::kAlong
                             ? b.at + min(across, b.rows - 1) * b.pitch + part
                             : b.at + part * b.pitch + across;
    float sum[4] = {}, small[4] = {};  // Of pieces whose products are small.
#pragma unroll 2
    for (int i = 0; i < k; i += kTileDepth) {
      float4 x = *reinterpret_cast<const float4*>(upper + i);
      float4 y = *reinterpret_cast<const float4*>(lower + i);
      float4 z;
      if (kOrder == ExpertOrder::kAlong) {
        z = *reinterpret_cast<const float4*>(other + i);
      } else {
        const float* const at = other + i * b.pitch;
        z = {at[0], at[b.pitch], at[2 * b.pitch], at[3 * b.pitch]};
      }
      uint32_t of_a[kPieces][4], of_b[kPieces][2];
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        of_a[p][0] = TakePiece(x.x, x.y);
        of_a[p][1] = TakePiece(y.x, y.y);
        of_a[p][2] = TakePiece(x.z, x.w);
        of_a[p][3] = TakePiece(y.z, y.w);
        of_b[p][0] = TakePiece(z.x, z.y);
        of_b[p][1] = TakePiece(z.z, z.w);
      }
#pragma unroll
      for (int both = kPieces - 1; both >= 0; --both) {
#pragma unroll
        for (int p = 0; p <= both; ++p) {
          MultiplyTile(both == 2 ? small : sum, of_a[p], of_b[both - p]);
        }
      }
    }
    const int to = row * c_pitch + column + Lane() % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= a.rows) continue;
      const int at = to + 8 * half * c_pitch;
      float2 all = {sum[2 * half] + small[2 * half],
                    sum[2 * half + 1] + small[2 * half + 1]};
      if (add != nullptr) {
        const float2 more = *reinterpret_cast<const float2*>(add + at);
        all = {all.x + more.x, all.y + more.y};
      }
      *reinterpret_cast<float2*>(c + at) = all;
    }
  }
}

// c [m, columns] = a^T b, plus what is there if `adds`, for a [k, m] and
// b [k, columns]: sums over a block's tokens. k is whole tiles; m and columns
// may be any, `columns` even, where a and b have whole tiles' columns.
template <int kPieces>
__device__ __noinline__ void MultiplyColumns(SharedRows a, SharedRows b, int m,
                                             int columns, bool adds, float* c,
                                             int first_warp) {
  const int tall = (m + kTileRows - 1) / kTileRows;
  const int jobs = tall * ((columns + kTileColumns - 1) / kTileColumns);
  const int warps = blockDim.x / kWarp;
  const int warp = threadIdx.x / kWarp - first_warp;
#pragma unroll 1
  for (int job = warp < 0 ? warp + warps : warp; job < jobs; job += warps) {
    const int row = job % tall * kTileRows + Lane() / 4;
    const int column = job / tall * kTileColumns;
    const int part = Lane() % 4 * 4;
    const float* const left = a.at + part * a.pitch + row;
    const float* const right = b.at + part * b.pitch + column + Lane() / 4;
    float sum[4] = {}, small[4] = {};
#pragma unroll 1
    for (int i = 0; i < a.rows; i += kTileDepth) {
      const float* const x = left + i * a.pitch;
      const float* const z = right + i * b.pitch;
      float upper[4], lower[4], other[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        upper[j] = x[j * a.pitch];
        lower[j] = x[j * a.pitch + 8];
        other[j] = z[j * b.pitch];
      }
      uint32_t of_a[kPieces][4], of_b[kPieces][2];
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        of_a[p][0] = TakePiece(upper[0], upper[1]);
        of_a[p][1] = TakePiece(lower[0], lower[1]);
        of_a[p][2] = TakePiece(upper[2], upper[3]);
        of_a[p][3] = TakePiece(lower[2], lower[3]);
        of_b[p][0] = TakePiece(other[0], other[1]);
        of_b[p][1] = TakePiece(other[2], other[3]);
      }
#pragma unroll
      for (int both = kPieces - 1; both >= 0; --both) {
#pragma unroll
        for (int p = 0; p <= both; ++p) {
          MultiplyTile(both == 2 ? small : sum, of_a[p], of_b[both - p]);
        }
      }
    }
    const int to = column + Lane() % 4 * 2;
    if (to >= columns) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= m) continue;
      float2* const at =
          reinterpret_cast<float2*>(c + (row + 8 * half) * columns + to);
      float2 all = {sum[2 * half] + small[2 * half],
                    sum[2 * half + 1] + small[2 * half + 1]};
      if (adds) all = {all.x + at->x, all.y + at->y};
      *at = all;
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_PRODUCTS_CUH_
