// A loop of decode attention (cuda/ops/heads/decode_kernel.cuh) over keys and
// values in codes, whose products are the tensor cores'.
//
// A warp takes 32 keys at a time, which are on their way to shared memory
// (packed_copies.cuh) while it is at work on others: the next keys from when
// their place has been read, the next values likewise.
//
//   scores    codes of keys by q, in 16 bits of a head's largest, a column of
//             the product for each of two bytes of four heads; a group's sum is
//             exact and becomes a float by the key's scale
//   softmax   a lane has the scores of four keys of one head, the same four of
//             which it makes an operand of the next product
//   values    weight times scale, in 16 bits of the largest scale of the tile's
//             group, by codes of values; sums are exact, then scaled and added
//             to floats
//
// So what is rounded is q and weights: by 2^-17 of what is largest.
//
// A warp has one KV head, or several that lie beside each other: then fewer
// sectors of memory that two warps read, and fewer rows for the copy engine.

#ifndef CUDA_OPS_CACHE_PACKED_LOOP_CUH_
#define CUDA_OPS_CACHE_PACKED_LOOP_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/ops/cache/packed_copies.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_products.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/decode_kernel.cuh"
#include "cuda/ops/heads/decode_pieces.cuh"

namespace strata::gpu {

// Of so many KV heads, each with up to 4 * products query heads.
template <PackedFormat format, int dim, int kv_heads, int products,
          template <typename Tile, int kDeep> class TileCopies>
class PackedLoop {
 public:
  using Tile = CacheTile<format, dim, kv_heads>;
  static constexpr int kKvHeads = kv_heads;
  static constexpr int kDim = dim, kProducts = kv_heads * products;
  static constexpr int kQ = 4 * kProducts;
  static constexpr int kHeadBytes = Tile::kKeyBytes;
  static constexpr int kGroups = Tile::kGroups;
  // Keys and values on their way: two tiles where two blocks have the room.
  static constexpr int kTilesBytes = decode::kWarps * 2 * Tile::kBytes;
  static constexpr int kDeep = kTilesBytes <= 44 << 10 ? 2 : 1;
  static constexpr int kBlocks =
      kTilesBytes * kDeep <= 96 << 10 && kProducts * kGroups <= 8 ? 2 : 1;
  using Copies = TileCopies<Tile, kDeep>;
  using Maps = typename Copies::Maps;
  // Operands of weights: two words a lane.
  static constexpr int kWeightBytes = kProducts * kGroups * kWarp * 8;
  static constexpr size_t kSharedBytes =
      kTilesBytes * kDeep +
      decode::kWarps * (kWeightBytes + Copies::kBarrierBytes);
  static_assert(decode::kKeysOfPiece % kTileKeys == 0);

  template <typename Wait>
  static __device__ __forceinline__ void Run(
      const decode::Work<PackedLoop>& work, const Wait& wait) {
    if constexpr (STRATA_SM90A || !Copies::kHopper) {
      PackedLoop(work).Over(work, wait);
    }
  }

