// Products of quantised rows with AVX2: rows of x (QuantizedRows) by packed
// rows of w, a block of 32 columns a vector.
//
//   w  32 bytes   --codes-->   a byte each, a block of 32 columns a vector
//   x  32 bytes   ----------------+
//                                 |  vpmaddubsw: sums of two products, 16 bits
//                                 v
//   8 vectors of a block --sums within blocks--> a vector, a lane each of 8
//   blocks  --less zeros, in float, times scales--> added to a row's sum
//
// Codes of 8 bits are taken less 128, as magnitudes by x with their signs: two
// of 255 * 127 are more than 16 bits hold, two of 128 * 127 are not.
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_AVX2_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_AVX2_DOTS_INL_H_
#undef CORE_CPU_QUANT_AVX2_DOTS_INL_H_
#else
#define CORE_CPU_QUANT_AVX2_DOTS_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "core/cpu/quant/activation_row.h"
#include "core/cpu/quant/quant_product.h"
#include "core/cpu/quant/scaling.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX2
namespace strata {
namespace HWY_NAMESPACE {

// Blocks of 32 columns that are scaled together, a lane each: 256 columns.
constexpr int64_t kLanes = 8;
using Floats = __m256;

HWY_INLINE Floats ZeroFloats() { return _mm256_setzero_ps(); }

// Rows of w whose code lies side by side in DotsOfOne; four were no faster.
constexpr int kRowsUnrolled = 1;

// Whether codes of kBits want x in the order of their halves.
template <int kBits>
inline constexpr bool kByHalves = false;

// The lanes below n, all bits each.
HWY_INLINE __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

// Where the scales and zeros of a row's blocks lie.
struct BlockGroups {
  int64_t offset;  // Of the scales in a row, and of the zeros.
  int64_t zero_offset;
  int64_t blocks;  // Of a row, that have columns.
  int shift;       // A group is 2^shift blocks.
  __m256i lane;    // Of 8 blocks, how many groups each is behind.

  HWY_INLINE BlockGroups(const QuantFormat& format, int64_t k) {
    const PackedRow layout(format, k);
    offset = layout.code_bytes;
    zero_offset = offset + 2 * layout.num_groups;
    blocks = (k + 31) / 32;
    shift = GroupShift(format);
    lane = format.group == 0
               ? _mm256_setzero_si256()
               : _mm256_srl_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0),
                                  _mm_cvtsi32_si128(shift));
  }

  // Of the 8 blocks from `first` on of packed row w, 0 behind the last.
  HWY_INLINE __m256 Scales(const uint8_t* w, int64_t first) const {
    const int64_t there = blocks - first;
    const __m128i of_groups =
        FirstBytes(w + offset + 2 * (first >> shift), 2 * GroupsOf(there));
    const __m256i of_blocks =
        _mm256_permutevar8x32_epi32(Widen(of_groups), lane);
    return _mm256_castsi256_ps(
        there >= kLanes ? of_blocks
                        : _mm256_and_si256(of_blocks, FirstLanes(there)));
  }
  // The same where each of kBlocks blocks that there are has its own; an even
  // number.
  template <int kBlocks>
  HWY_INLINE __m256 ScalesOfBlocks(const uint8_t* w, int64_t first) const {
    const uint8_t* const from = w + offset + 2 * first;
    if constexpr (kBlocks == kLanes) {
      return _mm256_castsi256_ps(
          Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
    } else {
      const __m128i some = _mm256_castsi256_si128(FirstLanes(kBlocks / 2));
      return _mm256_castsi256_ps(
          Widen(_mm_maskload_epi32(reinterpret_cast<const int*>(from), some)));
    }
  }
  HWY_INLINE __m256i Zeros(const uint8_t* w, int64_t first) const {
    const __m128i bytes = FirstBytes(w + zero_offset + (first >> shift),
                                     GroupsOf(blocks - first));
    return _mm256_permutevar8x32_epi32(_mm256_cvtepu8_epi32(bytes), lane);
  }

 private:
  // BF16 to float.
  static HWY_INLINE __m256i Widen(__m128i scales) {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(scales), 16);
  }
  // That 8 blocks, of which `there` are there, belong to.
  HWY_INLINE int64_t GroupsOf(int64_t there) const {
    if (there <= 0) return 0;
    const int64_t n = there < kLanes ? there : kLanes;
    return ((n - 1) >> shift) + 1;
  }
  // The first n bytes from `from` on, 16 at most; none is read behind them.
  static HWY_INLINE __m128i FirstBytes(const uint8_t* from, int64_t n) {
    switch (n) {
      case 16:
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      case 8:
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
      default: {
        alignas(16) uint8_t bytes[16] = {};
        std::memcpy(bytes, from, n);
        return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
      }
    }
  }
};

