// Products of a warp's 32 rows of packed weights by 8 to 32 rows of x, in BF16
// products of 16 x 8 x 16 with F32 sums, that take codes as they lie.
//
// The last eight bits of a BF16 whose others are 0 are an integer times 2^-133:
// those below 2^-126 have no hidden one, and those from there to 2^-125 are as
// far from each other. So a mask makes operands of a word of codes,
//
//   INT4   word & 0x000f000f    two codes of a piece, times 2^-133
//          word & 0x00f000f0    two of the next one, times 2^-129
//   INT8   word & 0x00ff00ff    two codes, times 2^-133
//
// and of the word eight bits further on the others, where codes that are to be
// numbers of their own take a shift and a subtraction each. x makes up for it:
// scaled by 2^64, or 2^60 where it meets the high halves, it gives sums that
// are 2^-69 of what they stand for, far from where F32 loses bits (|x| from
// 2^-57 on; sums of less are off by 2^-80 at most). |x| must be below 2^63.
//
// Codes are those of numbers and a zero. What all zeros sum up to with x, which
// is the same for all rows of w, is what sums begin from, negative.

#ifndef CUDA_KERNELS_BARE_CODES_CUH_
#define CUDA_KERNELS_BARE_CODES_CUH_

#include <cstdint>

#include "cuda/kernels/packed_chunk.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// Of columns of x in piece `piece`.
template <int kBits>
__device__ __forceinline__ float ScaleOfX(int piece) {
  return IsHigh<kBits>(piece) ? 0x1p60f : 0x1p64f;
}
constexpr float kScaleOfSums = 0x1p69f;

// Eight columns in BF16, scaled, in the order of a thread's slots.
__device__ __forceinline__ uint4 ScaledEight(const uint4& v, float scale) {
  const __nv_bfloat162 twice = __float2bfloat162_rn(scale);
  const auto scaled = [&](uint32_t pair) {
    return PairOf(__hmul2(AsPair(pair), twice));
  };
  const uint4 eight = OrderedEight(v);
  return {scaled(eight.x), scaled(eight.y), scaled(eight.z), scaled(eight.w)};
}

// Columns that are summed before a scale, of a chunk; and how many vectors the
// chunk's sums of zeros are: a part behind the other, of each 8 rows of x a
// vector for each of the four threads that share a row of w.
template <int kBits, int kGroupShift>
constexpr int kPartPieces = (kBits == 4 && kGroupShift == 7) ? 4
                            : kGroupShift == 5               ? 1
                                                             : 2;
template <int kBits, int kProducts, int kGroupShift>
constexpr int kOffsetsOfChunk =
    kChunkPieces<kBits> / kPartPieces<kBits, kGroupShift>* kProducts * 4;

// Bytes `which` and `which` + 2 of `word`; of INT4 the half that is kHigh.
template <int kBits, bool kHigh>
__device__ __forceinline__ uint32_t BareCodes(uint32_t word, int which) {
  constexpr uint32_t kMask = kBits == 8 ? 0x00ff00ffu
                             : kHigh    ? 0x00f000f0u
                                        : 0x000f000fu;
  return word >> (8 * which) & kMask;
}
// The same of piece `p`, after unrolling.
template <int kBits>
__device__ __forceinline__ uint32_t BareCodesOf(int p, uint32_t word,
                                                int which) {
  return IsHigh<kBits>(p) ? BareCodes<kBits, true>(word, which)
                          : BareCodes<kBits, false>(word, which);
}

// Weights of a symmetric row from its codes, in one instruction a pair: times
// 2^-69, which scales as they are here leave, rounded once.
template <int kBits>
struct BareWeights {
  __nv_bfloat162 low, high, zero;

  // `twice`: the scale, two times.
  __device__ __forceinline__ explicit BareWeights(uint32_t twice)
      : low(__hmul2(AsPair(twice), __float2bfloat162_rn(0x1p64f))),
        high(__hmul2(AsPair(twice), __float2bfloat162_rn(0x1p60f))),
        zero(__hmul2(AsPair(twice), __float2bfloat162_rn(
                                        kBits == 4 ? -0x1p-66f : -0x1p-62f))) {}

