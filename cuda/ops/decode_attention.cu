#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/cache_places.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode_attention.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A warp takes some keys at a time, a load a lane being 16 bytes of a key, so
// that a key is kLanes lanes wide and a load 32 / kLanes keys high. Keys and
// values of its next kStages times are on their way to shared memory, where a
// thread reads what itself has asked for, so that there is nothing to wait for
// but its own copies; words of a table are read a time earlier still:
//
//   scores   each lane multiplies its columns, for kSteps loads and kQ heads;
//            lanes of a key exchange halves until each has one score, or some
//   softmax  by the lane that has the score, its maximum running along
//   values   each lane adds to its columns, weights coming from their lanes
//
// Then the warps of a block join, and the last block of a token's KV head joins
// what all have left in memory: a launch saved, and its wait.

namespace strata::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kSteps = 4;
constexpr int kStages = 2;
constexpr size_t kSharedBytes = sizeof(uint4) * kStages * 2 * kSteps * kThreads;
constexpr int kKeysOfPiece = 64;  // At least, and a multiple of it.
constexpr int kMaxSplits = 64;
constexpr int64_t kProcessors = 132;  // Multiprocessors of a Hopper GPU.
// Blocks of a multiprocessor: by shared memory, or with many heads registers.
constexpr int BlocksOfProcessor(int heads) { return heads > 4 ? 1 : 2; }

struct Args {
  Extent tokens;
  int num_heads = 1, num_kv_heads = 1, group = 1, splits = 1;
  int64_t ld = 0;  // Columns of the caches.
  float factor = 1;
  int64_t window = 0;
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

// value[i] summed over groups of kLanes lanes, n of them: lanes exchange
// halves, so that of the n sums lane l has those from SumIndex(l) on, n /
// kLanes of them (if there are fewer sums than lanes, one that it shares with
// its neighbours).
template <int n, int kLanes, int kSize>
__device__ __forceinline__ void SumAcross(float (&value)[kSize]) {
  constexpr int kHalf = n / 2, kFar = kLanes / 2;
  if constexpr (kFar > 0 && kHalf > 0) {
    const bool upper = (Lane() & kFar) != 0;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      // Copies: a choice between elements would put them into memory.
      const float a = value[i], b = value[i + kHalf];
      const float got = __shfl_xor_sync(kWholeWarp, upper ? a : b, kFar);
      value[i] = (upper ? b : a) + got;
    }
    SumAcross<kHalf, kFar>(value);
  } else if constexpr (kFar > 0) {
    value[0] += __shfl_xor_sync(kWholeWarp, value[0], kFar);
    SumAcross<1, kFar>(value);
  }
}