// Codes of kPairs pairs of blocks from w on, a byte each, a block a vector;
// those of 8 bits less 128.
template <int kBits, int kPairs>
HWY_INLINE void LoadCodes(const uint8_t* w, __m256i* codes) {
  const auto at = [w](int64_t byte) HWY_ATTR __attribute__((always_inline)) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + byte));
  };
#pragma GCC unroll 4
  for (int i = 0; i < kPairs; ++i) {
    if constexpr (kBits == 8) {
      const __m256i k128 = _mm256_set1_epi8(-128);
      codes[2 * i] = _mm256_xor_si256(at(64 * i), k128);
      codes[2 * i + 1] = _mm256_xor_si256(at(64 * i + 32), k128);
    } else if constexpr (kBits == 4) {
      const __m256i kLow = _mm256_set1_epi8(15);
      const __m256i both = at(32 * i);
      codes[2 * i] = _mm256_and_si256(both, kLow);
      codes[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), kLow);
    } else {
      const __m256i kLow = _mm256_set1_epi8(3);
      const __m256i all = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + 16 * i)));
      codes[2 * i] = _mm256_and_si256(
          _mm256_srlv_epi64(all, _mm256_set_epi64x(2, 2, 0, 0)), kLow);
      codes[2 * i + 1] = _mm256_and_si256(
          _mm256_srlv_epi64(all, _mm256_set_epi64x(6, 6, 4, 4)), kLow);
    }
  }
}

// Sums over 128 bits each of four vectors, side by side: of lanes L of 128 bits
// of a to d  [sum a, sum b, sum c, sum d].
HWY_INLINE __m256i AddUpLanes(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i p = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b),
                                     _mm256_unpackhi_epi32(a, b));
  const __m256i q = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d),
                                     _mm256_unpackhi_epi32(c, d));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(p, q),
                          _mm256_unpackhi_epi64(p, q));
}

// The same of 16-bit numbers, each the sum of two products of 15 * 128 at most,
// so that sixteen products have 16 bits.
HWY_INLINE __m256i AddUpNarrowLanes(__m256i a, __m256i b, __m256i c,
                                    __m256i d) {
  const __m256i kOnes = _mm256_set1_epi16(1);
  const auto pairs = [&](__m256i p, __m256i q) HWY_ATTR
      __attribute__((always_inline)) {
    return _mm256_packs_epi32(_mm256_madd_epi16(p, kOnes),
                              _mm256_madd_epi16(q, kOnes));
  };
  return _mm256_madd_epi16(pairs(pairs(a, b), pairs(c, d)), kOnes);
}

// Products of a block of codes of 8 bits, less 128, by x, added up to eight.
// kWide: x may be -128, whose sign cannot change.
template <bool kWide>
HWY_INLINE __m256i WideProducts(__m256i codes, const int8_t* x) {
  const auto* const from = reinterpret_cast<const __m256i*>(x);
  if constexpr (!kWide) {
    return _mm256_madd_epi16(
        _mm256_maddubs_epi16(_mm256_abs_epi8(codes),
                             _mm256_sign_epi8(_mm256_loadu_si256(from), codes)),
        _mm256_set1_epi16(1));
  } else {
    const __m256i v = _mm256_loadu_si256(from);
    return _mm256_add_epi32(
        _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(codes)),
                          _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v))),
        _mm256_madd_epi16(
            _mm256_cvtepi8_epi16(_mm256_extracti128_si256(codes, 1)),
            _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1))));
  }
}

