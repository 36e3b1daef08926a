#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/ops/cache_places.cuh"
#include "cuda/ops/decode_attention.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A warp takes some keys at a time, a load a lane being 16 bytes of a key, so
// that a key is kLanes lanes wide and a load 32 / kLanes keys high. The next
// keys and values are on their way while these are worked on:
//
//   scores   each lane multiplies its columns, for kSteps loads and kQ heads;
//            lanes of a key exchange halves until each has one score, or some
//   softmax  by the lane that has the score, its maximum running along
//   values   each lane adds to its columns, weights coming from their lanes
//
// Nothing passes through shared memory until the warps of a block join.

namespace strata::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kSteps = 4;
constexpr int64_t kKeysOfPiece = 64;  // At least, and a multiple of it.
// Blocks to aim at: four waves of what fits on a GPU of 132 multiprocessors, so
// that the last wave's end is short.
constexpr int64_t kWantedBlocks = 132 * 4 * 4;

struct Args {
  Extent tokens;
  int num_heads = 1, group = 1, splits = 1;
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

// Block (token, KV head, piece), a warp some of its keys.
template <typename T, int kLanes, int kQ>
__global__ void __launch_bounds__(kThreads) PieceKernel(const Args args) {
  constexpr int kVec = kVector<T>;
  constexpr int kDim = kLanes * kVec;
  constexpr int kHigh = kWarp / kLanes;  // Keys of a load,
  constexpr int kKeys = kHigh * kSteps;  // and of a warp at a time.
  constexpr int kSums = kSteps * kQ;     // Index: step * kQ + head.
  constexpr int kMine = kSums > kLanes ? kSums / kLanes : 1;
  constexpr int kApart = kSums > kLanes ? 1 : kLanes / kSums;
  static_assert(kMine <= kQ, "a lane's scores are of one key");
  __shared__ float joined[kWarps][kQ][kDim];
  __shared__ float max_of[kWarps][kQ], sum_of[kWarps][kQ];

  const int64_t token = blockIdx.x;
  if (token >= args.tokens.Get()) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int head = kv_head * args.group;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int high = Lane() / kLanes, low = Lane() % kLanes;
  const int64_t num_keys = args.places.NumKeys(token, args.fault);
  const int64_t first =
      args.window > 0 ? max(int64_t{0}, num_keys - args.window) : 0;
  const int64_t piece =
      ((num_keys - first + args.splits - 1) / args.splits + kKeysOfPiece - 1) /
      kKeysOfPiece * kKeysOfPiece;
  const int begin = static_cast<int>(min(first + blockIdx.z * piece, num_keys));
  const int end = static_cast<int>(min(begin + piece, num_keys));
  const int64_t column = kv_head * kDim + low * kVec;
  const T* const k = static_cast<const T*>(args.k) + column;
  const T* const v = static_cast<const T*>(args.v) + column;

  float q[kQ][kVec], o[kQ][kVec];
#pragma unroll
  for (int h = 0; h < kQ; ++h) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      q[h][i] = h < args.group
                    ? args.factor *
                          args.q[(token * args.num_heads + head + h) * kDim +
                                 low * kVec + i]
                    : 0.f;
      o[h][i] = 0;
    }
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

  uint4 next_k[kSteps], next_v[kSteps];
  const auto load = [&](int key) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int mine = min(key + s * kHigh + high, end - 1);
      const int64_t at = args.places.RowOf(token, mine, args.fault) * args.ld;
      next_k[s] = __ldcs(reinterpret_cast<const uint4*>(k + at));
      next_v[s] = __ldcs(reinterpret_cast<const uint4*>(v + at));
    }
  };
  int key = begin + warp * kKeys;
  if (key < end) load(key);
  for (; key < end; key += kWarps * kKeys) {
    uint4 this_v[kSteps];
    float score[kSums];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float x[kVec];
      Unpack(next_k[s], x);
      this_v[s] = next_v[s];
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kVec; ++i) dot = fmaf(q[h][i], x[i], dot);
        score[s * kQ + h] = dot;
      }
    }
    if (key + kWarps * kKeys < end) load(key + kWarps * kKeys);
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
      Unpack(this_v[s], x);
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        const float weight =
            __shfl_sync(kWholeWarp, p[h % kMine], lane_of(s * kQ + h));
