// A unit's queries, brought to shared memory as products want them: a part of
// latent decode attention (latent_decode.cu).

#ifndef CUDA_OPS_DECODE_LATENT_QUERIES_CUH_
#define CUDA_OPS_DECODE_LATENT_QUERIES_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda/ops/decode/latent_units.cuh"

namespace strata::gpu::latent {

#if STRATA_SM90A

// Where chunk `at` of the block's queries, row by row, lies in shared memory.
constexpr int kQueryChunks = kLatentWidth / 8;  // Of a row.
template <typename S>
__device__ __forceinline__ uint4* QueryAt(int at, S& shared) {
  const int row = at / kQueryChunks, chunk = at % kQueryChunks;
  return reinterpret_cast<uint4*>(reinterpret_cast<char*>(shared.q[0]) +
                                  chunk / 8 * kBoxBytes +
                                  SwizzledBytes(row, chunk % 8));
}

// By threads of which this is the `thread`th: zeros, which wait for nothing,
// where there are fewer heads.
template <typename S>
__device__ __forceinline__ void ClearQueries(int heads, int thread, int threads,
                                             S& shared) {
  for (int at = heads * kQueryChunks + thread; at < kRows * kQueryChunks;
       at += threads) {
    *QueryAt(at, shared) = {0, 0, 0, 0};
  }
  FenceSharedStores();
}

// F32 queries, rounded, by both warpgroups that multiply, kBatch chunks of a
// thread on their way at a time.
template <int kBatch, typename S>
__device__ __forceinline__ void LoadQueries(const Args& args, const Unit& unit,
                                            S& shared) {
  const auto* const from = reinterpret_cast<const float4*>(
      args.q + (unit.token * args.num_heads + unit.head) * kLatentWidth);
  constexpr int kStride = 2 * kWarpgroup;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int all = unit.heads * kQueryChunks;
#pragma unroll 1
  for (int base = thread; base < all; base += kStride * kBatch) {
    float4 x[kBatch][2];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kStride;
      if (at >= all) continue;
      x[j][0] = from[2 * at];
      x[j][1] = from[2 * at + 1];
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kStride;
      if (at >= all) continue;
      *QueryAt(at, shared) = Narrow(x[j][0], x[j][1]);
    }
  }
  FenceSharedStores();
}

// BF16 queries, by one warp, as soon as those of the unit before have all their
// scores. Rows beyond the unit's heads are others' or no numbers: a row's
// results are of that row alone, and theirs are not stored.
__device__ __forceinline__ void LoadQueryBoxes(const Args& args,
                                               const Unit& unit,
                                               const CUtensorMap* map,
                                               Shared& shared) {
  Wait(&shared.queries_free, static_cast<uint32_t>(unit.turn % 2) ^ 1);
  if (threadIdx.x % 32 == 0) {
    ArriveExpecting(&shared.queries,
                    kBoxes * args.boxed_q * kSwizzleColumns * 2);
    const auto row = static_cast<int>(unit.token * args.num_heads + unit.head);
    for (int b = 0; b < kBoxes; ++b) {
      LoadBox(map, shared.q[b], &shared.queries, b * kSwizzleColumns, row, 0);
    }
  }
  __syncwarp();
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_QUERIES_CUH_
