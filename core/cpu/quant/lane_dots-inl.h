// What products of quantised rows are made of where a vector's lanes are blocks
// of 32 columns: VNNI's (vnni_dots-inl.h) and AVX2's (avx2_dots-inl.h), which
// give kLanes, Floats, BlockGroups, AddBlocks and Totals.
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_LANE_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_LANE_DOTS_INL_H_
#undef CORE_CPU_QUANT_LANE_DOTS_INL_H_
#else
#define CORE_CPU_QUANT_LANE_DOTS_INL_H_
#endif

#include <cstdint>

#include "core/cpu/quant/activation_row.h"
#include "core/cpu/quant/quant_product.h"
#include "core/cpu/quant/scaling.h"
// Highway asks for this order.
#include "core/cpu/quant/avx2_dots-inl.h"
#include "core/cpu/quant/vnni_dots-inl.h"
#include "hwy/highway.h"

// Whether this instruction set is one of them.
#undef STRATA_LANE_DOTS
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
#define STRATA_LANE_DOTS
#endif

HWY_BEFORE_NAMESPACE();
#ifdef STRATA_LANE_DOTS
#if HWY_TARGET == HWY_AVX3_DL
// As in vnni-inl.h.
#pragma GCC target("avx512vnni")
#endif

namespace strata {
namespace HWY_NAMESPACE {

// One row of w by kRows of x, all of 8 bits or (kWide) of 16: sums whose lanes
// are to be added. kTail: pairs of blocks behind the last kLanes.
template <int kBits, int kRows, bool kWide, Scaling kScaling, int kTail>
HWY_INLINE void SumsOf(const ActivationRow& x, const uint8_t* w,
                       const BlockGroups& groups, Floats* sum) {
  const int64_t whole = x.blocks & -kLanes;
  for (int i = 0; i < kRows; ++i) sum[i] = ZeroFloats();
  for (int64_t first = 0; first < whole; first += kLanes) {
    AddBlocks<kBits, kRows, kWide, kScaling, kLanes / 2>(x, w, groups, first,
                                                         sum);
  }
  if constexpr (kTail > 0) {
    AddBlocks<kBits, kRows, kWide, kScaling, kTail>(x, w, groups, whole, sum);
  }
}

// Rows of x from `row` on by one of w, to y[i * ldy].
template <int kBits, int kRows, bool kWide, Scaling kScaling, int kTail>
HWY_INLINE void RowOf(const QuantizedRows& x, int64_t row, const uint8_t* w,
                      const BlockGroups& groups, float* y, int64_t ldy) {
  Floats sum[4];
  for (int i = kRows; i < 4; ++i) sum[i] = ZeroFloats();
  SumsOf<kBits, kRows, kWide, kScaling, kTail>(
      ActivationRow(x, row, kByHalves<kBits>), w, groups, sum);
  alignas(16) float total[4];
  _mm_store_ps(total, Totals(sum[0], sum[1], sum[2], sum[3]));
  for (int i = 0; i < kRows; ++i) y[i * ldy] = total[i];
}

// Bytes ahead of its use at which w is asked for, as the first load of each
// row's codes and scales was what rows waited for: of 1, 2, 4 and 8 KB the
// quickest (docs/quantisation.md).
constexpr int64_t kFetchAhead = 2048;

// Asks for `bytes` of w that are used a while later; they need not be there.
HWY_INLINE void Fetch(const uint8_t* w, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += 64) _mm_prefetch(w + b, _MM_HINT_T0);
}

// One row of x by n of w, whose sums are added up four at a time.
template <int kBits, bool kWide, Scaling kScaling, int kTail>
void DotsOfOne(const QuantizedRows& x, int64_t row, const uint8_t* w,
               int64_t bytes, const BlockGroups& groups, int64_t n, float* y) {
  const ActivationRow from = ActivationRow(x, row, kByHalves<kBits>);
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    Floats sum[4];
#pragma GCC unroll kRowsUnrolled
    for (int i = 0; i < 4; ++i, w += bytes) {
      Fetch(w + kFetchAhead, bytes);
      SumsOf<kBits, 1, kWide, kScaling, kTail>(from, w, groups, sum + i);
    }
    _mm_storeu_ps(y + j, Totals(sum[0], sum[1], sum[2], sum[3]));
  }
  for (; j < n; ++j, w += bytes) {
    RowOf<kBits, 1, kWide, kScaling, kTail>(x, row, w, groups, y + j, 0);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // STRATA_LANE_DOTS
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_LANE_DOTS_INL_H_
