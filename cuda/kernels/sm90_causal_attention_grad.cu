#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/causal_attention_grad.h"
#include "cuda/kernels/head_maps.h"
#include "cuda/kernels/power_of_2.cuh"
#include "cuda/kernels/sequence_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_192.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// Two kernels of one shape. A block keeps 128 rows of one kind, 64 to each of
// two warpgroups, and goes over tiles of the other, which a third loads:
//
//   dq       keeps queries and dout, 128 keys and values at a time (64 of wide
//            heads):
//            s = q k^T, dp = dout v^T;   dq += ds k
//   dk, dv   keeps keys and values, 64 queries and dout at a time:
//            s = k q^T, dp = v dout^T;   dv += p dout, dk += ds q
//
// p and ds go from one product's registers into the next one's.
//
// Keys of up to 192 columns, values of up to 128: there dk and dv fill 160
// registers, so that dp waits until s has become p, in BF16.

namespace strata::gpu {
namespace {

constexpr int kRows = 128, kHalf = 64;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kQueries = 64;  // Of a tile, for dk and dv.
constexpr int kQueryStages = 3;
// Keys of a tile, for dq, and how many tiles there is room for.
template <int kKeyDim>
constexpr int kKeys = kKeyDim > 128 ? 64 : 128;
template <int kKeyDim>
constexpr int kKeyStages = kKeyDim > 128 ? 3 : 2;
constexpr float kLog2E = 1.4426950408889634f;

struct Args {
  Extent tokens;
  int num_heads = 1, group = 1;
  int key_dim = 0, value_dim = 0;
  float scale = 1;
  int window = 0;
  const int32_t* seq_start = nullptr;
  int num_sequences = 0;
  const float2* stats = nullptr;  // [heads, pitch]: lse in powers of 2, delta.
  int64_t pitch = 0;
  void* dq = nullptr;  // F32 or BF16, all three.
  void* dk = nullptr;
  void* dv = nullptr;
};

// Whether a tile's last products may run beside the next one's first. For wide
// heads there are too few registers; there the two warpgroups fill each other's
// gaps.
template <int kKeyDim>
constexpr bool kRunsOn = kKeyDim <= 64;
// Whether dp has registers beside s.
template <int kKeyDim>
constexpr bool kHasBoth = kKeyDim <= 128;

// Room for a tile that begins at an odd row, and is loaded from one before.
int64_t StatsPitch(int64_t tokens) { return (tokens + kQueries + 3) / 2 * 2; }

__global__ void __launch_bounds__(256)
    StatsKernel(Extent tokens, int num_heads, const float* lse,
                const float* delta, int64_t pitch, float2* stats) {
  const int64_t n = tokens.Get() * num_heads;
  for (int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * 256) {
    stats[i % num_heads * pitch + i / num_heads] = {kLog2E * lse[i], delta[i]};
  }
}

// kKey columns of a key, kValue of a value.
template <int kKey, int kValue>
struct QueryShared {
  static constexpr int kStages = kKeyStages<kKey>;
  __nv_bfloat16 q[kKey / 64][kRows * 64];
  __nv_bfloat16 dout[kValue / 64][kRows * 64];
  __nv_bfloat16 k[kStages][kKey / 64][kKeys<kKey> * 64];
  __nv_bfloat16 v[kStages][kValue / 64][kKeys<kKey> * 64];
  uint64_t full_rows, full[kStages], empty[kStages];
};
template <int kKey, int kValue>
struct KeyShared {
  __nv_bfloat16 k[kKey / 64][kRows * 64];
  __nv_bfloat16 v[kValue / 64][kRows * 64];
  __nv_bfloat16 q[kQueryStages][kKey / 64][kQueries * 64];
  __nv_bfloat16 dout[kQueryStages][kValue / 64][kQueries * 64];
  float2 stats[kQueryStages][kQueries + 2];
  uint64_t full_rows, full[kQueryStages], empty[kQueryStages];
};

#if STRATA_SM90A

template <typename Shared>
__device__ __forceinline__ Shared& SharedMemory() {
  extern __shared__ char memory[];
  return *reinterpret_cast<Shared*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
}

// `releases`: how many threads say that a stage is free.
template <int kStages, typename Shared>
__device__ __forceinline__ void InitBarriers(Shared& shared, int releases) {
  if (threadIdx.x == 0) {
    InitBarrier(&shared.full_rows, 1);
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(&shared.full[i], 1);
      InitBarrier(&shared.empty[i], releases);
    }
    FenceBarrierInit();
  }
  __syncthreads();
}

// `boxes` boxes of 64 columns beside each other, each `elements` on.
template <int kBoxes, int kElements>
__device__ __forceinline__ void LoadColumns(const CUtensorMap* map,
                                            __nv_bfloat16 (*to)[kElements],
                                            uint64_t* barrier, int row,
                                            int head) {
#pragma unroll
  for (int c = 0; c < kBoxes; ++c) {
    LoadBox(map, to[c], barrier, c * 64, row, head);
  }
}

// d = a b^T over kDim columns; a stands at this warpgroup's rows.
template <int kDim, int kA, int kB, int kSize>
__device__ __forceinline__ void MultiplyColumns(float (&d)[kSize],
                                                const __nv_bfloat16 (*a)[kA],
                                                int first_row,
                                                const __nv_bfloat16 (*b)[kB]) {
#pragma unroll
  for (int q = 0; q < kDim / 16; ++q) {
    Multiply<kInner, kInner>(
        d,
        Advance(Describe(a[q / 4] + first_row * 64), q % 4 * kStep16<kInner>),
        Advance(Describe(b[q / 4]), q % 4 * kStep16<kInner>), q > 0);
  }
}

// d += p b, over the kSummed rows of b.
template <int kSummed, int kB, int kSize>
__device__ __forceinline__ void AddRows(float (&d)[kSize],
                                        const uint32_t (&p)[kSummed / 16][4],
                                        const __nv_bfloat16 (*b)[kB],
                                        bool add) {
  const uint64_t descriptor = Describe(b[0], kB * 2);
#pragma unroll
  for (int q = 0; q < kSummed / 16; ++q) {
    Multiply<kOuter>(d, p[q], Advance(descriptor, q * kStep16<kOuter>),
                     add || q > 0);
  }
}

template <int kColumns>
__device__ __forceinline__ void Narrow(const float (&x)[kColumns / 2],
                                       uint32_t (&p)[kColumns / 16][4]) {
#pragma unroll
  for (int q = 0; q < kColumns / 16; ++q) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[q][i] = Pair(x[8 * q + 2 * i], x[8 * q + 2 * i + 1]);
    }
  }
}