  // Of BareCodes().
  template <bool kHigh>
  __device__ __forceinline__ uint32_t Pair(uint32_t codes) const {
    return PairOf(__hfma2(AsPair(codes), kHigh ? high : low, zero));
  }
};

// d = c + a b.
__device__ __forceinline__ void MultiplyAddTo(float (&d)[4], const float4& c,
                                              const uint32_t (&a)[4],
                                              uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c.x),
        "f"(c.y), "f"(c.z), "f"(c.w));
}

// The sums of a part's pieces, of 16 rows of w at a time: `begin(u)` is what
// they begin from, `word(m, half, p, j)` are codes, `x(p, u)` the thread's
// eight columns of a piece of a row of x.
template <int kBits, int kProducts, int kRowTiles, int kPieces, typename Begin,
          typename Word, typename X>
__device__ __forceinline__ void SumPart(int first_piece, Begin begin, Word word,
                                        X x,
                                        float (&sum)[kRowTiles][kProducts][4]) {
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int p = first_piece + i;
    uint4 b[kProducts];
#pragma unroll
    for (int u = 0; u < kProducts; ++u) b[u] = x(p, u);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        uint32_t a[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t w = word(m, half, p, j);
          a[half] = BareCodesOf<kBits>(p, w, 0);
          a[half + 2] = BareCodesOf<kBits>(p, w, 1);
        }
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
          float(&d)[4] = sum[m][u];
          const uint32_t b0 = j == 0 ? b[u].x : b[u].z;
          const uint32_t b1 = j == 0 ? b[u].y : b[u].w;
          MultiplyAddTo(d,
                        i + j == 0 ? begin(u) : float4{d[0], d[1], d[2], d[3]},
                        a, b0, b1);
        }
      }
    }
  }
}

// What sums of a chunk begin from, by a warp.
template <int kBits, int kProducts, int kGroupShift, typename X>
__device__ __forceinline__ void StoreOffsets(X x, float2* to) {
  constexpr int kPieces = kPartPieces<kBits, kGroupShift>;
  constexpr uint32_t kZeros = kBits == 4 ? 0x88888888u : 0x80808080u;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int p = 0; p < kChunkPieces<kBits>; p += kPieces) {
    float sum[1][kProducts][4];
    SumPart<kBits, kProducts, 1, kPieces>(
        p, [](int) { return float4{}; },
        [](int, int, int, int) { return kZeros; }, x, sum);
    if (lane < 4) {
#pragma unroll
      for (int u = 0; u < kProducts; ++u) {
        const float(&d)[4] = sum[0][u];
        to[(p / kPieces * kProducts + u) * 4 + lane] = {-d[0], -d[1]};
      }
    }
  }
}

// Adds a chunk of 32 rows of w: thread (g, t) of a warp has rows g, g + 8,
// g + 16 and g + 24, and of total[m][u] those of rows 16 m + g and eight below
// for rows 8 u + 2 t and the next of x.
template <int kBits, int kProducts, int kGroupShift, typename X>
__device__ __forceinline__ void AddBareChunk(const Chunk<kBits> (&row)[4], X x,
                                             const float2* offsets,
                                             float (&total)[2][kProducts][4]) {
  constexpr int kPieces = kPartPieces<kBits, kGroupShift>;
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int p = 0; p < kChunkPieces<kBits>; p += kPieces) {
    float sum[2][kProducts][4];
    SumPart<kBits, kProducts, 2, kPieces>(
        p,
        [&](int u) {
          const float2 v = offsets[(p / kPieces * kProducts + u) * 4 + t];
          return float4{v.x, v.y, v.x, v.y};
        },
        [&](int m, int half, int piece, int j) {
          return row[2 * m + half].code[WordOf<kBits>(piece, j)];
        },
        x, sum);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float upper = row[2 * m].Scale(p), lower = row[2 * m + 1].Scale(p);
#pragma unroll
      for (int u = 0; u < kProducts; ++u) {
        float(&to)[4] = total[m][u];
        to[0] = fmaf(upper, sum[m][u][0], to[0]);
        to[1] = fmaf(upper, sum[m][u][1], to[1]);
        to[2] = fmaf(lower, sum[m][u][2], to[2]);
        to[3] = fmaf(lower, sum[m][u][3], to[3]);
      }
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_BARE_CODES_CUH_
