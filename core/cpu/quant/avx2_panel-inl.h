// Panels of quantised rows (quant_panel.h) with AVX2.
//
//   panel  codes less their zero, a vector being 8 rows of w by 4 columns of a
//          byte each or, of 8-bit codes, by 2 columns of 16 bits
//   x      the same columns of a row, in all lanes, of bytes 128 more
//     |
//     |  vpmaddubsw: sums of two products in 16 bits, or vpmaddwd in 32
//     v
//   a lane each of 8 rows of w, or two of 16 bits --at a block's end to float,
//   times scales--> added to a row's sum
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
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
// Highway asks for this order.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2

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

struct Panel {
  int64_t blocks;  // Of 32 columns, an even number.
  char* code;    // [2, k / 4, 2, 8, 4] bytes or [2, k / 2, 2, 8, 2] of 16 bits
  float* scale;  // [2, blocks, 2, 8]
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

// The codes of block b of packed row w, a byte each.
template <int kBits>
HWY_INLINE __m256i CodesOf(const uint8_t* w, int64_t b) {
  if constexpr (kBits == 8) return Load(w + b * 32);
  const int odd = static_cast<int>(b % 2);
  if constexpr (kBits == 4) {
    const __m256i both = Load(w + b / 2 * 32);
    return _mm256_and_si256(_mm256_srl_epi16(both, _mm_cvtsi32_si128(odd * 4)),
                            _mm256_set1_epi8(15));
  }
  const __m256i all = _mm256_broadcastsi128_si256(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + b / 2 * 16)));
  const __m256i of_odd = _mm256_srl_epi64(all, _mm_cvtsi32_si128(odd * 4));
  return _mm256_and_si256(
      _mm256_srlv_epi64(of_odd, _mm256_set_epi64x(2, 2, 0, 0)),
      _mm256_set1_epi8(3));
}

// Where scales and zeros of a row's blocks lie.
struct PanelGroups {
  PackedRow row;
  int shift;  // A group is 2^shift blocks.

  PanelGroups(const QuantFormat& format, int64_t k)
      : row(format, k),
        // A scale a row: more blocks than a row can have.
        shift(format.group == 0     ? 62
              : format.group == 128 ? 2
              : format.group == 64  ? 1
                                    : 0) {}

  // Behind the columns the last group's, which multiply zeros there.
  HWY_INLINE int64_t GroupOf(int64_t b) const {
    return std::min(b >> shift, row.num_groups - 1);
  }
  HWY_INLINE int ZeroOf(const uint8_t* w, int64_t b) const {
    return w[row.code_bytes + 2 * row.num_groups + GroupOf(b)];
  }
  // Of the 8 blocks from `first` on.
  HWY_INLINE __m256i ScalesOf(const uint8_t* w, int64_t first) const {
    const uint8_t* const scales = w + row.code_bytes;
    __m128i of_block;
    if (shift == 0 && first + 8 <= row.num_groups) {
      of_block =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 2 * first));
    } else {
      alignas(16) uint16_t bits[8];
      for (int64_t b = 0; b < 8; ++b) {
        std::memcpy(bits + b, scales + 2 * GroupOf(first + b), 2);
      }
      of_block = _mm_load_si128(reinterpret_cast<const __m128i*>(bits));
    }
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(of_block), 16);
  }
};