// One of the two of a pair that Narrow() made.
__device__ __forceinline__ float Element(uint32_t pair, int i) {
  return __uint_as_float(i == 0 ? pair << 16 : pair & 0xffff0000);
}

// --- dq ---

// Tiles of kSize keys, from the queries' own down.
template <int kSize>
struct KeyTiles {
  int first, last;
  __device__ KeyTiles(const Args& args, const SequenceTile& tile)
      : first((args.window > 0 ? max(0, tile.first + 1 - args.window) : 0) /
              kSize),
        last((tile.first + kRows - 1) / kSize) {}
  __device__ int count() const { return last - first + 1; }
  __device__ int key(int i) const { return (last - i) * kSize; }
};

template <int kKey, int kValue>
__device__ void LoadKeys(const Args& args, const SequenceTile& tile,
                         QueryShared<kKey, kValue>& shared,
                         const CUtensorMap* map_q, const CUtensorMap* map_dout,
                         const CUtensorMap* map_k, const CUtensorMap* map_v) {
  constexpr int kStages = kKeyStages<kKey>;
  const int head = static_cast<int>(blockIdx.y), kv_head = head / args.group;
  const KeyTiles<kKeys<kKey>> tiles(args, tile);
  const int row = tile.begin + tile.first;
  ArriveExpecting(&shared.full_rows, sizeof(shared.q) + sizeof(shared.dout));
  LoadColumns<kKey / 64>(map_q, shared.q, &shared.full_rows, row, head);
  LoadColumns<kValue / 64>(map_dout, shared.dout, &shared.full_rows, row, head);
  for (int i = 0; i < tiles.count(); ++i) {
    const int stage = i % kStages;
    Wait(&shared.empty[stage], i / kStages % 2 ^ 1);
    ArriveExpecting(&shared.full[stage],
                    sizeof(shared.k[0]) + sizeof(shared.v[0]));
    const int at = tile.begin + tiles.key(i);
    LoadColumns<kKey / 64>(map_k, shared.k[stage], &shared.full[stage], at,
                           kv_head);
    LoadColumns<kValue / 64>(map_v, shared.v[stage], &shared.full[stage], at,
                             kv_head);
  }
}

