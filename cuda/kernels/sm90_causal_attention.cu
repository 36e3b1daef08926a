#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/causal_attention.h"
#include "cuda/kernels/head_maps.h"
#include "cuda/kernels/power_of_2.cuh"
#include "cuda/kernels/sequence_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A block a multiprocessor takes tile after tile, 128 queries of a head, and
// goes over their keys, 128 at a time, from the latest:
//
//   warpgroup 0     one thread loads: queries, then keys and values into the
//                   next of two stages each; those of the next tile while this
//                   one ends
//   warpgroup 1, 2  64 queries each: scores of the next keys are multiplied
//                   while the softmax of these runs
//
// The two take turns to issue their products, so that the softmax of one runs
// beside the products of the other.

namespace strata::gpu {
namespace {

constexpr int kRows = 128;  // Queries, and keys of a stage.
constexpr int kHalf = 64;
constexpr int kStages = 2;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kBoxElements = kRows * kSwizzleColumns;
constexpr int kBoxBytes = kBoxElements * 2;

struct Args {
  Extent tokens;
  int num_heads = 1, group = 1;
  int value_dim = 0;
  float scale = 1;
  int window = 0;
  const int32_t* seq_start = nullptr;
  int num_sequences = 0;
  void* o = nullptr;
  float* lse = nullptr;
};

template <int kKeyDim, int kValueDim>
struct Shared {
  __nv_bfloat16 q[kKeyDim / 64][kBoxElements];
  __nv_bfloat16 k[kStages][kKeyDim / 64][kBoxElements];
  __nv_bfloat16 v[kStages][kValueDim / 64][kBoxElements];
  uint64_t full_q, empty_q;
  uint64_t full_k[kStages], empty_k[kStages];
  uint64_t full_v[kStages], empty_v[kStages];
};

#if STRATA_SM90A

struct Item {
  SequenceTile tile;
  int head = 0;
};

// The tiles of a block, by whole warps. Blocks take tiles from left to right in
// one round of all of them and from right to left in the next, so that what is
// long for one is short for the other. Sequences alike lie head by head, tiles
// with many keys first, which repeats often within a round. One sequence, or
// several that differ, do not: there all heads' tiles of a kind lie together,
// so that a round's are about as long.
//
// Of one sequence with many heads a block takes pairs rather, head by head: the
// longest tile that is left of a head and the shortest, as long together as any
// other two. Few heads are at work at once then, of which L2 holds keys and
// values; tiles of a kind of 128 heads fetch them from memory again and again.
class Items {
 public:
  explicit __device__ Items(const Args& args)
      : args_(args),
        tokens_(static_cast<int>(args.tokens.Get())),
        count_(CountSequenceTiles<kRows>(args.seq_start, args.num_sequences,
                                         tokens_)),
        pairs_((count_.tiles + 1) / 2) {
    by_pairs_ = args.num_sequences == 1 && args.window == 0 &&
                2 * args.num_heads > static_cast<int>(gridDim.x);
  }

  __device__ bool Next(Item& item) {
    return by_pairs_ ? NextOfPair(item) : NextOfRound(item);
  }

 private:
  __device__ bool NextOfPair(Item& item) {
    const int pair =
        round_ / 2 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    if (pair >= pairs_ * args_.num_heads) return false;
    item.head = pair / pairs_;
    const int shorter = pair % pairs_, longer = count_.tiles - 1 - shorter;
    const int tile = round_ % 2 == 0 ? longer : shorter;
    round_ += shorter == longer ? 2 : 1;  // One in the middle is alone.
    return FindSequenceTile<kRows>(args_.seq_start, args_.num_sequences,
                                   tokens_, tile, item.tile);
  }

  __device__ bool NextOfRound(Item& item) {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    const int index =
        round_ * blocks + (round_ % 2 == 0 ? block : blocks - 1 - block);
    ++round_;
    if (index >= count_.tiles * args_.num_heads) return false;
    int tile = 0;  // From the last.
    if (count_.alike && args_.num_sequences > 1) {
      item.head = index / count_.tiles;
      tile = index % count_.tiles;
    } else {
      item.head = index % args_.num_heads;
      tile = index / args_.num_heads;
    }
    return FindSequenceTile<kRows>(args_.seq_start, args_.num_sequences,
                                   tokens_, count_.tiles - 1 - tile, item.tile);
  }