// Sums of the products of 8 blocks of codes, a lane each, by those from x on;
// of kPairs pairs of blocks that there are.
template <int kBits, int kPairs, bool kWide>
HWY_INLINE __m256i BlockSums(const __m256i* codes, const int8_t* x) {
  const auto of_one = [&](int i) HWY_ATTR __attribute__((always_inline)) {
    if (i >= 2 * kPairs) return _mm256_setzero_si256();
    const int8_t* const from = x + i * kActivationBlock;
    if constexpr (kBits == 8) {
      return WideProducts<kWide>(codes[i], from);
    } else {
      return _mm256_maddubs_epi16(
          codes[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
  };
  const auto of_four = [&](int i) HWY_ATTR __attribute__((always_inline)) {
    if (i >= 2 * kPairs) return _mm256_setzero_si256();
    const __m256i a = of_one(i), b = of_one(i + 1);
    const __m256i c = of_one(i + 2), d = of_one(i + 3);
    if constexpr (kBits == 8) {
      return AddUpLanes(a, b, c, d);
    } else {
      return AddUpNarrowLanes(a, b, c, d);
    }
  };
  const __m256i a = of_four(0), b = of_four(4);
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}

// Minus the sums of the codes of each of a row's blocks, of 16 bits if `low` is
// not null. Reads 256 codes at a time.
inline void MinusBlockSums(const int8_t* high, const int8_t* low,
                           int64_t blocks, int32_t* out) {
  __m256i ones[kLanes];
  for (__m256i& v : ones) v = _mm256_set1_epi8(1);
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const int64_t at = first * kActivationBlock;
    __m256i sums = BlockSums<4, kLanes / 2, false>(ones, high + at);
    if (low != nullptr) {
      sums = _mm256_add_epi32(_mm256_slli_epi32(sums, 8),
                              BlockSums<4, kLanes / 2, false>(ones, low + at));
    }
    _mm256_maskstore_epi32(out + first, FirstLanes(blocks - first),
                           _mm256_sub_epi32(_mm256_setzero_si256(), sums));
  }
}

// Minus what the zeros of 8 blocks make of their sums of products, as
// LoadCodes gives codes. kSymmetric: all zeros are the middle.
template <int kBits, bool kSymmetric>
HWY_INLINE __m256i LessZeros(__m256i products, const int32_t* minus_sum,
                             __m256i zero) {
  const __m256i sums =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(minus_sum));
  if constexpr (kSymmetric && kBits == 8) return products;
  if constexpr (kSymmetric) {
    return _mm256_add_epi32(products, _mm256_slli_epi32(sums, kBits - 1));
  }
  const __m256i less =
      kBits == 8 ? _mm256_sub_epi32(zero, _mm256_set1_epi32(128)) : zero;
  return _mm256_add_epi32(products, _mm256_mullo_epi32(sums, less));
}

// Adds the products of kPairs pairs of blocks from block `first` on to
// sum [kRows].
template <int kBits, int kRows, bool kWide, Scaling kScaling, int kPairs>
HWY_INLINE void AddBlocks(const ActivationRow& x, const uint8_t* w,
                          const BlockGroups& groups, int64_t first,
                          __m256* sum) {
  __m256i codes[2 * kPairs];
  LoadCodes<kBits, kPairs>(w + first * kActivationBlock * kBits / 8, codes);
  const __m256 scale = kScaling == Scaling::kBlocks
                           ? groups.ScalesOfBlocks<2 * kPairs>(w, first)
                           : groups.Scales(w, first);
  const __m256i zero = kScaling == Scaling::kZeros ? groups.Zeros(w, first)
                                                   : _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    const int64_t at = i * x.blocks + first;
    __m256i products =
        BlockSums<kBits, kPairs, kWide>(codes, x.high + at * kActivationBlock);
    if constexpr (kWide) {
      products = _mm256_add_epi32(_mm256_slli_epi32(products, 8),
                                  BlockSums<kBits, kPairs, kWide>(
                                      codes, x.low + at * kActivationBlock));
    }
    // Behind the last block this reads what comes next in memory; the scales'
    // zeros leave it out.
    products = LessZeros<kBits, kScaling != Scaling::kZeros>(
        products, x.minus_sum + at, zero);
    // Scales of x are not read there: they might be no numbers.
    const __m256 of_x =
        2 * kPairs == kLanes
            ? _mm256_loadu_ps(x.scale + at)
            : _mm256_maskload_ps(x.scale + at, FirstLanes(2 * kPairs));
    sum[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products),
                             _mm256_mul_ps(scale, of_x), sum[i]);
  }
}

// The totals of four vectors. Each is made in the same order whichever of the
// four it is: of 128 bits (0 + 2) + (1 + 3), and of these likewise.
HWY_INLINE __m128 Totals(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 p =
      _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 q =
      _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const __m256d low =
      _mm256_unpacklo_pd(_mm256_castps_pd(p), _mm256_castps_pd(q));
  const __m256d high =
      _mm256_unpackhi_pd(_mm256_castps_pd(p), _mm256_castps_pd(q));
  const __m256 r = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
  return _mm_add_ps(_mm256_castps256_ps128(r), _mm256_extractf128_ps(r, 1));
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // HWY_TARGET == HWY_AVX2
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_AVX2_DOTS_INL_H_