template <int kKey, int kValue, typename D>
__device__ void SumQueryGrad(const Args& args, const SequenceTile& tile,
                             QueryShared<kKey, kValue>& shared) {
  constexpr int kTile = kKeys<kKey>, kStages = kKeyStages<kKey>;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int head = static_cast<int>(blockIdx.y);
  const int first_row = tile.first + group * kHalf;
  const int upper = first_row + thread / 32 * 16 + thread % 32 / 4;
  const int length = tile.end - tile.begin;
  const float factor = args.scale * kLog2E;
  const KeyTiles<kKeys<kKey>> tiles(args, tile);
  float2 stats[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(upper + 8 * half, length - 1);
    stats[half] = args.stats[head * args.pitch + tile.begin + row];
  }
  float s[kTile / 2], dp[kTile / 2], dq[kKey / 2];
  uint32_t ds[kTile / 16][4];
  const auto release = [&](int i) {
    if (thread == 0) Arrive(&shared.empty[i % kStages]);
  };
  Wait(&shared.full_rows, 0);
  for (int i = 0; i < tiles.count(); ++i) {
    const int stage = i % kStages, key = tiles.key(i);
    Wait(&shared.full[stage], i / kStages % 2);
    BeginProducts();
    MultiplyColumns<kKey>(s, shared.q, group * kHalf, shared.k[stage]);
    EndProducts();
    MultiplyColumns<kValue>(dp, shared.dout, group * kHalf, shared.v[stage]);
    EndProducts();
    WaitForProducts<1>();
    if (kRunsOn<kKey> && i > 0) release(i - 1);
    const bool masked =
        key + kTile > first_row + 1 ||
        (args.window > 0 && key < first_row + kHalf - args.window);
#pragma unroll
    for (int j = 0; j < kTile / 2; ++j) {
      s[j] = PowerOf2(fmaf(factor, s[j], -stats[j / 2 % 2].x));
    }
    if (masked) {
#pragma unroll
      for (int j = 0; j < kTile / 2; ++j) {
        const int column = key + j / 4 * 8 + thread % 4 * 2 + j % 2;
        const int row = upper + j / 2 % 2 * 8;
        const bool seen =
            column <= row && (args.window == 0 || column > row - args.window);
        s[j] = seen ? s[j] : 0.f;
      }
    }
    WaitForProducts<0>();
#pragma unroll
    for (int j = 0; j < kTile / 2; ++j) {
      s[j] *= args.scale * (dp[j] - stats[j / 2 % 2].y);
    }
    Narrow<kTile>(s, ds);
    BeginProducts();
    AddRows<kTile>(dq, ds, shared.k[stage], i > 0);
    EndProducts();
    if constexpr (!kRunsOn<kKey>) {
      WaitForProducts<0>();
      release(i);
    }
  }
  WaitForProducts<0>();
  constexpr float kAsIs[2] = {1.f, 1.f};
  const int64_t pitch = int64_t{args.num_heads} * args.key_dim;
  D* const to = static_cast<D*>(args.dq) + (tile.begin + first_row) * pitch +
                int64_t{head} * args.key_dim;
  StoreRows<kKey>(dq, kAsIs, length - first_row, args.key_dim, to, pitch);
}

#endif  // STRATA_SM90A

// Block (x, y): tile x of queries from the last, of head y.
template <int kKey, int kValue, typename D>
__global__ void __launch_bounds__(kThreads, 1)
    QueryGradKernel(const Args args, const __grid_constant__ CUtensorMap map_q,
                    const __grid_constant__ CUtensorMap map_dout,
                    const __grid_constant__ CUtensorMap map_k,
                    const __grid_constant__ CUtensorMap map_v) {
#if STRATA_SM90A
  auto& shared = SharedMemory<QueryShared<kKey, kValue>>();
  SequenceTile tile;
  if (!FindSequenceTile<kRows>(args.seq_start, args.num_sequences,
                               static_cast<int>(args.tokens.Get()),
                               static_cast<int>(gridDim.x - 1 - blockIdx.x),
                               tile)) {
    return;
  }
  InitBarriers<kKeyStages<kKey>>(shared, /*releases=*/2);
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<24>();
    if (threadIdx.x == 0) {
      LoadKeys<kKey, kValue>(args, tile, shared, &map_q, &map_dout, &map_k,
                             &map_v);
    }
  } else {
    GrowRegisters<240>();
    SumQueryGrad<kKey, kValue, D>(args, tile, shared);
  }
