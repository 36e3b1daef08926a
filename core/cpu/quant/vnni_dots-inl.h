// Products of quantised rows with VNNI and AVX-512: rows of x (QuantizedRows)
// by packed rows of w, whose scales and zeros are in registers as whole
// vectors.
//
//   w  64 bytes   --codes-->   a byte each, two blocks of 32 columns a vector
//   x  64 bytes   ----------------+
//                                 |  vpdpbusd: sums of four products
//                                 v
//   8 vectors of 2 blocks --sums within blocks--> a vector, a lane each of 16
//   blocks  --less zeros, in float, times scales--> added to a row's sum
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_VNNI_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_VNNI_DOTS_INL_H_
#undef CORE_CPU_QUANT_VNNI_DOTS_INL_H_
#else
#define CORE_CPU_QUANT_VNNI_DOTS_INL_H_
#endif

#include <array>
#include <cstdint>

#include "core/cpu/quant/activation_row.h"
#include "core/cpu/quant/quant_product.h"
#include "core/cpu/quant/scaling.h"
// Highway asks for this order.
#include "core/cpu/quant/vnni-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// As in vnni-inl.h.
#pragma GCC target("avx512vnni")

namespace strata {
namespace HWY_NAMESPACE {

using Floats = __m512;

HWY_INLINE Floats ZeroFloats() { return _mm512_setzero_ps(); }

// Rows of w whose code lies side by side in DotsOfOne.
constexpr int kRowsUnrolled = 4;

// Whether codes of kBits want x in the order of their halves.
template <int kBits>
inline constexpr bool kByHalves = kBits == 4;

// In which lane of BlockSums' sums each of 16 blocks is: half h of vector i is
// in lane i / 4 * 8 + h * 4 + i % 4. Of 2-bit and 8-bit codes vector i holds
// blocks 2 i and 2 i + 1; of 4-bit ones two vectors hold four blocks, the low
// halves of bytes 0 and 2, the high ones 1 and 3, but for the last vector where
// their number is odd.
template <int kBits, int kPairs>
HWY_INLINE __m512i LaneOfBlock() {
  alignas(64) static constexpr auto kLane = [] {
    std::array<int32_t, kLanes> lane = {};
    for (int b = 0; b < kLanes; ++b) {
      const bool halves =
          kBits == 4 && (b / 4 * 2 + 1 < kPairs || b / 4 * 2 >= kPairs);
      const int i = halves ? b / 4 * 2 + b % 2 : b / 2;
      const int half = halves ? b / 2 % 2 : b % 2;
      lane[b] = i / 4 * 8 + half * 4 + i % 4;
    }
    return lane;
  }();
  return _mm512_load_si512(kLane.data());
}

// Codes of kPairs pairs of blocks from w on, a byte each, a pair a vector.
template <int kBits, int kPairs>
HWY_INLINE void LoadCodes(const uint8_t* w, __m512i* codes) {
  if constexpr (kBits == 4) {
    const __m512i kLow = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int i = 0; i + 1 < kPairs; i += 2) {
      const __m512i both = _mm512_loadu_si512(w + i * kActivationBlock);
      codes[i] = _mm512_and_si512(both, kLow);
      codes[i + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), kLow);
    }
    if constexpr (kPairs % 2 != 0) {
      codes[kPairs - 1] = CodesAt<4>(w + (kPairs - 1) * kActivationBlock, true);
    }
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      codes[i] = CodesAt<kBits>(w + i * 2 * kActivationBlock * kBits / 8, true);
    }
  }
}

// Sums over 128 bits each of four vectors, side by side: of lanes L of 128 bits
// of a to d  [sum a, sum b, sum c, sum d].
template <int kBits>
HWY_INLINE __m512i AddUpLanes(__m512i a, __m512i b, __m512i c, __m512i d) {
  if constexpr (kBits <= 4) {
    // Four products of 15 * 128 at most a number, so that sixteen have 16 bits.
    const __m512i kOnes = _mm512_set1_epi16(1);
    const auto pairs = [&](__m512i p, __m512i q) HWY_ATTR
        __attribute__((always_inline)) {
      return _mm512_madd_epi16(_mm512_packs_epi32(p, q), kOnes);
    };
    return pairs(pairs(a, b), pairs(c, d));
  } else {
    const auto halves =
        [](__m512i p, __m512i q) HWY_ATTR __attribute__((always_inline)) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(p, q),
                              _mm512_unpackhi_epi32(p, q));
    };
    const __m512i p = halves(a, b), q = halves(c, d);
    return _mm512_add_epi32(_mm512_unpacklo_epi64(p, q),
                            _mm512_unpackhi_epi64(p, q));
  }
}