 private:
  __device__ __forceinline__ explicit PackedLoop(
      const decode::Work<PackedLoop>& work)
      : g_(Lane() / 4),
        t_(Lane() % 4),
        warp_(static_cast<int>(threadIdx.x) / kWarp) {
    auto* const memory = reinterpret_cast<uint8_t*>(work.memory);
    keys_ = memory + warp_ * 2 * kDeep * Tile::kBytes;
    weights_ = reinterpret_cast<uint2*>(memory + kTilesBytes * kDeep) +
               warp_ * (kWeightBytes / 8);
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
      max_[n] = -INFINITY;
      sum_[n] = 0;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) o_[n][i][c] = 0;
      }
    }
  }

  template <typename Wait>
  __device__ __forceinline__ void Over(const decode::Work<PackedLoop>& work,
                                       const Wait& wait) {
    const int end = work.piece.end;
    auto* const barriers = reinterpret_cast<uint64_t*>(
        reinterpret_cast<uint8_t*>(work.memory) + kTilesBytes * kDeep +
        decode::kWarps * kWeightBytes + warp_ * Copies::kBarrierBytes);
    const Copies copies(work.args, work.maps, work.rows, work.kv_head, end,
                        barriers);
    constexpr int kStride = decode::kWarps * kTileKeys;
    int key = work.piece.begin + warp_ * kTileKeys;
    int32_t next = 0;  // What was found of the first tile not asked for.
    {
      int32_t found[kDeep] = {};
#pragma unroll
      for (int i = 0; i < kDeep; ++i) {
        const int of = key + i * kStride;
        if (of < end) found[i] = copies.Find(of);
      }
#pragma unroll
      for (int i = 0; i < kDeep; ++i) {
        const int of = key + i * kStride;
        const bool there = of < end;
        typename Copies::Place place = 0;
        if (there) place = copies.PlaceOf(found[i], of);
        copies.template Ask<kOfKeys>(there, Keys(i), i, of, place);
        copies.template Ask<kOfValues>(there, Values(i), i, of, place);
      }
    }
    if (key + kDeep * kStride < end) next = copies.Find(key + kDeep * kStride);

    wait();
    LoadQueries(work.args, work.token * work.args.num_heads + work.head());
    uint32_t phase = 0;
    for (int stage = 0; key < end; key += kStride) {
      const int later = key + kDeep * kStride;
      const bool more = later < end;
      typename Copies::Place place = 0;
      if (more) place = copies.PlaceOf(next, later);
      copies.template WaitFor<kOfKeys>(stage, phase);
      float score[kProducts][4];
      Score(Keys(stage) + copies.Shift(), score);
      __syncwarp();
      copies.template Ask<kOfKeys>(more, Keys(stage), stage, later, place);
      float weight[kProducts][4];
      Weigh(score, end - key, weight);
      copies.template WaitFor<kOfValues>(stage, phase);
      Add(Values(stage) + copies.Shift(), end - key, weight);
      __syncwarp();
      copies.template Ask<kOfValues>(more, Values(stage), stage, later, place);
      if (later + kStride < end) next = copies.Find(later + kStride);
      if (++stage == kDeep) {
        stage = 0;
        phase ^= 1;
      }
    }
    __syncthreads();  // Nobody reads keys or values any more.
    Leave(work);
  }

  // Tiles of this warp.
  __device__ __forceinline__ uint8_t* Keys(int stage) const {
    return keys_ + stage * Tile::kBytes;
  }
  __device__ __forceinline__ uint8_t* Values(int stage) const {
    return keys_ + (kDeep + stage) * Tile::kBytes;
  }

  // Heads [first, first + group) as operands: column 2 h + i of a product is
  // byte i of its head h, high first.
  __device__ __forceinline__ void LoadQueries(const decode::Args& args,
                                              int64_t first) {
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
      const int h = HeadOf(args, n, g_ / 2);
      float x[kGroups][2][4];
      float largest = 0;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float4 q = {0, 0, 0, 0};
          if (h >= 0) {
            q = *reinterpret_cast<const float4*>(
                args.q + (first + h) * kDim + i * kPackedGroup +
                half * (kPackedGroup / 2) + 4 * t_);
          }
          const float of[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            x[i][half][c] = args.factor * of[c];
            largest = LargerOf(largest, x[i][half][c]);
          }
        }
      }
      largest = LargerOf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = LargerOf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      const Whole whole = WholeOf(largest);
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        uint32_t bytes[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (float& at : x[i][half]) at = fmaf(at, whole.scale, kBytesOf);
          const BytesOfFour four = SplitFour(x[i][half]);
          bytes[half] = g_ % 2 == 0 ? four.high : four.low;
        }
        q_[n][i] = {bytes[0], bytes[1]};
      }
      // Scores of head t are in lanes t of each g.
      unit_[n] = Tile::kUnit * __shfl_sync(kWholeWarp, whole.unit, t_ * 2 * 4);
    }
  }
  // Which of the block's query heads is one of a product's four; -1: none.
  static __device__ __forceinline__ int HeadOf(const decode::Args& args, int n,
                                               int i) {
    const int of_kv_head = args.group / kKvHeads;
    const int h = n % products * 4 + i;
    return h < of_kv_head ? n / products * of_kv_head + h : -1;
  }
  // By their bits: a NaN is larger than all.
  static __device__ __forceinline__ float LargerOf(float largest, float x) {
    return __uint_as_float(
        max(__float_as_uint(largest), __float_as_uint(x) & 0x7FFFFFFF));
  }

  // Of head t of each product and key TileKey(g, j).
  __device__ __forceinline__ void Score(const uint8_t* tile,
                                        float (&score)[kProducts][4]) const {
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
#pragma unroll
      for (int kv = 0; kv < kKvHeads; ++kv) {
        const uint8_t* const head = tile + kv * Tile::kHeadBytes;
        const uint8_t* key[2] = {head + TileKey(g_, j) * Tile::kPitch,
                                 head + TileKey(g_, j + 1) * Tile::kPitch};
        float total[products][2] = {};
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          uint32_t a[4];
          Tile::Keys(key, i, t_, a);
          const float scale[2] = {Tile::Scale(key[0], i),
                                  Tile::Scale(key[1], i)};
#pragma unroll
          for (int p = 0; p < products; ++p) {
            int sum[4] = {0, 0, 0, 0};
            MultiplyBytes(sum, a, q_[kv * products + p][i]);
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              total[p][k] = fmaf(JoinBytes(sum[2 * k], sum[2 * k + 1]),
                                 scale[k], total[p][k]);
            }
          }
        }
