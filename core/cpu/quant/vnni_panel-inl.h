// Panels of quantised rows (quant_panel.h) with VNNI and AVX-512.
//
//   panel  a byte a code, four columns of 16 rows a vector
//   x      four columns of a row, in all lanes
//     |
//     |  vpdpbusd: sums of four products
//     v
//   a lane each of 16 rows of w, eight products a block --times scales-->
//   added to a row's sum in float
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_VNNI_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_VNNI_PANEL_INL_H_
#undef CORE_CPU_QUANT_VNNI_PANEL_INL_H_
#else
#define CORE_CPU_QUANT_VNNI_PANEL_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/cpu/quant/quant_panel.h"
#include "core/cpu/quant/quant_product.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
// Highway asks for this order.
#include "core/cpu/quant/vnni-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// As in vnni-inl.h.
#pragma GCC target("avx512vnni")

namespace strata {
namespace HWY_NAMESPACE {
namespace {

// Rows of x in a pass: with two vectors of sums in float and two in integers
// each, and the panel's two, 27 registers of 32.
constexpr int kMaxRows = 6;
constexpr int kMaxWideRows = 2;
// As QuantPanel (quant_panel.h) has them.
constexpr bool kAsDots = false;
constexpr int64_t kFewRows = 4;
constexpr int64_t kFewRowsOf8Bits = 4;
// Whether passes ask memory for what the next panel is made of; not tried here.
constexpr bool kAsksAhead = false;

struct Panel {
  uint8_t* code;   // [k / 4, 2, 16, 4]
  float* scale;    // [blocks, 2, 16]
  int32_t* zero;   // [blocks, 2, 16]; asymmetric only
  int64_t blocks;  // Of 32 columns, an even number.

  Panel(char* memory, int64_t k) : blocks(PaddedColumns(k) / kActivationBlock) {
    code = reinterpret_cast<uint8_t*>(memory);
    memory += blocks * kActivationBlock * kPanelRows;
    scale = reinterpret_cast<float*>(memory);
    memory += blocks * kPanelRows * sizeof(float);
    zero = reinterpret_cast<int32_t*>(memory);
  }
};

// 16 vectors of 16 numbers: rows and columns change places.
HWY_INLINE void Transpose(__m512i* v) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  // v[i + c]: in its lane L of 128 bits, column 4 L + c of rows i to i + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    // Lanes 0 and 2, then 1 and 3, of rows 0 to 7 and of rows 8 to 15.
    const __m512i even = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xDD);
    const __m512i even8 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88);
    const __m512i odd8 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xDD);
    t[c] = _mm512_shuffle_i32x4(even, even8, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(odd, odd8, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(even, even8, 0xDD);
    t[12 + c] = _mm512_shuffle_i32x4(odd, odd8, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

// Half `half` of the panel: up to 16 rows from w on, zeros behind n of them.
template <int kBits, bool kSymmetric>
void PackHalf(const uint8_t* w, const QuantFormat& format, int64_t k, int64_t n,
              int64_t half, const Panel& panel) {
  const BlockGroups groups(format, k);
  const int64_t bytes = PackedRow(format, k).bytes;
  __m512i v[16];
  for (int64_t b = 0; b < panel.blocks; b += 2) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      v[j] = CodesAt<kBits>(w + j * bytes + b * kActivationBlock * kBits / 8,
                            j < n);
    }
    Transpose(v);
    uint8_t* const to =
        panel.code + b * kActivationBlock * kPanelRows + half * 64;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * 128, v[i]);
  }
  for (int64_t first = 0; first < panel.blocks; first += kLanes) {
    const int64_t some = std::min(kLanes, panel.blocks - first);
    const int64_t at = first * kPanelRows + half * 16;
    for (int64_t j = 0; j < 16; ++j) {
      v[j] = j < n ? _mm512_castps_si512(groups.Scales(w + j * bytes, first))
                   : _mm512_setzero_si512();
    }
    Transpose(v);
    for (int64_t b = 0; b < some; ++b) {
      _mm512_store_si512(panel.scale + at + b * kPanelRows, v[b]);
    }
    if constexpr (!kSymmetric) {
      for (int64_t j = 0; j < 16; ++j) {
        v[j] =
            j < n ? groups.Zeros(w + j * bytes, first) : _mm512_setzero_si512();
      }
      Transpose(v);
      for (int64_t b = 0; b < some; ++b) {
        _mm512_store_si512(panel.zero + at + b * kPanelRows, v[b]);
      }
    }
  }
}

