// What a gate does with tokens whose projections are in shared memory: coarse
// filter, attention to the experts that are left, choice and weights. By a
// block, up to 32 tokens at a time:
//
//   signature       [tokens, G]    of the energies; query [tokens, r]
//     | tensor cores                              coarse = signature key^T
//   coarse, scores  [tokens, E]                   scores = query expert_key^T
//     | half a warp a token: the best `keep`, softmax over them
//   attention       [tokens, E]    in place of scores
//     | tensor cores               refined = query + attention expert_value
//     | tensor cores               p = sigmoid(refined embedding^T (+ coarse))
//   p               [tokens, E]    in place of attention
//     | half a warp a token
//   expert, stay, weight
//
// A whole warp a token above 64 experts. Experts that do not fit into shared
// memory are multiplied by plain loops. Bound by the number of instructions
// that a warp takes for its tokens, and by how each waits for the last.

#ifndef CUDA_OPS_TIER_GATE_CUH_
#define CUDA_OPS_TIER_GATE_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/energy.cuh"
#include "cuda/ops/gate_products.cuh"
#include "cuda/ops/gate_tokens.cuh"
#include "cuda/ops/tier_gate.h"
#include "cuda_bf16.h"
#include "cuda_pipeline.h"

namespace strata::gpu {

constexpr int kGateThreads = 512;
constexpr int kGateWarps = kGateThreads / kWarp;

// Columns of a row in shared memory: whole tiles of products, zeros behind what
// there is.
__host__ __device__ constexpr int GatePadded(int n) {
  return (n + kTileDepth - 1) / kTileDepth * kTileDepth;
}
// Floats from row to row: two rows' 16 lie in different banks.
__host__ __device__ constexpr int GatePitch(int n) {
  return GatePadded(n) % 32 == 16 ? GatePadded(n) : GatePadded(n) + 16;
}

// Where the rows lie, in floats from the first; and what of the experts lies in
// shared memory as well.
struct GateLayout {
  int rows = 1;
  int energy = 0, query = 0, signature = 0, coarse = 0, score = 0, refined = 0;
  int order = 0, left = 0, count = 0;
  int row_floats = 0;  // All of these.
  int key = 0, expert_embedding = 0, expert_key = 0, expert_value = 0, bias = 0;
  int expert_floats = 0;