// Sums of the products of 16 blocks of codes, a lane each, by those from x on;
// of kPairs pairs of blocks that there are.
template <int kBits, int kPairs>
HWY_INLINE __m512i BlockSums(const __m512i* codes, const int8_t* x) {
  // Of two blocks eight sums of four each.
  const auto of_two = [&](int i) HWY_ATTR __attribute__((always_inline)) {
    return i < kPairs ? _mm512_dpbusd_epi32(
                            _mm512_setzero_si512(), codes[i],
                            _mm512_loadu_si512(x + i * 2 * kActivationBlock))
                      : _mm512_setzero_si512();
  };
  const auto of_eight = [&](int i) HWY_ATTR __attribute__((always_inline)) {
    if (i >= kPairs) return _mm512_setzero_si512();
    return AddUpLanes<kBits>(of_two(i), of_two(i + 1), of_two(i + 2),
                             of_two(i + 3));
  };
  const __m512i a = of_eight(0), b = of_eight(4);
  const __m512i sums = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88),
                                        _mm512_shuffle_i32x4(a, b, 0xDD));
  return _mm512_permutexvar_epi32(LaneOfBlock<kBits, kPairs>(), sums);
}

// Minus the sums of the codes of each of a row's blocks, of 16 bits if `low` is
// not null. Reads 512 codes at a time.
inline void MinusBlockSums(const int8_t* high, const int8_t* low,
                           int64_t blocks, int32_t* out) {
  __m512i ones[kLanes / 2];
  for (__m512i& v : ones) v = _mm512_set1_epi8(1);
  const auto sums_of = [&](const int8_t* x) HWY_ATTR
      __attribute__((always_inline)) {
    return BlockSums<8, kLanes / 2>(ones, x);
  };
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const int64_t at = first * kActivationBlock;
    __m512i sums = sums_of(high + at);
    if (low != nullptr) {
      sums = _mm512_add_epi32(_mm512_slli_epi32(sums, 8), sums_of(low + at));
    }
    const int64_t rest = blocks - first;
    const auto some =
        static_cast<__mmask16>(rest >= kLanes ? 0xFFFF : (1u << rest) - 1);
    _mm512_mask_storeu_epi32(out + first, some,
                             _mm512_sub_epi32(_mm512_setzero_si512(), sums));
  }
}

// Adds the products of kPairs pairs of blocks from block `first` on to
// sum [kRows].
template <int kBits, int kRows, bool kWide, Scaling kScaling, int kPairs>
HWY_INLINE void AddBlocks(const ActivationRow& x, const uint8_t* w,
                          const BlockGroups& groups, int64_t first,
                          __m512* sum) {
  __m512i codes[kPairs];
  LoadCodes<kBits, kPairs>(w + first * kActivationBlock * kBits / 8, codes);
  const __m512 scale = kScaling == Scaling::kBlocks
                           ? groups.ScalesOfBlocks<2 * kPairs>(w, first)
                           : groups.Scales(w, first);
  const __m512i zero = kScaling == Scaling::kZeros ? groups.Zeros(w, first)
                                                   : _mm512_setzero_si512();
  constexpr auto kMask = static_cast<__mmask16>((1u << 2 * kPairs) - 1);
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    const int64_t at = i * x.blocks + first;
    __m512i products =
        BlockSums<kBits, kPairs>(codes, x.high + at * kActivationBlock);
    if constexpr (kWide) {
      products = _mm512_add_epi32(
          _mm512_slli_epi32(products, 8),
          BlockSums<kBits, kPairs>(codes, x.low + at * kActivationBlock));
    }
    // Behind the last block the first reads what comes next in memory, which
    // the second, having no such blocks, leaves out.
    products = _mm512_add_epi32(
        products, TimesZero<kBits, kScaling != Scaling::kZeros>(
                      _mm512_loadu_si512(x.minus_sum + at), zero));
    sum[i] = _mm512_fmadd_ps(
        _mm512_cvtepi32_ps(products),
        _mm512_maskz_mul_ps(kMask, scale, _mm512_loadu_ps(x.scale + at)),
        sum[i]);
  }
}

// The totals of four vectors. Each is made in the same order whichever of the
// four it is: of 128 bits (0 + 2) + (1 + 3), and of these likewise.
HWY_INLINE __m128 Totals(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 p =
      _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 q =
      _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low =
      _mm512_unpacklo_pd(_mm512_castps_pd(p), _mm512_castps_pd(q));
  const __m512d high =
      _mm512_unpackhi_pd(_mm512_castps_pd(p), _mm512_castps_pd(q));
  const __m512 r = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 s = _mm256_add_ps(
      _mm512_castps512_ps256(r),
      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(r), 1)));
  return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // HWY_TARGET == HWY_AVX3_DL
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_VNNI_DOTS_INL_H_