  const Args& args_;
  const int tokens_;
  const TileCount count_;
  const int pairs_;  // Of a head.
  bool by_pairs_ = false;
  int round_ = 0;
};

// Stage and parity of the i-th block of keys, counted through all tiles.
__device__ __forceinline__ int StageOf(int i) { return i % kStages; }
__device__ __forceinline__ uint32_t ParityOf(int i) {
  return static_cast<uint32_t>(i / kStages % 2);
}

// The blocks of keys of a tile, in the sequence: from `last` down to `first`.
struct Blocks {
  int first, last;
  __device__ int count() const { return last - first + 1; }
};
__device__ __forceinline__ Blocks BlocksOf(const Args& args,
                                           const SequenceTile& tile) {
  const int first_key =
      args.window > 0 ? max(0, tile.first + 1 - args.window) : 0;
  return {first_key / kRows, tile.first / kRows};
}

// By one warp, of which one thread loads.
template <int kKeyDim, int kValueDim>
__device__ void Load(const Args& args, Shared<kKeyDim, kValueDim>& shared,
                     const CUtensorMap* map_q, const CUtensorMap* map_k,
                     const CUtensorMap* map_v) {
  Items items(args);
  int before = 0;  // Blocks of keys of earlier tiles.
  uint32_t parity = 1;
  for (Item item; items.Next(item); parity ^= 1) {
    const SequenceTile& tile = item.tile;
    const Blocks blocks = BlocksOf(args, tile);
    const int kv_head = item.head / args.group;
    const auto load_k = [&](int i) {
      const int stage = StageOf(before + i);
      Wait(&shared.empty_k[stage], ParityOf(before + i) ^ 1);
      ArriveExpecting(&shared.full_k[stage], sizeof(shared.k[0]));
#pragma unroll
      for (int c = 0; c < kKeyDim / 64; ++c) {
        LoadBox(map_k, shared.k[stage][c], &shared.full_k[stage], c * 64,
                tile.begin + (blocks.last - i) * kRows, kv_head);
      }
    };
    const auto load_v = [&](int i) {
      const int stage = StageOf(before + i);
      Wait(&shared.empty_v[stage], ParityOf(before + i) ^ 1);
      ArriveExpecting(&shared.full_v[stage], sizeof(shared.v[0]));
#pragma unroll
      for (int c = 0; c < kValueDim / 64; ++c) {
        LoadBox(map_v, shared.v[stage][c], &shared.full_v[stage], c * 64,
                tile.begin + (blocks.last - i) * kRows, kv_head);
      }
    };
    if (threadIdx.x == 0) {
      Wait(&shared.empty_q, parity);
      ArriveExpecting(&shared.full_q, sizeof(shared.q));
#pragma unroll
      for (int c = 0; c < kKeyDim / 64; ++c) {
        LoadBox(map_q, shared.q[c], &shared.full_q, c * 64,
                tile.begin + tile.first, item.head);
      }
      load_k(0);
      for (int i = 1; i < blocks.count(); ++i) {
        load_k(i);
        load_v(i - 1);
      }
      load_v(blocks.count() - 1);
    }
    __syncwarp();
    before += blocks.count();
  }
}

// What a thread's two rows have come to: of each, the largest score and this
// thread's part of the sum.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};

  // score = 2^(factor (score - largest)); keep = what earlier results are
  // multiplied by.
  __device__ __forceinline__ void Step(float (&score)[64], float factor,
                                       float (&keep)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = max[half];
#pragma unroll
      for (int g = 0; g < 16; ++g) {
        largest = fmaxf(largest, fmaxf(score[4 * g + 2 * half],
                                       score[4 * g + 2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
      keep[half] = PowerOf2(factor * (max[half] - largest));
      max[half] = largest;
      const float shift = factor * largest;
      float part = 0;
#pragma unroll
      for (int g = 0; g < 16; ++g) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = score[4 * g + 2 * half + i];
          x = PowerOf2(fmaf(factor, x, -shift));
          part += x;
        }
      }
      sum[half] = fmaf(sum[half], keep[half], part);
    }
  }
};

// Scores of keys that a row does not see become -infinity. `row` is the
// thread's upper row, `key` the first of the block, both in the sequence.
__device__ __forceinline__ void Mask(float (&score)[64], int row, int key,
                                     int window) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int last = row + 8 * half - key;
    const int first = window > 0 ? last + 1 - window : INT32_MIN;
#pragma unroll
    for (int g = 0; g < 16; ++g) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = g * 8 + lane * 2 + i;
        if (column > last || column < first) {
          score[4 * g + 2 * half + i] = -INFINITY;
        }
      }
    }
  }
}