  __host__ static GateLayout Of(const TierGateArgs& a, int rows) {
    GateLayout l;
    l.rows = rows;
    int at = 0;
    const auto take = [&at](int floats) {
      const int first = at;
      at += (floats + 3) / 4 * 4;
      return first;
    };
    l.energy = take(a.has_energies ? rows * GatePitch(a.energies) : 0);
    l.query = take(rows * GatePitch(a.r));
    l.signature = take(rows * GatePitch(a.groups));
    l.coarse = take(rows * GatePitch(a.experts));
    l.score = take(rows * GatePitch(a.experts));
    l.refined = take(rows * GatePitch(a.r));
    l.order = take(rows * GatePitch(a.experts));
    l.left = take(rows * kWarp / 2);
    l.count = take(a.experts);
    l.row_floats = at;
    at = 0;
    l.key = take(a.experts * GatePitch(a.groups));
    l.expert_embedding = take(a.experts * GatePitch(a.r));
    l.expert_key = take(a.experts * GatePitch(a.r));
    l.expert_value = take(GatePadded(a.experts) * GatePitch(a.r));
    l.bias = take(a.bias != nullptr ? a.experts : 0);
    l.expert_floats = at;
    return l;
  }
};

// rows [n, columns] to shared memory, with zeros up to whole tiles, a warp a
// row. They come without waiting: WaitForGateRows(), and a barrier, before they
// are read.
__device__ __forceinline__ void LoadGateRows(const float* from, int n,
                                             int columns, float* to) {
  const int pitch = GatePitch(columns), padded = GatePadded(columns);
#pragma unroll 1
  for (int row = threadIdx.x / kWarp; row < n; row += kGateWarps) {
    const float* const source = from + int64_t{row} * columns;
    float* const target = to + row * pitch;
    if (columns % kTileDepth == 0) {
#pragma unroll 1
      for (int c = Lane() * 4; c < columns; c += kWarp * 4) {
        __pipeline_memcpy_async(target + c, source + c, sizeof(float4));
      }
    } else {
#pragma unroll 1
      for (int c = Lane(); c < padded; c += kWarp) {
        target[c] = c < columns ? source[c] : 0.f;
      }
    }
  }
}

__device__ __forceinline__ void WaitForGateRows() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// Keys of experts likewise, which training may hold in BF16.
__device__ __forceinline__ void LoadKeys(const TierGateArgs& a, float* to) {
  if (a.bf16_key == nullptr) {
    LoadGateRows(a.key, a.experts, a.groups, to);
    return;
  }
  const int pitch = GatePitch(a.groups), padded = GatePadded(a.groups);
#pragma unroll 1
  for (int i = threadIdx.x; i < a.experts * padded; i += kGateThreads) {
    const int row = i / padded, c = i % padded;
    to[row * pitch + c] =
        c < a.groups ? __bfloat162float(a.bf16_key[row * a.groups + c]) : 0.f;
  }
}

// All of the experts' side to where the layout has it.
__device__ __forceinline__ void LoadExperts(const TierGateArgs& a,
                                            const GateLayout& l,
                                            float* memory) {
  LoadKeys(a, memory + l.key);
  LoadGateRows(a.expert_embedding, a.experts, a.r, memory + l.expert_embedding);
  LoadGateRows(a.expert_key, a.experts, a.r, memory + l.expert_key);
  LoadGateRows(a.expert_value, a.experts, a.r, memory + l.expert_value);
  // No experts, so that products over experts may be of whole tiles.
  float* const beyond = memory + l.expert_value + a.experts * GatePitch(a.r);
  const int floats = (GatePadded(a.experts) - a.experts) * GatePitch(a.r);
#pragma unroll 1
  for (int i = threadIdx.x; i < floats; i += kGateThreads) beyond[i] = 0;
  if (a.bias == nullptr) return;
#pragma unroll 1
  for (int e = threadIdx.x; e < a.experts; e += kGateThreads) {
    __pipeline_memcpy_async(memory + l.bias + e, a.bias + e, sizeof(float));
  }
}

// --- Products with experts that are not in shared memory ---

// store(i, j, dot of row i of a and row j of b) for all i < n, j < columns. A
// thread does two rows by three columns at a time.
template <typename Store>
__device__ __forceinline__ void DotRows(const float* a, int pitch, int n,
                                        const float* b, int b_pitch,
                                        int columns, int length, Store store) {
  constexpr int kRows = 2, kColumns = 3;
  const int width = (columns + kColumns - 1) / kColumns;
  const int units = (n + kRows - 1) / kRows * width;
  for (int unit = threadIdx.x; unit < units; unit += kGateThreads) {
    const int first = unit / width * kRows, column = unit % width;
    const float* row[kRows];
    const float* other[kColumns];
    float sum[kRows][kColumns] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = a + min(first + i, n - 1) * pitch;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      other[j] = b + int64_t{min(column + j * width, columns - 1)} * b_pitch;
    }
    for (int c = 0; c < length; ++c) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const float y = other[j][c];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          sum[i][j] = fmaf(row[i][c], y, sum[i][j]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int to = column + j * width;
        if (first + i < n && to < columns) store(first + i, to, sum[i][j]);
      }
    }
  }
}

// refined [n, r] = query + attention [n, experts] value [experts, r].
__device__ __forceinline__ void MixValues(const float* query,
                                          const float* attention, int pitch,
                                          const float* value, int n,
                                          int experts, int r, float* refined) {
  const int wide = GatePitch(r);
  for (int unit = threadIdx.x; unit < n * r; unit += kGateThreads) {
    const int i = unit / r, c = unit % r;
    float sum = 0;
    for (int e = 0; e < experts; ++e) {
      sum = fmaf(attention[i * pitch + e], value[int64_t{e} * r + c], sum);
    }
    refined[i * wide + c] = query[i * wide + c] + sum;
  }
}

// --- A tile ---