// n packed rows of k columns.
template <int kBits, bool kSymmetric>
void Pack(const uint8_t* w, const QuantFormat& format, int64_t k, int64_t n,
          const Panel& panel) {
  PackHalf<kBits, kSymmetric>(w, format, k, n, 0, panel);
  PackHalf<kBits, kSymmetric>(w + 16 * PackedRow(format, k).bytes, format, k,
                              n - 16, 1, panel);
}

HWY_INLINE __m512i FourOf(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}

// The panel by kRows of x, all of 8 bits or (kWide) of 16.
template <int kBits, bool kSymmetric, int kRows, bool kWide>
void TileOf(const QuantizedRows& x, int64_t row, const Panel& panel, int64_t n,
            float* y, int64_t ldy) {
  constexpr int kPlanes = kWide ? 2 : 1;
  const int8_t* const high = x.high + row * x.padded;
  const int8_t* const low = x.low + row * x.padded;
  const int32_t* const minus_sum = x.minus_sum + row * panel.blocks;
  const float* const scale = x.scale + row * panel.blocks;
  __m512 sum[kRows][2];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t b = 0; b < panel.blocks; ++b) {
    __m512i products[kPlanes][kRows][2];
    const float* const of_w = panel.scale + b * kPanelRows;
    const int32_t* const zero = panel.zero + b * kPanelRows;
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m512i minus = _mm512_set1_epi32(minus_sum[i * panel.blocks + b]);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512i z = kSymmetric ? _mm512_setzero_si512()
                                     : _mm512_load_si512(zero + half * 16);
        products[0][i][half] = TimesZero<kBits, kSymmetric>(minus, z);
        if constexpr (kWide) products[1][i][half] = _mm512_setzero_si512();
      }
    }
    const uint8_t* const code = panel.code + b * kActivationBlock * kPanelRows;
#pragma GCC unroll 8
    for (int c = 0; c < kActivationBlock; c += 4) {
      const __m512i w0 = _mm512_load_si512(code + c * kPanelRows);
      const __m512i w1 = _mm512_load_si512(code + c * kPanelRows + 64);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        const int64_t at = i * x.padded + b * kActivationBlock + c;
        __m512i* const first = products[0][i];
        const __m512i four = FourOf((kWide ? low : high) + at);
        first[0] = _mm512_dpbusd_epi32(first[0], w0, four);
        first[1] = _mm512_dpbusd_epi32(first[1], w1, four);
        if constexpr (kWide) {
          __m512i* const second = products[1][i];
          const __m512i upper = FourOf(high + at);
          second[0] = _mm512_dpbusd_epi32(second[0], w0, upper);
          second[1] = _mm512_dpbusd_epi32(second[1], w1, upper);
        }
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m512 of_x = _mm512_set1_ps(scale[i * panel.blocks + b]);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        __m512i all = products[0][i][half];
        if constexpr (kWide) {
          all =
              _mm512_add_epi32(all, _mm512_slli_epi32(products[1][i][half], 8));
        }
        sum[i][half] =
            _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(all),
                                          _mm512_load_ps(of_w + half * 16)),
                            of_x, sum[i][half]);
      }
    }
  }
  const uint32_t some = n >= 32 ? ~0u : (1u << n) - 1;
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* const to = y + i * ldy;
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(some), sum[i][0]);
    _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(some >> 16),
                          sum[i][1]);
  }
}

// The same for a number of rows that the caller found.
template <int kBits, bool kSymmetric, bool kWide>
void Tile(const QuantizedRows& x, int64_t row, int64_t rows, const Panel& panel,
          int64_t n, float* y, int64_t ldy) {
  if constexpr (kWide) {
    (rows == 2 ? TileOf<kBits, kSymmetric, 2, true>
               : TileOf<kBits, kSymmetric, 1, true>)(x, row, panel, n, y, ldy);
  } else {
    const auto run = rows == 6   ? TileOf<kBits, kSymmetric, 6, false>
                     : rows == 5 ? TileOf<kBits, kSymmetric, 5, false>
                     : rows == 4 ? TileOf<kBits, kSymmetric, 4, false>
                     : rows == 3 ? TileOf<kBits, kSymmetric, 3, false>
                     : rows == 2 ? TileOf<kBits, kSymmetric, 2, false>
                                 : TileOf<kBits, kSymmetric, 1, false>;
    run(x, row, panel, n, y, ldy);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // HWY_TARGET == HWY_AVX3_DL
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_VNNI_PANEL_INL_H_
