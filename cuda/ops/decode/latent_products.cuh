// A unit's scores and values, by the two warpgroups that multiply: a part of
// latent decode attention (latent_decode.cu).

#ifndef CUDA_OPS_DECODE_LATENT_PRODUCTS_CUH_
#define CUDA_OPS_DECODE_LATENT_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda/ops/decode/latent_softmax.cuh"
#include "cuda/ops/decode/latent_units.cuh"

namespace strata::gpu::latent {

#if STRATA_SM90A

// The stage of tile `i`.
template <typename S>
__device__ __forceinline__ int StageOf(int i) {
  int stage = i % S::kStages;
  // The compiler is not to know it, as it does not of several stages.
  if constexpr (S::kStages == 1) asm volatile("" : "+r"(stage));
  return stage;
}

// o (+)= weights * columns of the keys of `stage`: the first half of them with
// the weights in the thread's registers, the second with those of shared
// memory.
template <typename S>
__device__ __forceinline__ void IssueFirstValues(
    const S& shared, int stage, bool add,
    const uint32_t (&weight)[kRows / 16][4], float (&o)[kHalf / 2]) {
  const uint64_t b = Describe(shared.keys[stage][0], kBoxBytes);
  BeginProducts();
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
    Multiply<kOuter>(o, weight[q], Advance(b, q * kStep16<kOuter>),
                     add || q > 0);
  }
  EndProducts();
}
template <typename S>
__device__ __forceinline__ void IssueOtherValues(S& shared, int stage, bool add,
                                                 float (&o)[kHalf / 2]) {
  const uint64_t a = Describe(shared.Weights());
  const uint64_t b =
      Describe(shared.keys[stage][kHalf / kSwizzleColumns], kBoxBytes);
  BeginProducts();
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
    Multiply<kInner, kOuter>(o, Advance(a, q * kStep16<kInner>),
                             Advance(b, q * kStep16<kOuter>), add || q > 0);
  }
  EndProducts();
}

__device__ __forceinline__ void Rescale(float (&o)[kHalf / 2], float upper,
                                        float lower) {
  if (__all_sync(0xffffffff, upper == 1.f && lower == 1.f)) return;
#pragma unroll
  for (int i = 0; i < kHalf / 2; ++i) o[i] *= i / 2 % 2 == 0 ? upper : lower;
}

// Results of a warpgroup's columns, times the shares that lie in shared memory.
template <typename S>
__device__ __forceinline__ void StoreValues(const Args& args, const Unit& unit,
                                            int half, int upper,
                                            const float (&o)[kHalf / 2],
                                            const S& shared) {
  const float* const shares = shared.share[unit.turn % 2];
  const float share[2] = {shares[upper], shares[upper + 8]};
  const int64_t row =
      (unit.token * args.num_heads + unit.head) * args.splits + unit.split;
  const int64_t first = row * kLatentRank + half * kHalf;
  if (args.rounded != nullptr) {
    StoreRows<kHalf>(o, share, unit.heads, kHalf, args.rounded + first,
                     kLatentRank);
    return;
  }
  float* const to = args.splits > 1 ? args.partial : args.o;
  StoreRows<kHalf>(o, share, unit.heads, kHalf, to + first,
                   int64_t{args.splits} * kLatentRank);
}

// Until a tile's box is there. Threads that round an F32 cache say so once, for
// all boxes.
template <bool kBf16, typename S>
__device__ __forceinline__ void WaitForBox(S& shared, int stage, int box,
                                           uint32_t parity) {
  Wait(&shared.full[stage][kBf16 ? box : 0], parity);
}

// score = queries * the keys of `stage`, box by box as they come.
template <bool kBf16, typename S>
__device__ __forceinline__ void IssueScores(S& shared, int stage,
                                            uint32_t parity,
                                            float (&score)[kRows / 2]) {
#pragma unroll
  for (int box = 0; box < kBoxes; ++box) {
    if (kBf16 || box == 0) WaitForBox<kBf16>(shared, stage, box, parity);
    if (box == 0) BeginProducts();
    const uint64_t a = Describe(shared.q[box]);
    const uint64_t b = Describe(shared.keys[stage][box]);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      Multiply<kInner, kInner>(score, Advance(a, q * kStep16<kInner>),
                               Advance(b, q * kStep16<kInner>), box + q > 0);
    }
  }
  EndProducts();
}

