// x of few_rows.cu where it comes in pieces of attention: rows of shared memory
// are made of them by each block, or, where eight blocks multiply the same
// rows, by these together, as a cluster: pieces are read once then.

#ifndef CUDA_OPS_DECODE_FEW_ROWS_PIECES_CUH_
#define CUDA_OPS_DECODE_FEW_ROWS_PIECES_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

__device__ __forceinline__ uint2 Round(float4 x) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.z, x.w);
  return {*reinterpret_cast<const uint32_t*>(&low),
          *reinterpret_cast<const uint32_t*>(&high)};
}

constexpr int kMaxSplits = 64;

// share[s] = by what piece s of the token's head counts; by a warp.
__device__ inline void ShareOfPieces(const FewRowsArgs& a, int first,
                                     float* share) {
  float largest = -INFINITY, total = 0;
  float weight[kMaxSplits / kWarp];
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    const int s = j * kWarp + Lane();
    weight[j] = s < a.splits ? a.max[first + s] : -INFINITY;
    largest = fmaxf(largest, weight[j]);
  }
  largest = WarpMax(largest);
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    const int s = j * kWarp + Lane();
    weight[j] = weight[j] > -INFINITY ? exp2f(weight[j] - largest) : 0.f;
    if (s < a.splits) total = fmaf(a.sum[first + s], weight[j], total);
  }
  total = WarpSum(total);
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    share[j * kWarp + Lane()] = total > 0 ? weight[j] / total : 0.f;
  }
  __syncwarp();
}

// Rows of x from pieces of attention, rounded, by of_token warps each. A row
// with fewer columns than that has threads is made in parts, of every so many
// pieces. k is a multiple of 256, so that warps do the same.
__device__ inline void StageJoined(const FewRowsArgs& a, int of_token, int head,
                                   int heads, char* rows) {
  constexpr int kAtATime = 10;  // Pieces on their way to a thread.
  __shared__ float share_of[kWarpsPerBlock][kMaxSplits];
  __shared__ float4 part_of[kBlock];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int token = warp / of_token, threads = of_token * kWarp;
  const int thread = warp % of_token * kWarp + Lane();
  const int n = static_cast<int>(a.k) / 4;
  const int parts = max(1, threads / n), of_part = threads / parts;
  const int part = thread / of_part;
  const bool there = token < a.tokens.bound;
  const int piece = (token * heads + head) * a.splits;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + int64_t{piece} * a.k);
  float* const share = share_of[warp];
  bool has_share = false;
  const auto join = [&](int i) {
    float4 v = {0, 0, 0, 0};
    for (int base = part; base < a.splits; base += parts * kAtATime) {
      float4 of_piece[kAtATime];
#pragma unroll
      for (int j = 0; j < kAtATime; ++j) {
        const int s = base + j * parts;
        of_piece[j] = s < a.splits ? x[int64_t{s} * n + i] : float4{0, 0, 0, 0};
      }
      if (!has_share) ShareOfPieces(a, piece, share);
      has_share = true;
#pragma unroll
      for (int j = 0; j < kAtATime; ++j) {
        const int s = base + j * parts;
        const float w = s < a.splits ? share[s] : 0.f;
        v = {fmaf(w, of_piece[j].x, v.x), fmaf(w, of_piece[j].y, v.y),
             fmaf(w, of_piece[j].z, v.z), fmaf(w, of_piece[j].w, v.w)};
      }
    }
    return v;
  };
  char* const row = rows + token * RowBytes(a.k);
  if (parts == 1) {
    for (int i = thread; there && i < n; i += threads) {
      *reinterpret_cast<uint2*>(row + i * 8) = Round(join(i));
    }
    return;
  }
  const int i = thread % of_part;
  const bool works = there && i < n;
  if (works) part_of[threadIdx.x] = join(i);
  __syncthreads();
  if (!works || part > 0) return;
  float4 v = part_of[threadIdx.x];
  for (int p = 1; p < parts; ++p) {
    const float4 other = part_of[threadIdx.x + p * of_part];
    v = {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w};
  }
  *reinterpret_cast<uint2*>(row + i * 8) = Round(v);
}

// Blocks of a cluster that make rows together; columns of such a row.
constexpr int kJoiners = 8;
constexpr int kJoinedColumns = 512;

#if STRATA_SM90A

// To the same place in shared memory of block `rank` of the cluster.
__device__ __forceinline__ void StoreTo(void* p, uint32_t rank, uint2 value) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v2.u32 [remote], {%2, %3};\n"
      "}\n" ::"r"(SharedAddress(p)),
      "r"(rank), "r"(value.x), "r"(value.y)
      : "memory");
}

// The same rows in all blocks of the cluster, each of which makes a part of a
// row, of_row of them one, and sends it to all. The block's threads have pieces
// in turns. Others must have begun; a cluster's barrier has to follow.
__device__ inline void StageJoinedInCluster(const FewRowsArgs& a, int of_row,
                                            int head, int heads, char* rows) {
  constexpr int kAtATime = 8;  // Pieces on their way to a thread.
  constexpr int kVectors = kJoinedColumns / 4;
  __shared__ float share_of[kWarpsPerBlock][kMaxSplits];
  __shared__ float4 part_of[kBlock];
  const int rank = static_cast<int>(ClusterRank());
  const int token = rank / of_row;
  if (token >= a.tokens.bound) return;  // All of the block.
  const int thread = static_cast<int>(threadIdx.x);
  const int columns = kVectors / of_row, parts = kBlock / columns;
  const int part = thread / columns;
  const int i = rank % of_row * columns + thread % columns;
  const int piece = (token * heads + head) * a.splits;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + int64_t{piece} * kJoinedColumns);
  float* const share = share_of[thread / kWarp];
  float4 v = {0, 0, 0, 0};
  for (int base = 0; base < a.splits; base += parts * kAtATime) {
    float4 of_piece[kAtATime];
#pragma unroll
    for (int j = 0; j < kAtATime; ++j) {
      const int s = base + part + j * parts;
      of_piece[j] =
          s < a.splits ? x[int64_t{s} * kVectors + i] : float4{0, 0, 0, 0};
    }
    if (base == 0) ShareOfPieces(a, piece, share);
#pragma unroll
    for (int j = 0; j < kAtATime; ++j) {
      const int s = base + part + j * parts;
      const float w = s < a.splits ? share[s] : 0.f;
      v = {fmaf(w, of_piece[j].x, v.x), fmaf(w, of_piece[j].y, v.y),
           fmaf(w, of_piece[j].z, v.z), fmaf(w, of_piece[j].w, v.w)};
    }
  }
  part_of[thread] = v;
  __syncthreads();
  if (part > 0) return;
  for (int p = 1; p < parts; ++p) {
    const float4 other = part_of[thread + p * columns];
    v = {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w};
  }
  char* const to = rows + token * RowBytes(kJoinedColumns) + i * 8;
#pragma unroll
  for (int block = 0; block < kJoiners; ++block) StoreTo(to, block, Round(v));
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FEW_ROWS_PIECES_CUH_
