// What the blocks of decode attention (decode_kernel.cuh) do around their loop:
// which keys they have, and joining what pieces make.

#ifndef CUDA_OPS_HEADS_DECODE_PIECES_CUH_
#define CUDA_OPS_HEADS_DECODE_PIECES_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu::decode {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kKeysOfPiece = 64;  // At least, and a multiple of it.
constexpr int kMaxSplits = 64;
constexpr int64_t kProcessors = 132;  // Multiprocessors of a Hopper GPU.
struct Args {
  Extent tokens;
  // KV heads, each with `group` query heads: those of a block count as one.
  int num_heads = 1, num_kv_heads = 1, group = 1, splits = 1;
  int64_t row_bytes = 0, head_bytes = 0;  // Of the caches.
  float factor = 1;
  int64_t window = 0;
  bool ahead = false;  // Old keys are there before earlier kernels have ended.
  const float* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  Places places;
  float* partial = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  int32_t* ended = nullptr;
  float* o = nullptr;
  FaultSink fault;
};

// So many that each multiprocessor has a block: two beside each other, or more
// one after another, cost as much again to begin and to join, and are slower
// from 1 to 64 sequences.
inline int64_t SplitsOf(const DecodeAttentionArgs& args) {
  const int64_t pairs = std::max<int64_t>(
      1, args.tokens.bound * args.num_kv_heads / args.kv_heads_of_block);
  return std::clamp<int64_t>(
      std::min(kProcessors / pairs, CeilDiv(args.max_keys, kKeysOfPiece)), 1,
      kMaxSplits);
}

// Keys [begin, end) of this block; of its token, as many pieces have any.
struct Piece {
  int begin = 0, end = 0, pieces = 1;
  bool old = false;  // No kernel that still runs writes one of them.
};

__device__ __forceinline__ Piece PieceOf(const Args& args, int64_t token) {
  const auto keys = static_cast<int>(args.places.NumKeys(token, args.fault));
  const int first = args.window > 0 && args.window < keys
                        ? keys - static_cast<int>(args.window)
                        : 0;
  const int share = (keys - first + args.splits - 1) / args.splits;
  const int size =
      max(1, (share + kKeysOfPiece - 1) / kKeysOfPiece) * kKeysOfPiece;
  Piece piece;
  piece.pieces = max(1, (keys - first + size - 1) / size);
  piece.begin = min(first + static_cast<int>(blockIdx.y) * size, keys);
  piece.end = min(piece.begin + size, keys);
  piece.old = piece.end <= keys - args.tokens.bound;
  return piece;
}

// Whether all other blocks of `pieces` have been here before; then what they
// have written is there to be read, past L1. One thread speaks for its block.
__device__ __forceinline__ bool IsLast(int32_t* ended, int pieces) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ended, 1) == pieces - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The pieces of heads [head, head + group), counted over all tokens, by one
// block: a thread adds four columns of some pieces. The first of them are on
// their way while shares are made. `memory` is for (2 kMaxSplits + 4 kWarp) kQ
// + 4 kThreads floats.
template <int kDim, int kQ>
__device__ void JoinPieces(const Args& args, int64_t head, int pieces,
                           float* memory) {
  constexpr int kBatch = 16, kColumns = kDim / 4;
  const int columns = args.group * kColumns;
  const int parts = max(1, kThreads / columns);
  const int thread = static_cast<int>(threadIdx.x);
  const auto load = [&](int at, int first, float4(&x)[kBatch]) {
    const int h = at / kColumns, c = at % kColumns;
    const auto* const from = reinterpret_cast<const float4*>(args.partial) +
                             (head + h) * args.splits * kColumns + c;
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int s = first + j * parts;
      x[j] = s < pieces ? __ldcg(from + s * kColumns) : float4{0, 0, 0, 0};
    }
  };
  float* const share = memory;                 // [group, pieces]
  float* const sum = share + kQ * kMaxSplits;  // The same.
  auto* const added = reinterpret_cast<float4*>(sum + kQ * kMaxSplits);

  float4 x[kBatch];
  const int part = thread / columns;
  if (part < parts) load(thread % columns, part, x);
  __syncthreads();  // The last words of `memory` have been read.
  for (int i = thread; i < args.group * pieces; i += kThreads) {
    const int h = i / pieces;
    const int64_t from = (head + h) * args.splits + (i - h * pieces);
    share[i] = __ldcg(args.max + from);
    sum[i] = __ldcg(args.sum + from);
  }
  __syncthreads();
  for (int h = thread / kWarp; h < args.group; h += kWarps) {
    float largest = -INFINITY, total = 0;
    for (int s = h * pieces + Lane(); s < (h + 1) * pieces; s += kWarp) {
      largest = fmaxf(largest, share[s]);
    }
    largest = WarpMax(largest);
    for (int s = h * pieces + Lane(); s < (h + 1) * pieces; s += kWarp) {
      share[s] = exp2f(share[s] - largest);
      total = fmaf(sum[s], share[s], total);
    }
    total = WarpSum(total);
    for (int s = h * pieces + Lane(); s < (h + 1) * pieces; s += kWarp) {
      share[s] /= total;
    }
  }
  __syncthreads();
  for (int at = thread; at < columns * parts; at += kThreads) {
    const int column = at % columns, h = column / kColumns;
    float4 value = {0, 0, 0, 0};
    for (int s = at / columns; s < pieces; s += parts * kBatch) {
      if (at != thread || s != part) load(column, s, x);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int of = s + j * parts;
        const float w = of < pieces ? share[h * pieces + of] : 0.f;
        value = {fmaf(w, x[j].x, value.x), fmaf(w, x[j].y, value.y),
                 fmaf(w, x[j].z, value.z), fmaf(w, x[j].w, value.w)};
      }
    }
    auto* const to = reinterpret_cast<float4*>(args.o) + head * kColumns;
    if (parts == 1) to[at] = value;
    if (parts > 1) added[at] = value;
  }
  if (parts == 1) return;
  __syncthreads();
  if (thread >= columns) return;
  float4 value = added[thread];
  for (int i = 1; i < parts; ++i) {
    const float4 y = added[i * columns + thread];
    value = {value.x + y.x, value.y + y.y, value.z + y.z, value.w + y.w};
  }
  reinterpret_cast<float4*>(args.o)[head * kColumns + thread] = value;
}

}  // namespace strata::gpu::decode

#endif  // CUDA_OPS_HEADS_DECODE_PIECES_CUH_
