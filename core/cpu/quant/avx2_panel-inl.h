// Panels of quantised rows (quant_panel.h) with AVX2.
//
//   panel  codes less their zero, a vector being 8 rows of w by 4 columns of a
//          byte each or, of 8-bit codes, by 2 columns of 16 bits
//   x      the same columns of a row, in all lanes, of bytes 128 more
//     |
//     |  vpmaddubsw: sums of two products in 16 bits, or vpmaddwd in 32
//     v
//   a lane each of 8 rows of w, or two of 16 bits --at a block's end to float,
//   times scales--> added to one of a row's eight sums
//
// vpmaddubsw wants one side unsigned. It is x, so that zeros are dealt with
// once a panel: 128 times the codes that a lane adds up is what the lane begins
// with the negative of. A lane's 16 bits then hold 16 products of (code - zero)
// and x, 15 * 128 * 16 = 30720 at most; what it holds in between may wrap.
//
// Included by files that are compiled once for each instruction set; others
// find nothing here.

#if defined(CORE_CPU_QUANT_AVX2_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CORE_CPU_QUANT_AVX2_PANEL_INL_H_
#undef CORE_CPU_QUANT_AVX2_PANEL_INL_H_
#else
#define CORE_CPU_QUANT_AVX2_PANEL_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/cpu/quant/quant_panel.h"
#include "core/cpu/quant/quant_product.h"
#include "core/cpu/quant/scaling.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
// Highway asks for this order.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX2

namespace strata {
namespace HWY_NAMESPACE {
namespace {

// Rows of w in a vector, and in the two that a pass reads.
constexpr int64_t kVectorRows = 8;
constexpr int64_t kPassRows = 16;
// Rows of x in a pass: with two sums each, two vectors of w, one of x and one
// of products, all 16 registers. A row of 16 bits is two of bytes.
constexpr int kMaxRows = 6;
constexpr int kMaxWideRows = 3;
// As QuantPanel (quant_panel.h) has them.
constexpr bool kAsDots = true;
constexpr int64_t kFewRows = 4;
constexpr int64_t kFewRowsOf8Bits = 8;
// Whether passes ask memory for what the next panel is made of: packing reads
// many rows side by side, which the processor does not foresee.
constexpr bool kAsksAhead = true;

struct Panel {
  int64_t blocks;  // Of 32 columns, an even number.
  // [2, k / 4, 2, 8, 4] bytes or [2, k / 2, 2, 8, 2] of 16 bits, of four
  // columns the first and the third, then the others.
  char* code;
  float* scale;    // [2, blocks, 2, 8]
  int16_t* start;  // [2, blocks, 2, 16]; bytes only
  char* x;         // [kMaxRows, k] bytes or 16 bits

  Panel(char* memory, int64_t k) : blocks(PaddedColumns(k) / kActivationBlock) {
    code = memory;
    memory += blocks * kActivationBlock * kPanelRows * 2;
    scale = reinterpret_cast<float*>(memory);
    memory += blocks * kPanelRows * sizeof(float);
    start = reinterpret_cast<int16_t*>(memory);
    memory += blocks * kPanelRows * 2 * sizeof(int16_t);
    x = memory;
  }
};

HWY_INLINE __m256i Load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
HWY_INLINE __m128i LoadHalf(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
HWY_INLINE void Store(__m256i v, void* to) {
  _mm256_store_si256(static_cast<__m256i*>(to), v);
}

// --- The panel ---

// 8 vectors of 8 numbers: rows and columns change places.
HWY_INLINE void Transpose(__m256i* v) {
  __m256i t[8], u[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  // u[i + c]: columns c and 4 + c of rows i to i + 3.
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    v[c] = _mm256_permute2x128_si256(u[c], u[4 + c], 0x20);
    v[4 + c] = _mm256_permute2x128_si256(u[c], u[4 + c], 0x31);
  }
}

// Blocks whose scales and zeros are made at a time.
constexpr int64_t kChunk = 8;

// Of which groups 8 blocks from `first` on are, and how to get what rows have
// of them. Behind the columns it is the last group, as x is zero there.
struct ChunkGroups {
  int64_t scales;  // Of a row the byte from which on 16 have their scales, and
  int64_t zeros;   // that from which on 8 have their zeros: never beyond it.
  __m128i scale_bytes, zero_bytes;  // Which of these bytes.

  ChunkGroups(const QuantFormat& format, const PackedRow& row, int64_t first) {
    const int shift = GroupShift(format);
    // What is before the first group is codes, of which a row has 16 bytes.
    const int64_t begin = std::min(first >> shift, row.num_groups - kChunk);
    scales = row.code_bytes + 2 * begin;
    zeros = row.code_bytes + 2 * row.num_groups + begin;
    alignas(16) uint8_t of_scale[16];
    alignas(16) uint8_t of_zero[16] = {};
    for (int64_t b = 0; b < kChunk; ++b) {
      const int64_t at =
          std::min((first + b) >> shift, row.num_groups - 1) - begin;
      of_scale[2 * b] = static_cast<uint8_t>(2 * at);
      of_scale[2 * b + 1] = static_cast<uint8_t>(2 * at + 1);
      of_zero[b] = static_cast<uint8_t>(at);
    }
    scale_bytes = LoadHalf(of_scale);
    zero_bytes = LoadHalf(of_zero);
  }

  // Of the 8 blocks, a number of 32 bits each.
  HWY_INLINE __m256i ScalesOf(const uint8_t* w) const {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_shuffle_epi8(
                                 LoadHalf(w + scales), scale_bytes)),
                             16);
  }
  HWY_INLINE __m256i ZerosOf(const uint8_t* w) const {
    return _mm256_cvtepu8_epi32(_mm_shuffle_epi8(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w + zeros)),
        zero_bytes));
  }
};

