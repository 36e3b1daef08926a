// What kernels do with a token's rotary columns and with its row of a cache:
// parts of latent_rows.cu and of batch_absorb.cu.

#ifndef CUDA_OPS_DECODE_LATENT_ROWS_CUH_
#define CUDA_OPS_DECODE_LATENT_ROWS_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/ops/cache/bf16_number.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_group.cuh"
#include "cuda/ops/decode/latent_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu::latent_rows {

// --- Rotary columns ---

// By what pair j of a token's rotary columns turns.
struct Angle {
  float cos, sin;
};
__device__ __forceinline__ Angle AngleOf(const LatentRowsArgs& a, int64_t token,
                                         int j) {
  const int64_t at = token * (a.rope / 2) + j;
  return {a.cos[at], a.sin[at]};
}

// An element of a query or of a cache's row. The operators that these kernels
// stand for round a sum with 0, of which -0 is none.
__device__ __forceinline__ void Put(float x, float& to) { to = x; }
__device__ __forceinline__ void Put(float x, __nv_bfloat16& to) {
  to = CachedBf16(x + 0.f);
}

// Where rotary columns begin: a head's query, and where it goes to turned; a
// token's key, and its bias.
__device__ __forceinline__ float* QueryTurns(const LatentRowsArgs& a,
                                             int64_t token, int head) {
  return a.q + (token * a.num_heads + head) * (a.nope + a.rope) + a.nope;
}
__device__ __forceinline__ float* TurnedQuery(const LatentRowsArgs& a,
                                              int64_t token, int head) {
  return a.absorbed + (token * a.num_heads + head) * (a.rank + a.rope) + a.rank;
}
__device__ __forceinline__ const float* KeyTurns(const LatentRowsArgs& a,
                                                 int64_t token) {
  return a.kv + token * (a.rank + a.rope) + a.rank;
}
__device__ __forceinline__ const float* KeyBias(const LatentRowsArgs& a) {
  return a.bias != nullptr ? a.bias + a.rank : nullptr;
}

// Pair j of the token's rotary columns: loaded, then turned and stored.
struct Pair {
  float x, y;
};
__device__ __forceinline__ int FirstOf(const LatentRowsArgs& a, int j) {
  return a.interleaved ? 2 * j : j;
}
__device__ __forceinline__ int SecondOf(const LatentRowsArgs& a, int j) {
  return a.interleaved ? 2 * j + 1 : j + a.rope / 2;
}
__device__ __forceinline__ Pair LoadPair(const LatentRowsArgs& a, int j,
                                         const float* from,
                                         const float* bias = nullptr) {
  Pair pair = {from[FirstOf(a, j)], from[SecondOf(a, j)]};
  if (bias != nullptr) {
    pair.x += bias[FirstOf(a, j)];
    pair.y += bias[SecondOf(a, j)];
  }
  return pair;
}
__device__ __forceinline__ Pair Turned(Angle angle, Pair pair) {
  return {pair.x * angle.cos - pair.y * angle.sin,
          pair.x * angle.sin + pair.y * angle.cos};
}
template <typename Element>
__device__ __forceinline__ void StoreTurned(const LatentRowsArgs& a,
                                            Angle angle, int j, Pair pair,
                                            Element* to) {
  const Pair turned = Turned(angle, pair);
  Put(turned.x, to[FirstOf(a, j)]);
  Put(turned.y, to[SecondOf(a, j)]);
}

// `from` and `to` may be one.
template <typename Element>
__device__ __forceinline__ void TurnPair(const LatentRowsArgs& a, Angle angle,
                                         int j, const float* from, Element* to,
                                         const float* bias = nullptr) {
  StoreTurned(a, angle, j, LoadPair(a, j, from, bias), to);
}

// --- The cache ---

// Elements of a cache in codes.
struct Code {
  uint8_t byte;
};
template <typename Element>
constexpr bool kIsCode = std::is_same_v<Element, Code>;

// Columns [32 g, 32 g + 32) to their place in a row in codes, by a warp, of
// which a lane has one.
__device__ __forceinline__ void PutGroup(const LatentRowsArgs& a, int group,
                                         float x, Code* row) {
  PackGroup(a.stored, x + 0.f,
            &row[group * PackedGroupBytes(a.stored.format)].byte);
}