// Keys [begin, end) of this block; of its token, as many pieces have any.
struct Piece {
  int begin = 0, end = 0, pieces = 1;
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

// Block (token and KV head, piece), a warp some of its keys.
template <typename T, int kLanes, int kQ>
__global__ void __launch_bounds__(kThreads, BlocksOfProcessor(kQ))
    PieceKernel(const Args args) {
  constexpr int kVec = kVector<T>;
  constexpr int kDim = kLanes * kVec;
  constexpr int kHigh = kWarp / kLanes;  // Keys of a load,
  constexpr int kKeys = kHigh * kSteps;  // and of a warp at a time.
  constexpr int kSums = kSteps * kQ;     // Index: step * kQ + head.
  constexpr int kMine = kSums > kLanes ? kSums / kLanes : 1;
  constexpr int kApart = kSums > kLanes ? 1 : kLanes / kSums;
  static_assert(kMine <= kQ, "a lane's scores are of one key");
  static_assert(sizeof(float) * kWarps * kQ * kDim <= kSharedBytes);
  // Eight lanes' copies are a line of 128 bytes in shared memory, or each
  // sector of theirs is fetched twice.
  extern __shared__ __align__(128) uint4 memory[];
  float* const joined = reinterpret_cast<float*>(memory);  // [kWarps, kQ, kDim]
  __shared__ float max_of[kWarps][kQ], sum_of[kWarps][kQ];

  WaitForEarlier();
  LetLaterBegin();
  // All heads of a token at about the same time: those of a key lie together.
  const int64_t token = blockIdx.x / args.num_kv_heads;
  if (token >= args.tokens.Get()) return;
  const int kv_head = static_cast<int>(blockIdx.x % args.num_kv_heads);
  const int64_t pair = token * args.num_kv_heads + kv_head;
  const int head = kv_head * args.group;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int high = Lane() / kLanes, low = Lane() % kLanes;
  const RowsOfToken rows(args.places, token);
  const Piece piece = PieceOf(args, token);
  if (blockIdx.y >= piece.pieces) return;
  const int end = piece.end;
  const int64_t column = kv_head * kDim + low * kVec;
  const T* const k = static_cast<const T*>(args.k) + column;
  const T* const v = static_cast<const T*>(args.v) + column;

  // Whether keys of a warp at a time are in one block: a word of the table then
  // says where they all are.
  static_assert(kKeysOfPiece % kKeys == 0);
  const bool together =
      args.places.table == nullptr ||
      (args.window == 0 && args.places.block_size % kKeys == 0);
  const uint64_t once = ReadOnce();
  const auto slot = [&](int stage, int i) {
    return memory + (stage * 2 * kSteps + i) * kThreads + threadIdx.x;
  };
  // Of the key of this lane's load s, where a warp's begin at `key`.
  const auto key_of = [&](int key, int s) {
    return min(key + s * kHigh + high, end - 1);
  };
  // What the table says of them; only ask() looks at it, a time later.
  const auto find = [&](int key, int32_t(&block)[kSteps]) {
    block[0] = rows.BlockOf(key);
    if (together) return;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) block[s] = rows.BlockOf(key_of(key, s));
  };
  const auto ask = [&](int stage, int key, const int32_t(&block)[kSteps]) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t row =
          rows.In(together ? block[0] : block[s], key_of(key, s), args.fault);
      CopyAsync16Once(slot(stage, s), k + row * args.ld, once);
      CopyAsync16Once(slot(stage, kSteps + s), v + row * args.ld, once);
    }
  };
  constexpr int kStride = kWarps * kKeys;
  int key = piece.begin + warp * kKeys;
  int32_t next[kSteps] = {};
  {
    int32_t block[kStages][kSteps] = {};
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (key + i * kStride < end) find(key + i * kStride, block[i]);
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (key + i * kStride < end) ask(i, key + i * kStride, block[i]);
      EndCopies();
    }
  }
  if (key + kStages * kStride < end) find(key + kStages * kStride, next);

  float q[kQ][kVec], o[kQ][kVec];
#pragma unroll
  for (int h = 0; h < kQ; ++h) {
    const auto* const from = reinterpret_cast<const float4*>(
        args.q + (token * args.num_heads + head + h) * kDim + low * kVec);
#pragma unroll
    for (int i = 0; i < kVec; i += 4) {
      float4 x = {0, 0, 0, 0};
      if (h < args.group) x = from[i / 4];
      q[h][i] = args.factor * x.x;
      q[h][i + 1] = args.factor * x.y;
      q[h][i + 2] = args.factor * x.z;
      q[h][i + 3] = args.factor * x.w;
    }
#pragma unroll
    for (int i = 0; i < kVec; ++i) o[h][i] = 0;
  }
  // Of the scores that are this lane's: kMine heads from my_head on, of one key
  // of the load my_step.
  const int my_step = low / kApart * kMine / kQ;
  const int my_head = low / kApart * kMine % kQ;
  float max[kMine], sum[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    max[i] = -INFINITY;
    sum[i] = 0;
  }

  for (int stage = 0; key < end; key += kStride) {
    WaitForCopies<kStages - 1>();
    float score[kSums];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float x[kVec];
      Unpack(*slot(stage, s), x);
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kVec; ++i) dot = fmaf(q[h][i], x[i], dot);
        score[s * kQ + h] = dot;
      }
    }
    SumAcross<kSums, kLanes>(score);

    const bool seen = key + my_step * kHigh + high < end;
    float keep[kMine], p[kMine];
    bool same = true;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const float mine = seen ? score[i] : -INFINITY;
      float largest = fmaxf(max[i], mine);