// Codes of 64 columns, from byte `at` on, of 8 rows of w to vectors that are 64
// bytes apart from `code` on; what their sums begin with, [2, 2, 16], to
// `start`. zero [2]: of the rows in either block, in each byte or 16 bits.
template <int kBits>
HWY_INLINE void PackPair(const uint8_t* const* w, int64_t at,
                         const __m256i* zero, char* code, int16_t* start) {
  __m256i v[2][8];
  // Rows and columns change places while codes share bytes.
#pragma GCC unroll 2
  for (int part = 0; part < (kBits == 8 ? 2 : 1); ++part) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const uint8_t* const from = w[j] + at + part * 32;
      v[part][j] =
          kBits > 2 ? Load(from) : _mm256_castsi128_si256(LoadHalf(from));
    }
    Transpose(v[part]);
  }
  if constexpr (kBits == 8) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c, code += 128) {
        const __m256i even =
            _mm256_and_si256(v[part][c], _mm256_set1_epi16(255));
        const __m256i odd = _mm256_srli_epi16(v[part][c], 8);
        Store(_mm256_sub_epi16(even, zero[part]), code);
        Store(_mm256_sub_epi16(odd, zero[part]), code + 64);
      }
    }
  } else {
    // A byte has codes of as many quarters or halves of the 64 columns.
    constexpr int kVectors = kBits == 4 ? 8 : 4;
    const __m256i mask = _mm256_set1_epi8((1 << kBits) - 1);
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part, start += 32) {
      __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c, code += 64) {
        const int shift = (part * 8 + c) / kVectors * kBits;
        const __m256i codes = _mm256_sub_epi8(
            _mm256_and_si256(_mm256_srli_epi16(v[0][c % kVectors], shift),
                             mask),
            zero[part]);
        Store(codes, code);
        sum = _mm256_add_epi8(sum, codes);
      }
      // 15 * 8 fits into a byte.
      Store(_mm256_sub_epi16(_mm256_setzero_si256(),
                             _mm256_maddubs_epi16(_mm256_set1_epi8(-128), sum)),
            start);
    }
  }
}

// 8 rows of w to vector `vector` of the panel's four: up to kChunk blocks from
// `first` on.
template <int kBits, bool kSymmetric>
void PackChunk(const uint8_t* const* w, const ChunkGroups& groups,
               int64_t first, int64_t vector, const Panel& panel) {
  constexpr int64_t kBlockBytes = (kBits == 8 ? 2 : 1) * 512;
  __m256i scale[kChunk], zero[kChunk];
#pragma GCC unroll 8
  for (int64_t j = 0; j < kVectorRows; ++j) {
    scale[j] = groups.ScalesOf(w[j]);
    zero[j] =
        kSymmetric ? _mm256_set1_epi32(1 << (kBits - 1)) : groups.ZerosOf(w[j]);
  }
  Transpose(scale);
  if constexpr (!kSymmetric) Transpose(zero);
  const __m256i spread =
      _mm256_set1_epi32(kBits == 8 ? 0x00010001 : 0x01010101);
  const int64_t some = std::min(kChunk, panel.blocks - first);
  for (int64_t i = 0; i < some; ++i) {
    const int64_t b = vector / 2 * panel.blocks + first + i;
    Store(scale[i], panel.scale + b * kPassRows + vector % 2 * kVectorRows);
    zero[i] = _mm256_mullo_epi32(zero[i], spread);
  }
  for (int64_t i = 0; i < some; i += 2) {
    const int64_t b = vector / 2 * panel.blocks + first + i;
    PackPair<kBits>(w, (first + i) * 4 * kBits, zero + i,
                    panel.code + b * kBlockBytes + vector % 2 * 32,
                    panel.start + b * 32 + vector % 2 * 16);
  }
}

