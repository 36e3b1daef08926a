// A loop of decode attention (decode_kernel.cuh) in which lanes multiply their
// columns.
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
// A Source brings keys and values of a warp's time to shared memory, and a lane
// its columns of them:
//
//   kLanes, kVec             lanes to a key, and columns of a lane
//   kHeadBytes, kStageBytes  of a head, and of what a block has of one time
//   kFinds, Find(i)          keys of a time that a lane looks up
//   Ask(stage, row)          copies on their way, of the rows that were found
//   Key(stage, step, x),     kVec numbers, in units of what is returned
//   Value(stage, step, x)
//   kOfWarp                  whether lanes read what others have asked for

#ifndef CUDA_OPS_HEADS_DECODE_LANES_CUH_
#define CUDA_OPS_HEADS_DECODE_LANES_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_kernel.cuh"
#include "cuda/ops/heads/decode_pieces.cuh"

namespace strata::gpu::decode {

constexpr int kSteps = 4;
constexpr int kStages = 2;

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

template <typename Source, int q_heads>
class LanesLoop {
 public:
  struct Maps {};
  static constexpr int kQ = q_heads;
  static constexpr int kLanes = Source::kLanes, kVec = Source::kVec;
  static constexpr int kDim = kLanes * kVec;
  static constexpr int kHeadBytes = Source::kHeadBytes;
  // By shared memory, or with many heads registers.
  static constexpr int kBlocks = kQ > 4 ? 1 : 2;
  // Stages of floats; others have less.
  static constexpr size_t kSharedBytes =
      sizeof(uint4) * kStages * 2 * kSteps * kThreads;
  static_assert(kStages * Source::kStageBytes <= kSharedBytes);

  template <typename Wait>
  static __device__ __forceinline__ void Run(const Work<LanesLoop>& work,
                                             const Wait& wait) {
    constexpr int kFinds = Source::kFinds;  // Keys that a lane looks up.
    constexpr int kHigh = kWarp / kLanes;   // Keys of a load,
    constexpr int kKeys = kHigh * kSteps;   // and of a warp at a time.
    constexpr int kSums = kSteps * kQ;      // Index: step * kQ + head.
    constexpr int kMine = kSums > kLanes ? kSums / kLanes : 1;
    constexpr int kApart = kSums > kLanes ? 1 : kLanes / kSums;
    static_assert(kMine <= kQ, "a lane's scores are of one key");
    const Args& args = work.args;
    const RowsOfToken& rows = work.rows;
    const int64_t token = work.token;
    const int head = work.head(), end = work.piece.end;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int high = Lane() / kLanes, low = Lane() % kLanes;
    float* const joined = reinterpret_cast<float*>(work.memory);
    const Source source(args, work.kv_head, work.memory);

    // Whether keys of a warp at a time are in one block: a word of the table
    // then says where they all are.
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
    int key = work.piece.begin + warp * kKeys;
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
    // Of the scores that are this lane's: kMine heads from my_head on, of one
    // key of the load my_step.
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
        work.max_of[warp][my_head + i] = max[i];
        work.sum_of[warp][my_head + i] = sum[i];
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
        if (high == 0)
          joined[(warp * kQ + h) * kDim + low * kVec + i] = o[h][i];
      }
    }
  }
};

template <typename Source>
cudaError_t LaunchHeads(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int group = args.num_heads / args.num_kv_heads;
  if (group <= 1) return Launch<LanesLoop<Source, 1>>(args, stream);
  if (group <= 2) return Launch<LanesLoop<Source, 2>>(args, stream);
  if (group <= 4) return Launch<LanesLoop<Source, 4>>(args, stream);
  return Launch<LanesLoop<Source, 8>>(args, stream);
}

}  // namespace strata::gpu::decode

#endif  // CUDA_OPS_HEADS_DECODE_LANES_CUH_