// Row `to` of a cache of such elements, where the token goes; null if there is
// no such row.
template <typename Element>
__device__ __forceinline__ Element* CacheRow(const LatentRowsArgs& a,
                                             int64_t token, int64_t to) {
  if (to >= 0 && to < a.slots) {
    return static_cast<Element*>(a.cache) + to * a.pitch;
  }
  a.fault.Report(FaultKind::kCacheRow, token, to, a.slots);
  return nullptr;
}

// The first 512 columns of a row by a block: those of a thread.
constexpr int kOfThread = 2;

__device__ __forceinline__ void LoadGain(const LatentRowsArgs& a,
                                         float (&gain)[kOfThread]) {
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    gain[i] = c < a.rank ? a.gain[c] : 0.f;
  }
}

// The norm of the latent, by a block, whose gain LoadGain() has, to what
// find_row() says, null for nowhere, when all that is read is there.
template <typename Element, typename FindRow>
__device__ void StoreNorm(const LatentRowsArgs& a, int64_t token,
                          const float (&gain)[kOfThread], FindRow find_row) {
  const int width = a.rank + a.rope;
  const float* const from = a.kv + token * width;
  const auto at = [&](int c) {
    return a.bias != nullptr ? from[c] + a.bias[c] : from[c];
  };
  // The first 512 columns stay in registers; all are loaded, then added up.
  float x[kOfThread], bias[kOfThread];
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    x[i] = c < a.rank ? from[c] : 0.f;
    bias[i] = a.bias != nullptr && c < a.rank ? a.bias[c] : 0.f;
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    if (a.bias != nullptr) x[i] += bias[i];
    sum += x[i] * x[i];
  }
#pragma unroll 1
  for (int c = threadIdx.x + kOfThread * kBlock; c < a.rank; c += kBlock) {
    sum += at(c) * at(c);
  }
  const float scale =
      rsqrtf(BlockSum(sum) / static_cast<float>(a.rank) + a.eps);
  Element* const row = find_row();
  if (row == nullptr) return;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    if (c >= a.rank) continue;
    const float value = x[i] * scale * gain[i];
    if constexpr (kIsCode<Element>) {
      PutGroup(a, c / kPackedGroup, value, row);
    } else {
      Put(value, row[c]);
    }
  }
#pragma unroll 1
  for (int c = threadIdx.x + kOfThread * kBlock; c < a.rank; c += kBlock) {
    const float value = at(c) * scale * a.gain[c];
    if constexpr (kIsCode<Element>) {
      PutGroup(a, c / kPackedGroup, value, row);
    } else {
      Put(value, row[c]);
    }
  }
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    for (int64_t c = width + threadIdx.x; c < a.pitch; c += kBlock) {
      Put(0.f, row[c]);
    }
  }
}

// Column threadIdx.x of a token's rotary ones, with the pair that it is of.
struct KeyColumn {
  bool there = false, second = false;
  Angle angle = {1, 0};
  Pair pair = {0, 0};

  __device__ __forceinline__ KeyColumn(const LatentRowsArgs& a, int64_t token) {
    const int c = static_cast<int>(threadIdx.x), half = a.rope / 2;
    there = c < a.rope;
    if (!there) return;
    second = a.interleaved ? c % 2 != 0 : c >= half;
    const int j = a.interleaved ? c / 2 : second ? c - half : c;
    angle = AngleOf(a, token, j);
    pair = LoadPair(a, j, KeyTurns(a, token), KeyBias(a));
  }
  __device__ __forceinline__ float Get() const {
    if (!there) return 0;
    const Pair turned = Turned(angle, pair);
    return second ? turned.y : turned.x;
  }
};

// StoreNorm() with what is rotary, to a cache in codes.
template <typename FindRow>
__device__ __forceinline__ void StoreInCodes(const LatentRowsArgs& a,
                                             int64_t token,
                                             const float (&gain)[kOfThread],
                                             FindRow find_row) {
  const KeyColumn column(a, token);
  Code* row = nullptr;
  StoreNorm<Code>(a, token, gain, [&] {
    row = find_row();
    return row;
  });
  const int c = static_cast<int>(threadIdx.x);
  if (row == nullptr || c - Lane() >= a.rope) return;  // A whole warp.
  PutGroup(a, (a.rank + c) / kPackedGroup, column.Get(), row);
}

}  // namespace strata::gpu::latent_rows

#endif  // CUDA_OPS_DECODE_LATENT_ROWS_CUH_