#endif
}

// --- dk and dv ---

#if STRATA_SM90A

// Tiles of queries that see some of the keys, head by head of the group.
struct QueryTiles {
  int first, of_head;
  __device__ QueryTiles(const Args& args, const SequenceTile& tile)
      : first(tile.first) {
    int end = tile.end - tile.begin;
    if (args.window > 0) {
      end = min(end, tile.first + kRows - 1 + args.window);
    }
    of_head = (end - tile.first + kQueries - 1) / kQueries;
  }
  __device__ int query(int i) const { return first + i % of_head * kQueries; }
};

template <int kKey, int kValue>
__device__ void LoadQueries(const Args& args, const SequenceTile& tile,
                            KeyShared<kKey, kValue>& shared,
                            const CUtensorMap* map_q,
                            const CUtensorMap* map_dout,
                            const CUtensorMap* map_k,
                            const CUtensorMap* map_v) {
  const int kv_head = static_cast<int>(blockIdx.y);
  const QueryTiles tiles(args, tile);
  const int row = tile.begin + tile.first;
  ArriveExpecting(&shared.full_rows, sizeof(shared.k) + sizeof(shared.v));
  LoadColumns<kKey / 64>(map_k, shared.k, &shared.full_rows, row, kv_head);
  LoadColumns<kValue / 64>(map_v, shared.v, &shared.full_rows, row, kv_head);
  for (int i = 0; i < tiles.of_head * args.group; ++i) {
    const int stage = i % kQueryStages;
    const int head = kv_head * args.group + i / tiles.of_head;
    uint64_t* const full = &shared.full[stage];
    Wait(&shared.empty[stage], i / kQueryStages % 2 ^ 1);
    ArriveExpecting(full, sizeof(shared.q[0]) + sizeof(shared.dout[0]) +
                              sizeof(shared.stats[0]));
    const int at = tile.begin + tiles.query(i);
    LoadColumns<kKey / 64>(map_q, shared.q[stage], full, at, head);
    LoadColumns<kValue / 64>(map_dout, shared.dout[stage], full, at, head);
    LoadBytes(args.stats + head * args.pitch + at / 2 * 2, shared.stats[stage],
              sizeof(shared.stats[0]), full);
  }
}