// 8 rows of w, zeros behind n of them, to vector `vector` of the panel's four.
template <int kBits, bool kSymmetric>
void PackVector(const uint8_t* w, const PanelGroups& groups, int64_t n,
                int64_t vector, const Panel& panel) {
  const int64_t bytes = groups.row.bytes;
  // Of a block: vectors of codes of 8 rows.
  constexpr int kParts = kBits == 8 ? 2 : 1;
  const int64_t pass = vector / 2 * panel.blocks;
  char* code = panel.code + pass * kParts * 512 + vector % 2 * 32;
  for (int64_t b = 0; b < panel.blocks; ++b) {
    __m256i v[kParts][8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      if (j >= n) {
        for (int part = 0; part < kParts; ++part) {
          v[part][j] = _mm256_setzero_si256();
        }
        continue;
      }
      const uint8_t* const row = w + j * bytes;
      const __m256i codes = CodesOf<kBits>(row, b);
      const int zero = kSymmetric ? 1 << (kBits - 1) : groups.ZeroOf(row, b);
      if constexpr (kBits == 8) {
        const __m256i less = _mm256_set1_epi16(static_cast<int16_t>(zero));
        v[0][j] = _mm256_sub_epi16(
            _mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes)), less);
        v[1][j] = _mm256_sub_epi16(
            _mm256_cvtepu8_epi16(_mm256_extracti128_si256(codes, 1)), less);
      } else {
        v[0][j] =
            _mm256_sub_epi8(codes, _mm256_set1_epi8(static_cast<char>(zero)));
      }
    }
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      Transpose(v[part]);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c, code += 64) {
        Store(v[part][c], code);
        if constexpr (kBits != 8) {
          sum = _mm256_sub_epi16(
              sum, _mm256_maddubs_epi16(_mm256_set1_epi8(-128), v[part][c]));
        }
      }
    }
    if constexpr (kBits != 8) {
      Store(sum, panel.start + (pass + b) * 32 + vector % 2 * 16);
    }
  }
  for (int64_t first = 0; first < panel.blocks; first += 8) {
    __m256i v[8];
    for (int j = 0; j < 8; ++j) {
      v[j] = j < n ? groups.ScalesOf(w + j * bytes, first)
                   : _mm256_setzero_si256();
    }
    Transpose(v);
    const int64_t some = std::min<int64_t>(8, panel.blocks - first);
    float* const scale =
        panel.scale + (pass + first) * kPassRows + vector % 2 * kVectorRows;
    for (int64_t b = 0; b < some; ++b) Store(v[b], scale + b * kPassRows);
  }
}

// n packed rows of k columns.
template <int kBits, bool kSymmetric>
void Pack(const uint8_t* w, const QuantFormat& format, int64_t k, int64_t n,
          const Panel& panel) {
  const PanelGroups groups(format, k);
  // Whole passes.
  const int64_t vectors = n > kPassRows ? 4 : 2;
  for (int64_t v = 0; v < vectors; ++v, w += kVectorRows * groups.row.bytes) {
    PackVector<kBits, kSymmetric>(w, groups, n - v * kVectorRows, v, panel);
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
      const auto of = [](const int8_t* codes) HWY_ATTR {
        return _mm256_cvtepi8_epi16(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
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

// One pass: kRows of x, each of kPlanes, by 16 rows of w.
template <typename Of, int kRows, int kPlanes>
void Pass(const Panel& panel, int64_t pass, const float* of_x, int64_t n,
          float* y, int64_t ldy) {
  constexpr int kLines = kRows * kPlanes;
  const int64_t line = panel.blocks * Of::kSteps * 4;
  const int64_t first = pass * panel.blocks;
  const char* code = panel.code + first * Of::kSteps * 64;
  const char* x = panel.x;
  __m256 total[kRows][2];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i)
    total[i][0] = total[i][1] = _mm256_setzero_ps();
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
        total[i][v] = _mm256_fmadd_ps(
            _mm256_mul_ps(_mm256_cvtepi32_ps(whole),
                          _mm256_loadu_ps(of_w + v * kVectorRows)),
            scale, total[i][v]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* const to = y + i * ldy;
    if (n >= kPassRows) {
      _mm256_storeu_ps(to, total[i][0]);
      _mm256_storeu_ps(to + kVectorRows, total[i][1]);
    } else {
      alignas(32) float all[kPassRows];
      _mm256_store_ps(all, total[i][0]);
      _mm256_store_ps(all + kVectorRows, total[i][1]);
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
#endif  // HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
HWY_AFTER_NAMESPACE();

#endif  // CORE_CPU_QUANT_AVX2_PANEL_INL_H_
