// Decode attention (decode_attention.h) over caches of any format.
//
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
//
// A Source brings keys and values of a warp's time to shared memory, and a lane
// its columns of them:
//
//   kLanes, kVec             lanes to a key, and columns of a lane
//   kHeadBytes, kStageBytes  of a head, and of what a block has of one time
//   kFinds, Find(i)          keys of a time that a lane looks up
//   Ask(stage, row)          copies on their way, of the rows that were found
//   Key(stage, step, x), Value(...)   kVec numbers, in units of what is
//   returned kOfWarp                  whether lanes read what others have asked
//   for

#ifndef CUDA_OPS_DECODE_KERNEL_CUH_
#define CUDA_OPS_DECODE_KERNEL_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/cache_places.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode_attention.h"
#include "cuda/ops/decode_pieces.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu::decode {

// Block (token and KV head, piece), a warp some of its keys.
template <typename Source, int kQ>
__global__ void __launch_bounds__(kThreads, BlocksOfProcessor(kQ))
    PieceKernel(const Args args) {
  constexpr int kLanes = Source::kLanes, kVec = Source::kVec;
  constexpr int kFinds = Source::kFinds;  // Keys that a lane looks up.
  constexpr int kDim = kLanes * kVec;
  constexpr int kHigh = kWarp / kLanes;  // Keys of a load,
  constexpr int kKeys = kHigh * kSteps;  // and of a warp at a time.
  constexpr int kSums = kSteps * kQ;     // Index: step * kQ + head.
  constexpr int kMine = kSums > kLanes ? kSums / kLanes : 1;
  constexpr int kApart = kSums > kLanes ? 1 : kLanes / kSums;
  static_assert(kMine <= kQ, "a lane's scores are of one key");
  static_assert(sizeof(float) * kWarps * kQ * kDim <= kSharedBytes);
  static_assert(kStages * Source::kStageBytes <= kSharedBytes);
  // Eight lanes' copies are a line of 128 bytes in shared memory, or each
  // sector of theirs is fetched twice.
  extern __shared__ __align__(128) uint4 memory[];
  float* const joined = reinterpret_cast<float*>(memory);  // [kWarps, kQ, kDim]
  __shared__ float max_of[kWarps][kQ], sum_of[kWarps][kQ];

  bool waited = false;
  const auto wait = [&waited] {
    if (waited) return;
    WaitForEarlier();
    LetLaterBegin();
    waited = true;
  };
  if (!args.ahead) wait();
  // All heads of a token at about the same time: those of a key lie together.
  const int64_t token = blockIdx.x / args.num_kv_heads;
  if (token >= args.tokens.Get()) return wait();
  const int kv_head = static_cast<int>(blockIdx.x % args.num_kv_heads);
  const int64_t pair = token * args.num_kv_heads + kv_head;
  const int head = kv_head * args.group;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int high = Lane() / kLanes, low = Lane() % kLanes;
  const RowsOfToken rows(args.places, token);
  const Piece piece = PieceOf(args, token);
  if (blockIdx.y >= piece.pieces) return wait();
  if (!piece.old) wait();
  const int end = piece.end;
  const Source source(args, kv_head, memory);

  // Whether keys of a warp at a time are in one block: a word of the table then
  // says where they all are.
  static_assert(kKeysOfPiece % kKeys == 0);
  const bool together =
      args.places.table == nullptr ||
      (args.window == 0 && args.places.block_size % kKeys == 0);
  // A key of a warp's time, the first of which is `key`.
  const auto key_of = [&](int key, int index) {
    return min(key + index, end - 1);
  };
  // What the table says of those that this lane looks up; only ask() looks at
  // it, a time later.
  const auto find = [&](int key, int32_t(&block)[kFinds]) {
    block[0] = rows.BlockOf(key);
    if (together) return;
#pragma unroll
    for (int i = 0; i < kFinds; ++i) {
      block[i] = rows.BlockOf(key_of(key, Source::Find(i)));
    }
  };
  const auto ask = [&](int stage, int key, const int32_t(&block)[kFinds]) {
    int64_t row[kFinds];
#pragma unroll
    for (int i = 0; i < kFinds; ++i) {
      row[i] = rows.In(together ? block[0] : block[i],
                       key_of(key, Source::Find(i)), args.fault);
    }
    source.Ask(stage, row);
  };
  constexpr int kStride = kWarps * kKeys;
  int key = piece.begin + warp * kKeys;
  int32_t next[kFinds] = {};
  {
    int32_t block[kStages][kFinds] = {};
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

  wait();
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
    if constexpr (Source::kOfWarp) __syncwarp();
    float score[kSums];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float x[kVec];
      const float unit = source.Key(stage, s, x);
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kVec; ++i) dot = fmaf(q[h][i], x[i], dot);
        score[s * kQ + h] = Source::kOfWarp ? dot * unit : dot;
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
      const float unit = source.Value(stage, s, x);
#pragma unroll
      for (int h = 0; h < kQ; ++h) {
        float weight =
            __shfl_sync(kWholeWarp, p[h % kMine], lane_of(s * kQ + h));
        if constexpr (Source::kOfWarp) weight *= unit;
#pragma unroll
        for (int i = 0; i < kVec; ++i) o[h][i] = fmaf(weight, x[i], o[h][i]);
      }
    }
    if constexpr (Source::kOfWarp) __syncwarp();
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

template <typename Source, int kQ>
cudaError_t Launch(const DecodeAttentionArgs& args, cudaStream_t stream) {
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
  kernel_args.num_kv_heads = args.num_kv_heads;
  kernel_args.group = args.num_heads / args.num_kv_heads;
  kernel_args.splits = static_cast<int>(SplitsOf(args));
  kernel_args.head_bytes = Source::kHeadBytes;
  kernel_args.row_bytes = int64_t{args.num_kv_heads} * Source::kHeadBytes;
  kernel_args.factor = args.scale * 1.4426950408889634f;  // For powers of 2.
  kernel_args.window = args.window;
  kernel_args.ahead = args.old_keys_stay;
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
  auto* const kernel = PieceKernel<Source, kQ>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.num_kv_heads),
                  static_cast<unsigned>(kernel_args.splits));
  return LaunchAhead(kernel, grid, dim3(kThreads), kSharedBytes, stream,
                     kernel_args);
}

template <typename Source>
cudaError_t LaunchHeads(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int group = args.num_heads / args.num_kv_heads;
  if (group <= 1) return Launch<Source, 1>(args, stream);
  if (group <= 2) return Launch<Source, 2>(args, stream);
  if (group <= 4) return Launch<Source, 4>(args, stream);
  return Launch<Source, 8>(args, stream);
}

}  // namespace strata::gpu::decode

#endif  // CUDA_OPS_DECODE_KERNEL_CUH_