__device__ __forceinline__ void Narrow(const float (&score)[64],
                                       uint32_t (&p)[8][4]) {
#pragma unroll
  for (int q = 0; q < 8; ++q) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[q][i] = Pair(score[8 * q + 2 * i], score[8 * q + 2 * i + 1]);
    }
  }
}

template <int kKeyDim, int kValueDim, typename O>
__device__ void AttendTo(const Args& args, const Item& item, int before,
                         uint32_t parity, Shared<kKeyDim, kValueDim>& shared) {
  const SequenceTile& tile = item.tile;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int upper =
      tile.first + group * kHalf + thread / 32 * 16 + thread % 32 / 4;
  const float factor = args.scale * 1.4426950408889634f;
  const Blocks blocks = BlocksOf(args, tile);
  const int count = blocks.count();
  float score[64], o[kValueDim / 2];
  uint32_t p[8][4];
  float keep[2];
  Softmax softmax;

  const auto issue_scores = [&](int i) {
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kKeyDim / 16; ++q) {
      const uint64_t a = Describe(shared.q[q / 4] + group * kHalf * 64);
      const uint64_t b = Describe(shared.k[StageOf(before + i)][q / 4]);
      Multiply<kInner, kInner>(score, Advance(a, q % 4 * kStep16<kInner>),
                               Advance(b, q % 4 * kStep16<kInner>), q > 0);
    }
    EndProducts();
  };
  const auto issue_values = [&](int i) {
    const uint64_t b = Describe(shared.v[StageOf(before + i)][0], kBoxBytes);
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kRows / 16; ++q) {
      Multiply<kOuter>(o, p[q], Advance(b, q * kStep16<kOuter>),
                       i > 0 || q > 0);
    }
    EndProducts();
  };
  const auto release = [&](uint64_t* barrier) {
    if (thread == 0) Arrive(barrier);
  };
  const auto mask = [&](int i) {
    const int key = (blocks.last - i) * kRows;
    const int first_row = tile.first + group * kHalf;
    if (key + kRows > first_row + 1 ||
        (args.window > 0 && key < first_row + kHalf - args.window)) {
      Mask(score, upper, key, args.window);
    }
  };
  const auto full_k = [&](int i) {
    Wait(&shared.full_k[StageOf(before + i)], ParityOf(before + i));
  };
  const auto full_v = [&](int i) {
    Wait(&shared.full_v[StageOf(before + i)], ParityOf(before + i));
  };
  // Barriers 2 and 3: the turn of either warpgroup. Each is arrived at as often
  // as it is waited for.
  if (group == 1 && count > 1) ArriveThreads(2, 2 * kWarpgroup);

  Wait(&shared.full_q, parity);
  full_k(0);
  issue_scores(0);
  WaitForProducts<0>();
  release(&shared.empty_k[StageOf(before)]);
  if (count == 1) release(&shared.empty_q);
  mask(0);
  softmax.Step(score, factor, keep);
  Narrow(score, p);
  for (int i = 1; i < count; ++i) {
    full_k(i);
    SyncThreads(2 + group, 2 * kWarpgroup);
    issue_scores(i);
    full_v(i - 1);
    issue_values(i - 1);
    if (group == 0 || i < count - 1) {
      ArriveThreads(3 - group, 2 * kWarpgroup);
    }
    WaitForProducts<1>();
    release(&shared.empty_k[StageOf(before + i)]);
    if (i == count - 1) release(&shared.empty_q);
    mask(i);
    softmax.Step(score, factor, keep);
    WaitForProducts<0>();
    release(&shared.empty_v[StageOf(before + i - 1)]);
#pragma unroll
    for (int j = 0; j < kValueDim / 2; ++j) o[j] *= keep[j / 2 % 2];
    Narrow(score, p);
  }
  full_v(count - 1);
  issue_values(count - 1);
  WaitForProducts<0>();
  release(&shared.empty_v[StageOf(before + count - 1)]);

  const int head = item.head;
  const int64_t rows = tile.end - tile.begin;
  const int64_t first_row = tile.begin + tile.first + group * kHalf;
  float share[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    share[half] = 1.f / sum;
    const int row = upper + 8 * half;
    if (thread % 4 == 0 && row < rows) {
      args.lse[(tile.begin + row) * int64_t{args.num_heads} + head] =
          softmax.max[half] * args.scale + logf(sum);
    }
  }
  const int64_t pitch = int64_t{args.num_heads} * args.value_dim;
  StoreRows<kValueDim>(
      o, share, static_cast<int>(rows) - tile.first - group * kHalf,
      args.value_dim,
      static_cast<O*>(args.o) + first_row * pitch + head * args.value_dim,
      pitch);
}