template <int kKey, int kValue, typename D>
__device__ void SumKeyGrads(const Args& args, const SequenceTile& tile,
                            KeyShared<kKey, kValue>& shared) {
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int first_key = tile.first + group * kHalf;
  const int upper = first_key + thread / 32 * 16 + thread % 32 / 4;
  const int length = tile.end - tile.begin;
  const float factor = args.scale * kLog2E;
  const QueryTiles tiles(args, tile);
  const int count = tiles.of_head * args.group;
  float s[kQueries / 2], dp[kQueries / 2], dk[kKey / 2], dv[kValue / 2];
  uint32_t p[kQueries / 16][4], ds[kQueries / 16][4];
  // By every thread: each has read stats for itself.
  const auto release = [&](int i) { Arrive(&shared.empty[i % kQueryStages]); };
  Wait(&shared.full_rows, 0);
  for (int i = 0; i < count; ++i) {
    const int stage = i % kQueryStages, query = tiles.query(i);
    Wait(&shared.full[stage], i / kQueryStages % 2);
    BeginProducts();
    MultiplyColumns<kKey>(s, shared.k, group * kHalf, shared.q[stage]);
    EndProducts();
    if constexpr (kHasBoth<kKey>) {
      MultiplyColumns<kValue>(dp, shared.v, group * kHalf, shared.dout[stage]);
      EndProducts();
      WaitForProducts<1>();
    } else {
      WaitForProducts<0>();
    }
    if (kRunsOn<kKey> && i > 0) release(i - 1);
    // Of the tile's queries; it was loaded from an even row.
    const float2* const stats =
        shared.stats[stage] + (tile.begin + query) % 2 + thread % 4 * 2;
#pragma unroll
    for (int j = 0; j < kQueries / 2; ++j) {
      s[j] = PowerOf2(fmaf(factor, s[j], -stats[j / 4 * 8 + j % 2].x));
    }
    const bool masked =
        query < first_key + kHalf - 1 || query + kQueries > length ||
        (args.window > 0 && query + kQueries > first_key + args.window);
    if (masked) {
#pragma unroll
      for (int j = 0; j < kQueries / 2; ++j) {
        const int column = query + j / 4 * 8 + thread % 4 * 2 + j % 2;
        const int row = upper + j / 2 % 2 * 8;
        const bool seen = row <= column && column < length &&
                          (args.window == 0 || column < row + args.window);
        s[j] = seen ? s[j] : 0.f;
      }
    }
    Narrow<kQueries>(s, p);
    BeginProducts();
    if constexpr (!kHasBoth<kKey>) {
      MultiplyColumns<kValue>(dp, shared.v, group * kHalf, shared.dout[stage]);
      EndProducts();
    }
    AddRows<kQueries>(dv, p, shared.dout[stage], i > 0);
    EndProducts();
    WaitForProducts<1>();
#pragma unroll
    for (int j = 0; j < kQueries / 2; ++j) {
      // s is in p alone, if it lost its registers to dp.
      const float weight =
          kHasBoth<kKey> ? s[j] : Element(p[j / 8][j % 8 / 2], j % 2);
      const float d =
          args.scale * weight * (dp[j] - stats[j / 4 * 8 + j % 2].y);
      // What lies behind the last query need not be a number.
      dp[j] = weight > 0 ? d : 0.f;
    }
    Narrow<kQueries>(dp, ds);
    BeginProducts();
    AddRows<kQueries>(dk, ds, shared.q[stage], i > 0);
    EndProducts();
    if constexpr (!kRunsOn<kKey>) {
      WaitForProducts<0>();
      release(i);
    }
  }
  WaitForProducts<0>();
  constexpr float kAsIs[2] = {1.f, 1.f};
  const int kv_head = static_cast<int>(blockIdx.y);
  const int64_t kv_heads = args.num_heads / args.group;
  const int64_t row = tile.begin + first_key;
  D* const to_k =
      static_cast<D*>(args.dk) + (row * kv_heads + kv_head) * args.key_dim;
  D* const to_v =
      static_cast<D*>(args.dv) + (row * kv_heads + kv_head) * args.value_dim;
  StoreRows<kKey>(dk, kAsIs, length - first_key, args.key_dim, to_k,
                  kv_heads * args.key_dim);
  StoreRows<kValue>(dv, kAsIs, length - first_key, args.value_dim, to_v,
                    kv_heads * args.value_dim);
}

#endif  // STRATA_SM90A

// Block (x, y): tile x of keys, of KV head y. The first are seen most.
template <int kKey, int kValue, typename D>
__global__ void __launch_bounds__(kThreads, 1)
    KeyGradKernel(const Args args, const __grid_constant__ CUtensorMap map_q,
                  const __grid_constant__ CUtensorMap map_dout,
                  const __grid_constant__ CUtensorMap map_k,
                  const __grid_constant__ CUtensorMap map_v) {
#if STRATA_SM90A
  auto& shared = SharedMemory<KeyShared<kKey, kValue>>();
  SequenceTile tile;
  if (!FindSequenceTile<kRows>(args.seq_start, args.num_sequences,
                               static_cast<int>(args.tokens.Get()),
                               static_cast<int>(blockIdx.x), tile)) {
    return;
  }
  InitBarriers<kQueryStages>(shared, /*releases=*/2 * kWarpgroup);
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<24>();
    if (threadIdx.x == 0) {
      LoadQueries<kKey, kValue>(args, tile, shared, &map_q, &map_dout, &map_k,
                                &map_v);
    }
  } else {
    GrowRegisters<240>();
    SumKeyGrads<kKey, kValue, D>(args, tile, shared);
  }
#endif
}

// What a kernel may take is set once for each: `D`, its results' type, tells
// apart those whose arguments are alike.
template <typename Shared, typename D, typename Kernel>
cudaError_t LaunchOne(Kernel* kernel, dim3 grid, const Args& args,
                      const CUtensorMap (&map)[4], cudaStream_t stream) {
  constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(args, map[0], map[1], map[2],
                                                   map[3]);
  return cudaGetLastError();
}