// The signature of a row of energies, with zeros behind its groups, by a warp.
inline __device__ __noinline__ void SignRow(const float* row, int groups,
                                            int64_t width, float* signature) {
  Signature(row, groups, width, signature, signature);
  for (int g = groups + Lane(); g < GatePadded(groups); g += kWarp) {
    signature[g] = 0;
  }
}

// Calls fn(i, whether there is such a token) for this lane's of `n` tokens;
// lanes without one take part in the last one's. Warps are whole behind it.
template <int kLanes, typename Fn>
__device__ __forceinline__ void ForTokens(int n, Fn fn) {
  constexpr int kAtOnce = kWarp / kLanes;
#pragma unroll 1
  for (int first = threadIdx.x / kWarp * kAtOnce; first < n;
       first += kGateWarps * kAtOnce) {
    const int i = first + Lane() / kLanes;
    fn(min(i, n - 1), i < n);
    __syncwarp();
  }
}

// The energies and queries of tokens `first` and on, `n` of them, of
// a.token, and their signatures; zeros for those behind them, of `rows`. Ends
// without a barrier.
template <typename Layout>
__device__ __forceinline__ void LoadTokens(const TierGateArgs& a,
                                           const Layout& l, float* memory,
                                           int64_t first, int n, int rows) {
  const int first_query = a.projected - a.r;
  const int energy_pitch = GatePitch(a.energies), query_pitch = GatePitch(a.r);
  const int query_columns = GatePadded(a.r);
  const float* const token = a.token + first * a.projected;
  if (a.has_energies) {
    for (int i = threadIdx.x; i < rows * a.energies; i += kGateThreads) {
      const int row = i / a.energies, c = i % a.energies;
      memory[l.energy + row * energy_pitch + c] =
          row < n ? token[row * a.projected + c] : 0.f;
    }
  }
  for (int i = threadIdx.x; i < rows * query_columns; i += kGateThreads) {
    const int row = i / query_columns, c = i % query_columns;
    memory[l.query + row * query_pitch + c] =
        row < n && c < a.r ? token[row * a.projected + first_query + c] : 0.f;
  }
  __syncthreads();
  ForTokens<kWarp>(rows, [&](int i, bool) {
    SignRow(a.has_energies ? memory + l.energy + i * energy_pitch
                           : a.x + (first + min(i, n - 1)) * a.d,
            a.groups, a.energies / a.groups,
            memory + l.signature + i * GatePitch(a.groups));
  });
}

// What a gate that is not trained has to do with a token besides.
struct NothingElse {
  __device__ void operator()(int, bool, uint32_t, const float*,
                             const float*) const {}
};

// Tokens `first` and on, `n` of them, whose signatures and queries lie in
// `memory` as the layout says; experts, if they are `kShared`, in
// `expert_memory`. Before a token is chosen for, its lanes call also(i, whether
// there is such a token, who of a lane's experts is left, products with all
// experts, coarse scores). Begins and ends with a barrier.
template <int kLanes, int kPerLane, int kPieces, bool kShared,
          typename Also = NothingElse>