template <int kKeyDim, int kValueDim, typename O>
__device__ void AttendToItems(const Args& args,
                              Shared<kKeyDim, kValueDim>& shared) {
  Items items(args);
  int before = 0;
  uint32_t parity = 0;
  for (Item item; items.Next(item); parity ^= 1) {
    AttendTo<kKeyDim, kValueDim, O>(args, item, before, parity, shared);
    before += BlocksOf(args, item.tile).count();
  }
}

#endif  // STRATA_SM90A

template <int kKeyDim, int kValueDim, typename O>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionKernel(const Args args, const __grid_constant__ CUtensorMap map_q,
                    const __grid_constant__ CUtensorMap map_k,
                    const __grid_constant__ CUtensorMap map_v) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  using Memory = Shared<kKeyDim, kValueDim>;
  Memory& shared = *reinterpret_cast<Memory*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  if (threadIdx.x == 0) {
    InitBarrier(&shared.full_q, 1);
    InitBarrier(&shared.empty_q, 2);
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(&shared.full_k[i], 1);
      InitBarrier(&shared.full_v[i], 1);
      InitBarrier(&shared.empty_k[i], 2);
      InitBarrier(&shared.empty_v[i], 2);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<40>();
    if (threadIdx.x < 32) {
      Load<kKeyDim, kValueDim>(args, shared, &map_q, &map_k, &map_v);
    }
  } else {
    GrowRegisters<232>();
    AttendToItems<kKeyDim, kValueDim, O>(args, shared);
  }
#endif
}

template <int kKeyDim, int kValueDim, typename O>
cudaError_t Launch(const CausalAttentionArgs& args, cudaStream_t stream) {
  CUtensorMap map_q, map_k, map_v;
  const int64_t bound = args.tokens.bound;
  if (const cudaError_t e =
          MapHeads(args.q, bound, args.num_heads, args.key_dim, kRows, &map_q);
      e) {
    return e;
  }
  if (const cudaError_t e = MapHeads(args.k, bound, args.num_kv_heads,
                                     args.key_dim, kRows, &map_k);
      e) {
    return e;
  }
  if (const cudaError_t e = MapHeads(args.v, bound, args.num_kv_heads,
                                     args.value_dim, kRows, &map_v);
      e) {
    return e;
  }
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
  kernel_args.group = args.num_heads / args.num_kv_heads;
  kernel_args.value_dim = args.value_dim;
  kernel_args.scale = args.scale;
  kernel_args.window = args.window;
  kernel_args.seq_start = args.seq_start;
  kernel_args.num_sequences = args.num_sequences;
  kernel_args.o = args.o;
  kernel_args.lse = args.lse;
  auto* const kernel = AttentionKernel<kKeyDim, kValueDim, O>;
  constexpr size_t kSharedBytes =
      sizeof(Shared<kKeyDim, kValueDim>) + kSwizzleBytes;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  // Each sequence may have a tile that is not full.
  const int64_t tiles = (bound + kRows - 1) / kRows +
                        std::min<int64_t>(args.num_sequences, bound);
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const auto grid = static_cast<unsigned>(
      std::min<int64_t>(processors, tiles * args.num_heads));
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(kernel_args, map_q, map_k,
                                                   map_v);
  return cudaGetLastError();
}

template <typename O>
cudaError_t LaunchFor(const CausalAttentionArgs& args, cudaStream_t stream) {
  if (args.key_dim <= 64 && args.value_dim <= 64) {
    return Launch<64, 64, O>(args, stream);
  }
  return args.key_dim <= 128 ? Launch<128, 128, O>(args, stream)
                             : Launch<192, 128, O>(args, stream);
}

}  // namespace

bool HasCausalAttention(int64_t key_dim, int64_t value_dim) {
  return key_dim > 0 && value_dim > 0 && key_dim % 8 == 0 &&
         value_dim % 8 == 0 && key_dim <= 192 && value_dim <= 128;
}

cudaError_t CausalAttention(const CausalAttentionArgs& args,
                            cudaStream_t stream) {
  if (args.tokens.bound == 0 || args.num_sequences == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  if (!HasCausalAttention(args.key_dim, args.value_dim) ||
      args.tokens.bound > INT32_MAX - kRows ||
      args.num_heads % args.num_kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  return args.bf16_o ? LaunchFor<__nv_bfloat16>(args, stream)
                     : LaunchFor<float>(args, stream);
}

}  // namespace strata::gpu