template <int kKey, int kValue, typename D>
cudaError_t Launch(const CausalAttentionGradArgs& args, const Args& kernel_args,
                   cudaStream_t stream) {
  const int64_t t = args.tokens.bound;
  // q, dout, k and v: rows that are kept, and of a tile.
  const auto map_all = [&](int queries, int keys, CUtensorMap(&map)[4]) {
    const cudaError_t errors[4] = {
        MapHeads(args.q, t, args.num_heads, args.key_dim, queries, &map[0]),
        MapHeads(args.dout, t, args.num_heads, args.value_dim, queries,
                 &map[1]),
        MapHeads(args.k, t, args.num_kv_heads, args.key_dim, keys, &map[2]),
        MapHeads(args.v, t, args.num_kv_heads, args.value_dim, keys, &map[3])};
    return *std::max_element(errors, errors + 4);
  };
  CUtensorMap of_queries[4], of_keys[4];
  if (const cudaError_t e = map_all(kRows, kKeys<kKey>, of_queries); e)
    return e;
  if (const cudaError_t e = map_all(kQueries, kRows, of_keys); e) return e;
  // Each sequence may have a tile that is not full.
  const auto tiles = static_cast<unsigned>(
      (t + kRows - 1) / kRows + std::min<int64_t>(args.num_sequences, t));
  const cudaError_t error = LaunchOne<QueryShared<kKey, kValue>, D>(
      QueryGradKernel<kKey, kValue, D>,
      dim3(tiles, static_cast<unsigned>(args.num_heads)), kernel_args,
      of_queries, stream);
  if (error != cudaSuccess) return error;
  return LaunchOne<KeyShared<kKey, kValue>, D>(
      KeyGradKernel<kKey, kValue, D>,
      dim3(tiles, static_cast<unsigned>(args.num_kv_heads)), kernel_args,
      of_keys, stream);
}

}  // namespace

bool HasCausalAttentionGrad(int64_t key_dim, int64_t value_dim) {
  return key_dim > 0 && value_dim > 0 && key_dim % 8 == 0 &&
         value_dim % 8 == 0 && key_dim <= 192 && value_dim <= 128;
}

int64_t AttentionStatsFloats(int64_t tokens, int64_t num_heads) {
  return 2 * num_heads * StatsPitch(tokens);
}

cudaError_t CausalAttentionGrad(const CausalAttentionGradArgs& args,
                                cudaStream_t stream) {
  if (args.tokens.bound == 0 || args.num_sequences == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  if (!HasCausalAttentionGrad(args.key_dim, args.value_dim) ||
      args.tokens.bound > INT32_MAX - kRows ||
      args.num_heads % args.num_kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
  kernel_args.group = args.num_heads / args.num_kv_heads;
  kernel_args.key_dim = args.key_dim;
  kernel_args.value_dim = args.value_dim;
  kernel_args.scale = args.scale;
  kernel_args.window = args.window;
  kernel_args.seq_start = args.seq_start;
  kernel_args.num_sequences = args.num_sequences;
  kernel_args.stats = reinterpret_cast<const float2*>(args.stats);
  kernel_args.pitch = StatsPitch(args.tokens.bound);
  kernel_args.dq = args.dq;
  kernel_args.dk = args.dk;
  kernel_args.dv = args.dv;
  const int64_t blocks = std::clamp<int64_t>(
      args.tokens.bound * args.num_heads / 256, 1, 132 * 16);
  StatsKernel<<<static_cast<unsigned>(blocks), 256, 0, stream>>>(
      args.tokens, args.num_heads, args.lse, args.delta, kernel_args.pitch,
      reinterpret_cast<float2*>(args.stats));
  const auto launch = [&](auto* d) {
    using D = std::remove_pointer_t<decltype(d)>;
    if (args.key_dim > 128) {
      return Launch<192, 128, D>(args, kernel_args, stream);
    }
    return args.key_dim <= 64 && args.value_dim <= 64
               ? Launch<64, 64, D>(args, kernel_args, stream)
               : Launch<128, 128, D>(args, kernel_args, stream);
  };
  return args.bf16_grads ? launch(static_cast<__nv_bfloat16*>(nullptr))
                         : launch(static_cast<float*>(nullptr));
}

}  // namespace strata::gpu