// One says for its warpgroup, to all blocks that write there, that its half of
// a stage is free.
__device__ __forceinline__ void Release(const Args& args, uint64_t* empty) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (thread >= args.blocks) return;
  if (args.blocks > 1) {
    ArriveAt(empty, thread);
  } else {
    Arrive(empty);
  }
}

// A warp of warpgroup 1 has no use for the unit's queries any more.
template <typename S>
__device__ __forceinline__ void FreeQueries(S& shared) {
  if (threadIdx.x % 32 == 0) Arrive(&shared.queries_free);
}

// A unit's scores and half of its values; `before` are the tiles of the units
// before.
template <bool kBf16, typename S>
__device__ __forceinline__ void Score(const Args& args, const Unit& unit,
                                      const Piece& piece, int before,
                                      S& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int upper = thread / 32 * 16 + thread % 32 / 4;
  const int tiles = piece.tiles();
  float score[kRows / 2], o[kHalf / 2];
#pragma unroll
  for (float& x : o) x = 0;
  Softmax softmax;
  if (kBf16 && tiles == 0) FreeQueries(shared);
  for (int i = 0; i < tiles; ++i) {
    const int stage = StageOf<S>(before + i);
    IssueScores<kBf16>(shared, stage,
                       static_cast<uint32_t>((before + i) / S::kStages % 2),
                       score);
    WaitForProducts<0>();
    if (kBf16 && i == tiles - 1) FreeQueries(shared);
    float keep[2];
    Weigh(score, args.factor, piece.end - piece.begin - i * kRows, softmax,
          keep);
    uint32_t weight[kRows / 16][4];
    Narrow(score, weight);
    const auto multiply = [&] {
      Rescale(o, keep[0], keep[1]);
      IssueFirstValues(shared, stage, i > 0, weight, o);
    };
    // Its own products need no shared memory. Where keys come slower than they
    // are multiplied, the others' are first: they free the tile later.
    if constexpr (kBf16) multiply();
    if (i > 0) {
      SyncThreads(kWeightsFree, 2 * kWarpgroup);
    } else if constexpr (S::kStages == 1) {
      SyncThreads(kScored, kWarpgroup);  // Weights go where its keys are.
    }
    StoreWeights(weight, upper, shared);
    if (thread % 4 == 0) {
      shared.keep[upper] = keep[0];
      shared.keep[upper + 8] = keep[1];
    }
    FenceSharedStores();
    ArriveThreads(kWeightsThere, 2 * kWarpgroup);
    if constexpr (!kBf16) multiply();
    WaitForProducts<0>();
    Release(args, &shared.empty[stage][0]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const int row = upper + 8 * half;
    if (thread % 4 != 0) continue;
    shared.share[unit.turn % 2][row] = args.splits > 1 ? 1.f
                                       : sum > 0       ? 1.f / sum
                                                       : 0.f;
    if (args.splits > 1 && row < unit.heads) {
      const int64_t to =
          (unit.token * args.num_heads + unit.head + row) * args.splits +
          unit.split;
      args.max[to] = softmax.max[half] * args.factor;
      args.sum[to] = sum;
    }
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, unit, /*half=*/0, upper, o, shared);
}

// The other half of its values.
template <bool kBf16, typename S>
__device__ __forceinline__ void Follow(const Args& args, const Unit& unit,
                                       const Piece& piece, int before,
                                       S& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int upper = thread / 32 * 16 + thread % 32 / 4;
  const int tiles = piece.tiles();
  float o[kHalf / 2];
#pragma unroll
  for (float& x : o) x = 0;
  for (int i = 0; i < tiles; ++i) {
    const int stage = StageOf<S>(before + i);
    const auto parity = static_cast<uint32_t>((before + i) / S::kStages % 2);
    SyncThreads(kWeightsThere, 2 * kWarpgroup);
    Rescale(o, shared.keep[upper], shared.keep[upper + 8]);
    // The copy engine's view of what threads wrote: each that multiplies has to
    // have seen the tile come.
#pragma unroll
    for (int box = kHalfBoxes; box < (kBf16 ? 2 * kHalfBoxes : kHalfBoxes + 1);
         ++box) {
      WaitForBox<kBf16>(shared, stage, box, parity);
    }
    IssueOtherValues(shared, stage, i > 0, o);
    WaitForProducts<0>();
    if (i < tiles - 1) ArriveThreads(kWeightsFree, 2 * kWarpgroup);
    Release(args, &shared.empty[stage][1]);
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, unit, /*half=*/1, upper, o, shared);
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_PRODUCTS_CUH_
