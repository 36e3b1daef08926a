// What products with VNNI and AVX-512 are made of: codes and scales of packed
// rows (core/quant/packed_rows.h) in registers.
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_VNNI_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_VNNI_INL_H_
#undef CORE_CPU_QUANT_VNNI_INL_H_
#else
#define CORE_CPU_QUANT_VNNI_INL_H_
#endif

#include <cstdint>

#include "core/cpu/quant/scaling.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// Highway's list of this target's features lacks it, its test has it.
#pragma GCC target("avx512vnni")

namespace strata {
namespace HWY_NAMESPACE {

// Blocks of 32 columns that are scaled together, a lane each: 512 columns.
constexpr int64_t kLanes = 16;

// Where the scales and zeros of a row's blocks lie.
struct BlockGroups {
  int64_t offset;  // Of the scales in a row, and of the zeros.
  int64_t zero_offset;
  int64_t blocks;         // Of a row, that have columns.
  int shift;              // A group is 2^shift blocks.
  __m512i lane;           // Of 16 blocks, how many groups each is behind.
  __mmask16 full;         // Groups of 16 blocks.
  __mmask16 tail_groups;  // Those of what is behind the last 16.
  __mmask16 tail_blocks;

  HWY_INLINE BlockGroups(const QuantFormat& format, int64_t k) {
    const PackedRow layout(format, k);
    offset = layout.code_bytes;
    zero_offset = offset + 2 * layout.num_groups;
    blocks = (k + 31) / 32;
    const __m512i order =
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    shift = GroupShift(format);
    lane = format.group == 0
               ? _mm512_setzero_si512()
               : _mm512_srl_epi32(order, _mm_cvtsi32_si128(shift));
    full = GroupsOf(kLanes);
    tail_groups = GroupsOf(blocks % kLanes);
    tail_blocks = static_cast<__mmask16>((1u << (blocks % kLanes)) - 1);
  }

  // Of the 16 blocks from `first` on of packed row w, 0 behind the last.
  HWY_INLINE __m512 Scales(const uint8_t* w, int64_t first) const {
    const bool whole = first + kLanes <= blocks;
    const __m512i scales = ScalesOf(w + offset + 2 * (first >> shift),
                                    whole ? full : TailGroups(first));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi32(
        whole ? 0xFFFF : TailBlocks(first), lane, scales));
  }
  // The same where each of kBlocks blocks that there are has its own.
  template <int kBlocks>
  HWY_INLINE __m512 ScalesOfBlocks(const uint8_t* w, int64_t first) const {
    constexpr auto kMask = static_cast<__mmask16>((1u << kBlocks) - 1);
    return _mm512_castsi512_ps(ScalesOf(w + offset + 2 * first, kMask));
  }
  HWY_INLINE __m512i Zeros(const uint8_t* w, int64_t first) const {
    const bool whole = first + kLanes <= blocks;
    const __m128i bytes = _mm_maskz_loadu_epi8(
        whole ? full : TailGroups(first), w + zero_offset + (first >> shift));
    return _mm512_maskz_permutexvar_epi32(whole ? 0xFFFF : TailBlocks(first),
                                          lane, _mm512_cvtepu8_epi32(bytes));
  }

 private:
  static HWY_INLINE __m512i ScalesOf(const uint8_t* scales, __mmask16 some) {
    return _mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, scales)), 16);
  }
  HWY_INLINE __mmask16 GroupsOf(int64_t n) const {
    const int64_t groups = (n + (int64_t{1} << shift) - 1) >> shift;
    return static_cast<__mmask16>((1u << groups) - 1);
  }
  // None from where only what fills the columns up is left.
  HWY_INLINE __mmask16 TailGroups(int64_t first) const {
    return first < blocks ? tail_groups : __mmask16{0};
  }
  HWY_INLINE __mmask16 TailBlocks(int64_t first) const {
    return first < blocks ? tail_blocks : __mmask16{0};
  }
};

// 64 codes from w on, a byte each; zeros, and nothing read, unless `some`.
template <int kBits>
HWY_INLINE __m512i CodesAt(const uint8_t* w, bool some) {
  const auto mask = static_cast<__mmask8>(some ? 0xFF : 0);
  if constexpr (kBits == 8) return _mm512_maskz_loadu_epi64(mask, w);
  if constexpr (kBits == 2) {
    const __m512i kShift = _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0);
    if (!some) return _mm512_setzero_si512();
    // A broadcast from memory costs no shuffle.
    const __m512i all = _mm512_broadcast_i64x2(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    return _mm512_and_si512(_mm512_srlv_epi64(all, kShift),
                            _mm512_set1_epi8(3));
  }
  const __m512i kShift = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
  const __m512i both =
      _mm512_broadcast_i64x4(_mm256_maskz_loadu_epi64(mask, w));
  return _mm512_and_si512(_mm512_srlv_epi64(both, kShift),
                          _mm512_set1_epi8(15));
}

// z times `minus_sum` [16], z being the zero of all (symmetric) or of each.
template <int kBits, bool kSymmetric>
HWY_INLINE __m512i TimesZero(__m512i minus_sum, __m512i zero) {
  if constexpr (kSymmetric) return _mm512_slli_epi32(minus_sum, kBits - 1);
  return _mm512_mullo_epi32(minus_sum, zero);
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // HWY_TARGET == HWY_AVX3_DL
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_VNNI_INL_H_