#pragma unroll
      for (int d = kWarp / 2; d >= kLanes; d /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, d));
      }
#pragma unroll
      for (int d = kLanes / 2; d >= kLanes / kSteps; d /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, d));
      }
      keep[i] = exp2f(max[i] - largest);
      p[i] = exp2f(mine - largest);
      sum[i] = fmaf(sum[i], keep[i], p[i]);
      same &= max[i] == largest;
      max[i] = largest;
    }
    // Where a score's lane is, among those of the same key.
    const auto lane_of = [&](int index) {
      return high * kLanes + index / kMine * kApart;
    };
    if (!__all_sync(kWholeWarp, same)) {
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        const float factor =
            __shfl_sync(kWholeWarp, keep[h % kMine], lane_of(h));
#pragma unroll
        for (int i = 0; i < kVec; ++i) o[h][i] *= factor;
      }
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float x[kVec];
      Unpack(*slot(stage, kSteps + s), x);
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        const float weight =
            __shfl_sync(kWholeWarp, p[h % kMine], lane_of(s * kQ + h));
#pragma unroll
        for (int i = 0; i < kVec; ++i) o[h][i] = fmaf(weight, x[i], o[h][i]);
      }
    }
    if (key + kStages * kStride < end) {
      ask(stage, key + kStages * kStride, next);
    }
    EndCopies();
    if (key + (kStages + 1) * kStride < end) {
      find(key + (kStages + 1) * kStride, next);
    }
    if (++stage == kStages) stage = 0;
  }

  // The keys of a warp, then the warps. Lanes that share a score count once.
  __syncthreads();  // Nobody reads keys or values any more.
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
#pragma unroll
    for (int d = kWarp / 2; d >= kLanes; d /= 2) {
      sum[i] += __shfl_xor_sync(kWholeWarp, sum[i], d);
    }
#pragma unroll
    for (int d = kLanes / 2; d >= kLanes / kSteps; d /= 2) {
      sum[i] += __shfl_xor_sync(kWholeWarp, sum[i], d);
    }
    if (high == 0 && my_step == 0 && low % kApart == 0) {
      max_of[warp][my_head + i] = max[i];
      sum_of[warp][my_head + i] = sum[i];
    }
  }
#pragma unroll
  for (int h = 0; h < kQ; ++h) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
#pragma unroll
      for (int d = kWarp / 2; d >= kLanes; d /= 2) {
        o[h][i] += __shfl_xor_sync(kWholeWarp, o[h][i], d);
      }
      if (high == 0) joined[(warp * kQ + h) * kDim + low * kVec + i] = o[h][i];
    }
  }
  __syncthreads();
  const int64_t first_to = (token * args.num_heads + head) * args.splits;
  for (int at = threadIdx.x; at < args.group * kDim; at += kThreads) {
    const int h = at / kDim, c = at % kDim;
    float largest = -INFINITY, total = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, max_of[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share =
          max_of[w][h] > -INFINITY ? exp2f(max_of[w][h] - largest) : 0.f;
      total = fmaf(sum_of[w][h], share, total);
      value = fmaf(joined[(w * kQ + h) * kDim + c], share, value);
    }
    if (piece.pieces == 1) {
      args.o[(token * args.num_heads + head) * kDim + at] =
          total > 0 ? value / total : 0.f;
      continue;
    }
    const int64_t to = first_to + h * args.splits + blockIdx.y;
    args.partial[to * kDim + c] = value;
    if (c == 0) {
      args.max[to] = largest;
      args.sum[to] = total;
    }
  }
  if (piece.pieces == 1 || !IsLast(args.ended + pair, piece.pieces)) return;
  JoinPieces<kDim, kQ>(args, token * args.num_heads + head, piece.pieces,
                       joined);
  if (threadIdx.x == 0) args.ended[pair] = 0;
}