// n packed rows of k columns. What is behind them in whole vectors is the last
// of them again, which no one reads.
template <int kBits, bool kSymmetric>
void Pack(const uint8_t* w, const QuantFormat& format, int64_t k, int64_t n,
          const Panel& panel) {
  const PackedRow layout(format, k);
  const uint8_t* row[kPanelRows];
  for (int64_t j = 0; j < kPanelRows; ++j) {
    row[j] = w + std::min(j, n - 1) * layout.bytes;
  }
  const int64_t vectors = n > kPassRows ? 4 : 2;
  for (int64_t first = 0; first < panel.blocks; first += kChunk) {
    const ChunkGroups groups(format, layout, first);
    for (int64_t v = 0; v < vectors; ++v) {
      PackChunk<kBits, kSymmetric>(row + v * kVectorRows, groups, first, v,
                                   panel);
    }
  }
}

// --- Products ---

// What a pass of bytes does, and one of 16 bits.
struct Bytes {
  static constexpr int kSteps = 8;  // Vectors of w in a block.
  static HWY_INLINE __m256i Add(__m256i sum, __m256i x, __m256i w) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, w));
  }
  // A lane of 32 bits each, of one plane or of two.
  static HWY_INLINE __m256i Whole(__m256i sum) {
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
  }
  static HWY_INLINE __m256i Whole(__m256i high, __m256i low) {
    return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)),
                            _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
  }
};
struct Words {
  static constexpr int kSteps = 16;
  static HWY_INLINE __m256i Add(__m256i sum, __m256i x, __m256i w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
  }
  static HWY_INLINE __m256i Whole(__m256i sum) { return sum; }
};

// Rows of x as passes want them, each plane a row: 128 more in bytes, or all of
// its bits in 16.
template <typename Of>
void CopyRows(const QuantizedRows& x, int64_t row, int64_t rows, bool wide,
              char* to) {
  for (int64_t i = row; i < row + rows; ++i) {
    const int8_t* const high = x.high + i * x.padded;
    const int8_t* const low = x.low + i * x.padded;
    if constexpr (Of::kSteps == 8) {
      const __m256i flip = _mm256_set1_epi8(-128);
      for (const int8_t* const plane : {high, low}) {
        if (plane == low && !wide) break;
        for (int64_t c = 0; c < x.padded; c += 32, to += 32) {
          Store(_mm256_xor_si256(Load(plane + c), flip), to);
        }
      }
    } else {
      // As the panel has columns.
      const __m128i order =
          _mm_set_epi8(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
      const auto of = [order](const int8_t* codes) HWY_ATTR {
        return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(LoadHalf(codes), order));
      };
      for (int64_t c = 0; c < x.padded; c += 16, to += 32) {
        __m256i v = of(high + c);
        if (wide) v = _mm256_add_epi16(_mm256_slli_epi16(v, 8), of(low + c));
        Store(v, to);
      }
    }
  }
}

HWY_INLINE __m256i ColumnsOf(const char* x) {
  int32_t columns;
  std::memcpy(&columns, x, sizeof(columns));
  return _mm256_set1_epi32(columns);
}

// Blocks b, b + 8 and so on are added up one behind another, as a lane does in
// avx2_dots-inl.h, and these eight sums in the order of its Totals: so what
// comes out is the same bit for bit.
constexpr int kSums = 8;