#pragma unroll
        for (int i = 0; i < kVec; ++i) o[h][i] = fmaf(weight, x[i], o[h][i]);
      }
    }
  }

  // The keys of a warp, then the warps. Lanes that share a score count once.
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
      if (high == 0) joined[warp][h][low * kVec + i] = o[h][i];
    }
  }
  __syncthreads();
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
      value = fmaf(joined[w][h][c], share, value);
    }
    const int64_t to =
        (token * args.num_heads + head + h) * args.splits + blockIdx.z;
    args.partial[to * kDim + c] = value;
    if (c == 0) {
      args.max[to] = largest;
      args.sum[to] = total;
    }
  }
}

// Joins the pieces of a token's head, a warp each: a lane has the weights of
// two pieces and four columns of the result.
__global__ void __launch_bounds__(kBlock) JoinKernel(const JoinArgs args) {
  static_assert(kMaxPieces <= 2 * kWarp, "two pieces a lane");
  const int splits = args.splits, dim = args.dim;
  const float* const max = args.max;
  const float* const sum = args.sum;
  const int64_t n = args.tokens.Get() * args.num_heads;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    float weight[2], total = 0, largest = -INFINITY;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int s = j * kWarp + Lane();
      weight[j] = s < splits ? max[i * splits + s] : -INFINITY;
      largest = fmaxf(largest, weight[j]);
    }
    largest = WarpMax(largest);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int s = j * kWarp + Lane();
      weight[j] = weight[j] > -INFINITY ? exp2f(weight[j] - largest) : 0.f;
      if (s < splits) total = fmaf(sum[i * splits + s], weight[j], total);
    }
    total = WarpSum(total);
    const float factor = total > 0 ? 1.f / total : 0.f;
    for (int first = 0; first < dim; first += 4 * kWarp) {
      const int c = first + 4 * Lane();
      float4 value = {0, 0, 0, 0};
#pragma unroll 4
      for (int s = 0; s < splits; ++s) {
        const float w = __shfl_sync(
            kWholeWarp, s < kWarp ? weight[0] : weight[1], s % kWarp);
        if (c >= dim) continue;
        const float4 x = *reinterpret_cast<const float4*>(
            args.partial + (i * splits + s) * dim + c);
        value = {fmaf(w, x.x, value.x), fmaf(w, x.y, value.y),
                 fmaf(w, x.z, value.z), fmaf(w, x.w, value.w)};
      }
      if (c < dim) {
        *reinterpret_cast<float4*>(args.o + i * dim + c) = {
            factor * value.x, factor * value.y, factor * value.z,
            factor * value.w};
      }
    }
  }
}

int64_t SplitsOf(const DecodeAttentionArgs& args) {
  const int64_t blocks =
      std::max<int64_t>(1, args.tokens.bound * args.num_kv_heads);
  return std::clamp<int64_t>(std::min(CeilDiv(kWantedBlocks, blocks),
                                      CeilDiv(args.max_keys, kKeysOfPiece)),
                             1, kMaxPieces);
}

template <typename T, int kLanes, int kQ>
cudaError_t Launch(const DecodeAttentionArgs& args, cudaStream_t stream) {
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
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
  kernel_args.fault = args.fault;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound),
                  static_cast<unsigned>(args.num_kv_heads),
                  static_cast<unsigned>(kernel_args.splits));
  PieceKernel<T, kLanes, kQ><<<grid, kThreads, 0, stream>>>(kernel_args);
  JoinArgs join;
  join.tokens = args.tokens;
  join.num_heads = args.num_heads;
  join.splits = kernel_args.splits;
  join.dim = args.dim;
  join.partial = args.partial;
  join.max = args.max;
  join.sum = args.sum;
  join.o = args.o;
  return JoinPieces(join, stream);
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

cudaError_t JoinPieces(const JoinArgs& args, cudaStream_t stream) {
  JoinKernel<<<BlocksForRows(args.tokens.bound * args.num_heads), kBlock, 0,
               stream>>>(args);
  return cudaGetLastError();
}

cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasDecodeAttention(args)) return cudaErrorInvalidValue;
  return args.bf16_cache ? LaunchWidth<__nv_bfloat16>(args, stream)
                         : LaunchWidth<float>(args, stream);
}

}  // namespace strata::gpu