// So many that each multiprocessor has a block: two beside each other, or more
// one after another, cost as much again to begin and to join, and are slower
// from 1 to 64 sequences.
int64_t SplitsOf(const DecodeAttentionArgs& args) {
  const int64_t pairs =
      std::max<int64_t>(1, args.tokens.bound * args.num_kv_heads);
  return std::clamp<int64_t>(
      std::min(kProcessors / pairs, CeilDiv(args.max_keys, kKeysOfPiece)), 1,
      kMaxSplits);
}

template <typename T, int kLanes, int kQ>
cudaError_t Launch(const DecodeAttentionArgs& args, cudaStream_t stream) {
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
  kernel_args.num_kv_heads = args.num_kv_heads;
  kernel_args.group = args.num_heads / args.num_kv_heads;
  kernel_args.splits = static_cast<int>(SplitsOf(args));
  kernel_args.ld = int64_t{args.num_kv_heads} * args.dim;
  kernel_args.factor = args.scale * 1.4426950408889634f;  // For powers of 2.
  kernel_args.window = args.window;
  kernel_args.q = args.q;
  kernel_args.k = args.k;
  kernel_args.v = args.v;
  static_cast<CachePlaces&>(kernel_args.places) = args.places;
  kernel_args.partial = args.partial;
  kernel_args.max = args.max;
  kernel_args.sum = args.sum;
  kernel_args.ended = args.ended;
  kernel_args.o = args.o;
  kernel_args.fault = args.fault;
  auto* const kernel = PieceKernel<T, kLanes, kQ>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.num_kv_heads),
                  static_cast<unsigned>(kernel_args.splits));
  return LaunchAhead(kernel, grid, dim3(kThreads), kSharedBytes, stream,
                     kernel_args);
}

template <typename T, int kLanes>
cudaError_t LaunchHeads(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int group = args.num_heads / args.num_kv_heads;
  if (group <= 1) return Launch<T, kLanes, 1>(args, stream);
  if (group <= 2) return Launch<T, kLanes, 2>(args, stream);
  if (group <= 4) return Launch<T, kLanes, 4>(args, stream);
  return Launch<T, kLanes, 8>(args, stream);
}

template <typename T>
cudaError_t LaunchWidth(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int lanes = args.dim / kVector<T>;
  if (lanes == 8) return LaunchHeads<T, 8>(args, stream);
  return lanes == 16 ? LaunchHeads<T, 16>(args, stream)
                     : LaunchHeads<T, 32>(args, stream);
}

}  // namespace

bool HasDecodeAttention(const DecodeAttentionArgs& args) {
  const int bytes = args.dim * (args.bf16_cache ? 2 : 4);
  return (bytes == 128 || bytes == 256 || bytes == 512) &&
         args.num_heads % args.num_kv_heads == 0 &&
         args.num_heads / args.num_kv_heads <= 8 && args.max_keys < INT32_MAX;
}

int64_t DecodePieces(const DecodeAttentionArgs& args) {
  return args.tokens.bound * args.num_heads * SplitsOf(args);
}

int64_t DecodeCounters(const DecodeAttentionArgs& args) {
  return args.tokens.bound * args.num_kv_heads;
}

cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasDecodeAttention(args)) return cudaErrorInvalidValue;
  return args.bf16_cache ? LaunchWidth<__nv_bfloat16>(args, stream)
                         : LaunchWidth<float>(args, stream);
}

}  // namespace strata::gpu