__device__ __forceinline__ void ChooseTile(const TierGateArgs& a,
                                           const GateLayout& l, float* memory,
                                           const float* expert_memory,
                                           int64_t first, int n,
                                           const Also& also = Also()) {
  const int num_experts = a.experts, padded = GatePadded(num_experts);
  const int wide = GatePitch(a.r), tall = GatePitch(num_experts);
  const int pitch = GatePitch(a.groups);
  float* const signature = memory + l.signature;
  float* const coarse = memory + l.coarse;
  float* const score = memory + l.score;
  float* const refined = memory + l.refined;
  const float* const query = memory + l.query;
  const float* const bias =
      kShared && a.bias != nullptr ? expert_memory + l.bias : a.bias;
  auto* const order = reinterpret_cast<int*>(memory + l.order);
  auto* const left = reinterpret_cast<uint16_t*>(memory + l.left);
  auto* const count = reinterpret_cast<int*>(memory + l.count);
  if (kShared) WaitForGateRows();
  __syncthreads();
  if constexpr (kShared) {
    const int jobs = (n + kTileRows - 1) / kTileRows * padded / kTileColumns;
    MultiplyRows<kPieces, ExpertOrder::kAlong>(
        {signature, pitch, n}, {expert_memory + l.key, pitch, num_experts},
        GatePadded(a.groups), nullptr, coarse, tall, padded,
        /*first_warp=*/0);
    MultiplyRows<kPieces, ExpertOrder::kAlong>(
        {query, wide, n}, {expert_memory + l.expert_key, wide, num_experts},
        GatePadded(a.r), nullptr, score, tall, padded,
        /*first_warp=*/jobs % kGateWarps);
  } else {
    DotRows(signature, pitch, n, a.key, a.groups, num_experts, a.groups,
            [&](int i, int e, float sum) { coarse[i * tall + e] = sum; });
    DotRows(query, wide, n, a.expert_key, a.r, num_experts, a.r,
            [&](int i, int e, float sum) { score[i * tall + e] = sum; });
  }
  __syncthreads();
  ForTokens<kLanes>(n, [&](int i, bool there) {
    const uint32_t bits = FilterToken<kLanes, kPerLane>(
        a, bias, coarse + i * tall, padded, there, score + i * tall);
    if (there) left[i * kWarp + Lane() % kLanes] = bits;
  });
  __syncthreads();
  if constexpr (kShared) {
    MultiplyRows<kPieces, ExpertOrder::kAcross>(
        {score, tall, n}, {expert_memory + l.expert_value, wide, a.r}, padded,
        query, refined, wide, GatePadded(a.r), 0);
  } else {
    MixValues(query, score, tall, a.expert_value, n, num_experts, a.r, refined);
  }
  __syncthreads();
  if constexpr (kShared) {
    MultiplyRows<kPieces, ExpertOrder::kAlong>(
        {refined, wide, n},
        {expert_memory + l.expert_embedding, wide, num_experts},
        GatePadded(a.r), nullptr, score, tall, padded, 0);
  } else {
    DotRows(refined, wide, n, a.expert_embedding, a.r, num_experts, a.r,
            [&](int i, int e, float sum) { score[i * tall + e] = sum; });
  }
  __syncthreads();
  ForTokens<kLanes>(n, [&](int i, bool there) {
    const uint32_t mine = left[i * kWarp + Lane() % kLanes];
    also(i, there, mine, score + i * tall, coarse + i * tall);
    SelectToken<kLanes, kPerLane>(a, bias, score + i * tall, coarse + i * tall,
                                  mine, there, first + i, order + i * tall,
                                  count);
  });
  __syncthreads();
}

// Of a tile of args.tile_tokens: before its first tokens are chosen for, and
// after the last. No barrier but those of ChooseTile() is between.
__device__ __forceinline__ void ClearCounts(const TierGateArgs& a,
                                            const GateLayout& l,
                                            float* memory) {
  auto* const count = reinterpret_cast<int*>(memory + l.count);
#pragma unroll 1
  for (int e = threadIdx.x; e < a.experts; e += kGateThreads) count[e] = 0;
}
__device__ __forceinline__ void StoreCounts(const TierGateArgs& a,
                                            const GateLayout& l,
                                            const float* memory, int64_t tile) {
  const auto* const count = reinterpret_cast<const int*>(memory + l.count);
#pragma unroll 1
  for (int e = threadIdx.x; e < a.experts; e += kGateThreads) {
    a.count[tile * a.experts + e] = static_cast<uint16_t>(count[e]);
  }
}

// Calls launch(lanes of a token, experts of a lane), as constants that kernels
// are made for.
template <int n>
struct Constant {
  static constexpr int value = n;
};
template <typename Launch>
cudaError_t WithLanes(int experts, Launch launch) {
  using Half = Constant<kWarp / 2>;
  using Whole = Constant<kWarp>;
  if (experts <= 2 * kWarp) return launch(Half(), Constant<4>());
  if (experts <= 4 * kWarp) return launch(Whole(), Constant<4>());
  return launch(Whole(), Constant<kMaxGateExperts / kWarp>());
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_TIER_GATE_CUH_