// One pass: kRows of x, each of kPlanes, by 16 rows of w.
template <typename Of, int kRows, int kPlanes>
void Pass(const Panel& panel, int64_t pass, const float* of_x, int64_t n,
          float* y, int64_t ldy) {
  constexpr int kLines = kRows * kPlanes;
  const int64_t line = panel.blocks * Of::kSteps * 4;
  const int64_t first = pass * panel.blocks;
  const char* code = panel.code + first * Of::kSteps * 64;
  const char* x = panel.x;
  // In memory, as registers are full of a block's sums.
  __m256 part[kSums][kRows][2];
  for (auto& of_rows : part) {
    for (auto& of_row : of_rows) of_row[0] = of_row[1] = _mm256_setzero_ps();
  }
  for (int64_t b = 0; b < panel.blocks; ++b) {
    __m256i sum[kLines][2];
    const int16_t* const start = panel.start + (first + b) * 32;
#pragma GCC unroll 6
    for (int i = 0; i < kLines; ++i) {
      for (int v = 0; v < 2; ++v) {
        sum[i][v] =
            Of::kSteps == 8 ? Load(start + v * 16) : _mm256_setzero_si256();
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < Of::kSteps; ++c, code += 64, x += 4) {
      const __m256i w0 = Load(code), w1 = Load(code + 32);
#pragma GCC unroll 6
      for (int i = 0; i < kLines; ++i) {
        const __m256i columns = ColumnsOf(x + i * line);
        sum[i][0] = Of::Add(sum[i][0], columns, w0);
        sum[i][1] = Of::Add(sum[i][1], columns, w1);
        // Or the compiler makes all products first, and has no registers left.
        asm("" : "+x"(sum[i][0]), "+x"(sum[i][1]));
      }
    }
    const float* const of_w = panel.scale + (first + b) * kPassRows;
    auto& to = part[b % kSums];
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m256 scale = _mm256_set1_ps(of_x[i * panel.blocks + b]);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        __m256i whole;
        if constexpr (kPlanes == 2) {
          whole = Of::Whole(sum[2 * i][v], sum[2 * i + 1][v]);
        } else {
          whole = Of::Whole(sum[i][v]);
        }
        to[i][v] = _mm256_fmadd_ps(
            _mm256_cvtepi32_ps(whole),
            _mm256_mul_ps(_mm256_loadu_ps(of_w + v * kVectorRows), scale),
            to[i][v]);
      }
    }
  }
  const auto total = [&part](int i, int v) HWY_ATTR {
    const auto sum = [&](int s, int t) HWY_ATTR {
      return _mm256_add_ps(part[s][i][v], part[t][i][v]);
    };
    return _mm256_add_ps(_mm256_add_ps(sum(0, 2), sum(1, 3)),
                         _mm256_add_ps(sum(4, 6), sum(5, 7)));
  };
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* const to = y + i * ldy;
    if (n >= kPassRows) {
      _mm256_storeu_ps(to, total(i, 0));
      _mm256_storeu_ps(to + kVectorRows, total(i, 1));
    } else {
      alignas(32) float all[kPassRows];
      _mm256_store_ps(all, total(i, 0));
      _mm256_store_ps(all + kVectorRows, total(i, 1));
      std::memcpy(to, all, n * sizeof(float));
    }
  }
}

// The panel by `rows` of x, all of 8 bits or (kWide) of 16.
template <int kBits, bool kSymmetric, bool kWide>
void Tile(const QuantizedRows& x, int64_t row, int64_t rows, const Panel& panel,
          int64_t n, float* y, int64_t ldy) {
  using Of = std::conditional_t<kBits == 8, Words, Bytes>;
  constexpr int kPlanes = kBits != 8 && kWide ? 2 : 1;
  CopyRows<Of>(x, row, rows, kWide, panel.x);
  const auto run = [rows] {
    if constexpr (kPlanes == 2) {
      return rows == 3   ? Pass<Of, 3, 2>
             : rows == 2 ? Pass<Of, 2, 2>
                         : Pass<Of, 1, 2>;
    } else {
      return rows == 6   ? Pass<Of, 6, 1>
             : rows == 5 ? Pass<Of, 5, 1>
             : rows == 4 ? Pass<Of, 4, 1>
             : rows == 3 ? Pass<Of, 3, 1>
             : rows == 2 ? Pass<Of, 2, 1>
                         : Pass<Of, 1, 1>;
    }
  }();
  const float* const scale = x.scale + row * panel.blocks;
  for (int64_t pass = 0; pass * kPassRows < n; ++pass) {
    run(panel, pass, scale, n - pass * kPassRows, y + pass * kPassRows, ldy);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace strata
#endif  // HWY_TARGET == HWY_AVX2
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_AVX2_PANEL_INL_H_