#pragma unroll
        for (int p = 0; p < products; ++p) {
          const int n = kv * products + p;
          score[n][j] = unit_[n] * total[p][0];
          score[n][j + 1] = unit_[n] * total[p][1];
        }
      }
    }
  }

  // Weights of scores, the first `seen` keys of a tile being there, by the
  // maximum till now, which what is there already is made to follow.
  __device__ __forceinline__ void Weigh(const float (&score)[kProducts][4],
                                        int seen,
                                        float (&weight)[kProducts][4]) {
    float keep[kProducts];
    bool same = true;
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
      float mine[4], largest = max_[n];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mine[j] = TileKey(g_, j) < seen ? score[n][j] : -INFINITY;
        largest = fmaxf(largest, mine[j]);
      }
#pragma unroll
      for (int d = 4; d < kWarp; d *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, d));
      }
      keep[n] = exp2f(max_[n] - largest);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        weight[n][j] = exp2f(mine[j] - largest);
        sum += weight[n][j];
      }
      sum_[n] = fmaf(sum_[n], keep[n], sum);
      same &= max_[n] == largest;
      max_[n] = largest;
    }
    if (__all_sync(kWholeWarp, same)) return;
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) o_[n][i][c] *= keep[n];
      }
    }
  }

  // Values of a tile, of which the first `seen` are there, by their weights, to
  // o.
  __device__ __forceinline__ void Add(const uint8_t* tile, int seen,
                                      const float (&weight)[kProducts][4]) {
    float unit[kKvHeads][kGroups];
#pragma unroll
    for (int kv = 0; kv < kKvHeads; ++kv) {
      const uint8_t* const head = tile + kv * Tile::kHeadBytes;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        float scale[4], largest = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scale[j] = Tile::Scale(head + TileKey(g_, j) * Tile::kPitch, i);
          if (!Copies::kAllAreKeys && TileKey(g_, j) >= seen) scale[j] = 0;
          largest = LargerOf(largest, scale[j]);
        }
        const Whole whole = WholeOf(__uint_as_float(
            __reduce_max_sync(kWholeWarp, __float_as_uint(largest))));
        unit[kv][i] = Tile::kUnit * whole.unit;
#pragma unroll
        for (int p = 0; p < products; ++p) {
          const int n = kv * products + p;
          float x[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            x[j] = fmaf(weight[n][j] * scale[j], whole.scale, kBytesOf);
          }
          const BytesOfFour four = SplitFour(x);
          weights_[(n * kGroups + i) * kWarp + Lane()] = {four.high, four.low};
        }
      }
    }
    __syncwarp();
    // Lane (g, t) wants of column g, which is byte g % 2 of head g / 2, the
    // keys of lanes (t, .) and (t + 4, .).
    const auto* const mine =
        reinterpret_cast<const uint32_t*>(weights_) + 8 * t_ + g_;
#pragma unroll
    for (int kv = 0; kv < kKvHeads; ++kv) {
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        uint32_t a[2][4];
        Tile::Values(tile + kv * Tile::kHeadBytes, i, g_, t_, a);
#pragma unroll
        for (int p = 0; p < products; ++p) {
          const int n = kv * products + p;
          const uint32_t* const from = mine + (n * kGroups + i) * 2 * kWarp;
          const uint2 b = {from[0], from[kWarp]};
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            int sum[4] = {0, 0, 0, 0};
            MultiplyBytes(sum, a[half], b);
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              float& o = o_[n][i][2 * half + k];
              o = fmaf(JoinBytes(sum[2 * k], sum[2 * k + 1]), unit[kv][i], o);
            }
          }
        }
      }
    }
  }

  // What joining wants of this warp.
  __device__ __forceinline__ void Leave(const decode::Work<PackedLoop>& work) {
    float* const joined = reinterpret_cast<float*>(work.memory);
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
#pragma unroll
      for (int d = 4; d < kWarp; d *= 2) {
        sum_[n] += __shfl_xor_sync(kWholeWarp, sum_[n], d);
      }
      const int h = HeadOf(work.args, n, t_);
      if (h < 0) continue;
      if (g_ == 0) {
        work.max_of[warp_][h] = max_[n];
        work.sum_of[warp_][h] = sum_[n];
      }
      float* const to = joined + (warp_ * kQ + h) * kDim;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          to[i * kPackedGroup + Tile::ValueColumn(g_, c)] = o_[n][i][c];
        }
      }
    }
  }

  int g_, t_, warp_;
  uint8_t* keys_;   // [kDeep] tiles of this warp, then as many of values.
  uint2* weights_;  // [kProducts, kGroups, lanes]
  uint2 q_[kProducts][kGroups];
  float unit_[kProducts];  // Of scores of each product's head t.
  float max_[kProducts], sum_[kProducts];
  float o_[kProducts][kGroups][4];
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_LOOP_CUH_
