// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/quant_product.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/quant/format.h"
#include "core/quant/packed_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/quant_product.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/highway.h"

#ifndef CORE_CPU_QUANT_PRODUCT_COUNTS_
#define CORE_CPU_QUANT_PRODUCT_COUNTS_
namespace strata {
inline std::atomic<int64_t> rows_of_8_bits{0};
inline std::atomic<int64_t> rows_of_16_bits{0};
}  // namespace strata
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// Highway's list of this target's features lacks it, its test has it.
#pragma GCC target("avx512vnni")
#endif
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

namespace {

constexpr int64_t kBlock = kActivationBlock;
// Rows of x that share a pass over a row of w.
constexpr int kMaxRows = 4;
// Blocks whose scales are made at a time: 4096 columns.
constexpr int64_t kChunk = 128;
// The largest error of 8 bits, as a share of a row's energy: 1 % of its root
// mean square. Normal numbers have 2e-5.
constexpr double kMaxError = 1e-4;

// Eight sums, or two or four of them where vectors are shorter.
using I32 = hn::CappedTag<int32_t, 8>;
using F32 = hn::CappedTag<float, 8>;
constexpr int64_t kSums = 8;
using VI = hn::Vec<I32>;
using VF = hn::Vec<F32>;

// --- Sums of products ---

// The codes of one block of w, each in a byte: registers, as the type that the
// sums take them in.
struct Codes {
#if HWY_TARGET == HWY_AVX3_DL
  __m256i bytes;
#else
  const uint8_t* bytes;
#endif
};

// The two blocks of 64 columns.
template <int kBits>
HWY_INLINE void LoadCodes(const uint8_t* w, uint8_t* memory, Codes& first,
                          Codes& second) {
#if HWY_TARGET == HWY_AVX3_DL
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  if constexpr (kBits == 4) {
    const __m256i low = _mm256_set1_epi8(15);
    first.bytes = _mm256_and_si256(a, low);
    second.bytes = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
  } else {
    first.bytes = a;
    second.bytes =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + kBlock));
  }
#else
  if constexpr (kBits == 4) {
    for (int64_t i = 0; i < kBlock; ++i) {
      memory[i] = w[i] & 15;
      memory[kBlock + i] = w[i] >> 4;
    }
    first.bytes = memory;
    second.bytes = memory + kBlock;
  } else {
    first.bytes = w;
    second.bytes = w + kBlock;
  }
#endif
}

// start + sums of products of 32 codes of w and of x, in eight lanes or, where
// vectors are shorter, fewer.
#if HWY_TARGET == HWY_AVX3_DL
HWY_INLINE VI AddProducts(VI start, const Codes& w, const int8_t* x) {
  return VI{_mm256_dpbusd_epi32(
      start.raw, w.bytes,
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))};
}
#elif HWY_TARGET == HWY_SCALAR
HWY_INLINE VI AddProducts(VI start, const Codes& w, const int8_t* x) {
  int32_t sum = hn::GetLane(start);
  for (int64_t i = 0; i < kBlock; ++i) sum += w.bytes[i] * x[i];
  return hn::Set(I32(), sum);
}
#else
HWY_INLINE VI AddProducts(VI start, const Codes& w, const int8_t* x) {
  const I32 i32;
  const hn::Repartition<int16_t, I32> i16;
  const hn::Rebind<uint8_t, decltype(i16)> u8;
  const hn::Rebind<int8_t, decltype(i16)> i8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(i16));
  VI sum = start, more = hn::Zero(i32);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    sum = hn::ReorderWidenMulAccumulate(
        i32, hn::PromoteTo(i16, hn::LoadU(u8, w.bytes + i)),
        hn::PromoteTo(i16, hn::LoadU(i8, x + i)), sum, more);
  }
  return hn::Add(sum, more);
}
#endif

// A block of ones.
HWY_INLINE Codes OnesOf() {
#if HWY_TARGET == HWY_AVX3_DL
  return {_mm256_set1_epi8(1)};
#else
  static constexpr uint8_t kOnes[kBlock] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  return {kOnes};
#endif
}

// --- Activations ---

// Block `b` of a row of k columns, filled up by zeros in `memory` if need be.
HWY_INLINE const float* BlockOf(const float* x, int64_t k, int64_t b,
                                float* memory) {
  const int64_t n = k - b * kBlock;
  if (n >= kBlock) return x + b * kBlock;
  std::fill_n(memory, kBlock, 0.0f);
  if (n > 0) std::copy_n(x + b * kBlock, n, memory);
  return memory;
}

// Codes of a block of x that is multiplied by `to_code`, and its corrections.
template <bool kWide>
HWY_INLINE void QuantizeBlock(const float* x, float to_code, int32_t multiple,
                              int8_t* high, int8_t* low, int32_t* correction) {
  const I32 i32;
  const F32 f32;
  const hn::Rebind<int8_t, I32> i8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(i32));
  const VF factor = hn::Set(f32, to_code);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    const VI code = hn::NearestInt(hn::Mul(hn::LoadU(f32, x + i), factor));
    if constexpr (kWide) {
      const VI upper = hn::ShiftRight<8>(hn::Add(code, hn::Set(i32, 128)));
      hn::StoreU(hn::DemoteTo(i8, upper), i8, high + i);
      hn::StoreU(hn::DemoteTo(i8, hn::Sub(code, hn::ShiftLeft<8>(upper))), i8,
                 low + i);
    } else {
      hn::StoreU(hn::DemoteTo(i8, code), i8, high + i);
    }
  }
  const Codes ones = OnesOf();
  VI sums = AddProducts(hn::Zero(i32), ones, high);
  if constexpr (kWide) {
    sums = AddProducts(hn::ShiftLeft<8>(sums), ones, low);
  }
  hn::StoreU(hn::Mul(sums, hn::Set(i32, -multiple)), i32, correction);
  for (int64_t i = lanes; i < kSums; ++i) correction[i] = 0;
}

void QuantizeRow(const float* x, int64_t k, int multiple, int64_t row,
                 const QuantizedRows& out) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const int64_t blocks = out.padded / kBlock;
  float* const scale = out.scale + row * blocks;
  HWY_ALIGN float memory[kBlock];
  // What rounding a block loses is uniform within a step of largest / 127.
  float energy = 0, error = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* const from = BlockOf(x, k, b, memory);
    VF squares = hn::Zero(f32), largest = squares;
    for (int64_t i = 0; i < kBlock; i += lanes) {
      const VF v = hn::LoadU(f32, from + i);
      squares = hn::MulAdd(v, v, squares);
      largest = hn::Max(largest, hn::Abs(v));
    }
    energy += hn::GetLane(hn::SumOfLanes(f32, squares));
    scale[b] = hn::GetLane(hn::MaxOfLanes(f32, largest));
    error += scale[b] * scale[b];
  }
  error *= kBlock / (127.0f * 127 * 12);
  const bool wide = error > kMaxError * energy;
  // A NaN must not become a number, nor an infinity.
  const bool finite = std::isfinite(energy);
  out.wide[row] = wide;
  const float max_code = wide ? 127 * 256 : 127;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* const from = BlockOf(x, finite ? k : 0, b, memory);
    const bool some = finite && scale[b] > 0;
    const float to_code = some ? max_code / scale[b] : 0;
    scale[b] = some ? scale[b] / max_code : 0;
    const int64_t at = row * out.padded + b * kBlock;
    int32_t* const correction = out.correction + at / kBlock * kSums;
    const auto quantize = wide ? QuantizeBlock<true> : QuantizeBlock<false>;
    quantize(from, to_code, multiple, out.high + at, out.low + at, correction);
  }
  if (!finite) scale[0] = std::numeric_limits<float>::quiet_NaN();
  (wide ? rows_of_16_bits : rows_of_8_bits)
      .fetch_add(1, std::memory_order_relaxed);
}

void Quantize(const float* x, int64_t k, const QuantFormat& format,
              int64_t begin, int64_t end, const QuantizedRows& out) {
  const int multiple = format.symmetric ? format.middle() : 1;
  for (int64_t row = begin; row < end; ++row) {
    QuantizeRow(x + row * k, k, multiple, row, out);
  }
}

// --- Products of rows ---

// The eight corrections, in as many lanes as there are.
HWY_INLINE VI LoadCorrection(const int32_t* p) {
  const I32 i32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(i32));
  VI sum = hn::LoadU(i32, p);
  for (int64_t i = lanes; i < kSums; i += lanes) {
    sum = hn::Add(sum, hn::LoadU(i32, p + i));
  }
  return sum;
}

// Scales, and zeros of asymmetric formats, of blocks [first, first + n) of a
// row of w; 0 behind its columns.
HWY_INLINE void BlockScales(const uint8_t* w, const QuantFormat& format,
                            const PackedRow& layout, int64_t k, int64_t first,
                            int64_t n, float* scale, int32_t* zero) {
  const int64_t group = GroupColumns(format, k);
  const uint8_t* const scales = w + layout.code_bytes;
  const uint8_t* const zeros = scales + 2 * layout.num_groups;
  if (format.group == 32 && format.symmetric) {
    // The common one, without a division.
    const int64_t real = std::min(n, layout.num_groups - first);
    for (int64_t b = 0; b < real; ++b) {
      uint16_t bits;
      std::memcpy(&bits, scales + 2 * (first + b), sizeof(bits));
      const uint32_t wide = uint32_t{bits} << 16;
      std::memcpy(scale + b, &wide, sizeof(wide));
    }
    for (int64_t b = std::max<int64_t>(0, real); b < n; ++b) scale[b] = 0;
    return;
  }
  for (int64_t b = 0; b < n; ++b) {
    const int64_t column = (first + b) * kBlock;
    if (column >= k) {
      scale[b] = 0;
      zero[b] = 0;
      continue;
    }
    const int64_t g = column / group;
    uint16_t bits;
    std::memcpy(&bits, scales + 2 * g, sizeof(bits));
    const uint32_t wide = uint32_t{bits} << 16;
    std::memcpy(scale + b, &wide, sizeof(wide));
    zero[b] = format.symmetric ? 0 : zeros[g];
  }
}

// One row of w by kRows of x, all of 8 bits or (kWide) of 16.
template <int kBits, int kRows, bool kWide, bool kSymmetric>
HWY_INLINE void Row(const QuantizedRows& x, int64_t row, const uint8_t* w,
                    const QuantFormat& format, const PackedRow& layout,
                    int64_t k, float* y, int64_t ldy) {
  const I32 i32;
  const F32 f32;
  const int64_t blocks = x.padded / kBlock;
  VF sum[kRows][2];
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = hn::Zero(f32);
  HWY_ALIGN float of_w[kChunk];
  HWY_ALIGN int32_t zero[kChunk];
  HWY_ALIGN float both[kRows][kChunk];
  HWY_ALIGN uint8_t memory[2 * kBlock];
  for (int64_t first = 0; first < blocks; first += kChunk) {
    const int64_t n = std::min(kChunk, blocks - first);
    BlockScales(w, format, layout, k, first, n, of_w, zero);
    for (int i = 0; i < kRows; ++i) {
      const float* const of_x = x.scale + (row + i) * blocks + first;
      for (int64_t b = 0; b < n; ++b) both[i][b] = of_w[b] * of_x[b];
    }
    const uint8_t* code = w + first * kBlock * kBits / 8;
    for (int64_t b = 0; b < n; b += 2, code += 2 * kBlock * kBits / 8) {
      Codes codes[2];
      LoadCodes<kBits>(code, memory, codes[0], codes[1]);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const int64_t at = (row + i) * x.padded + (first + b + half) * kBlock;
          VI start = LoadCorrection(x.correction + at / kBlock * kSums);
          if constexpr (!kSymmetric) {
            start = hn::Mul(start, hn::Set(i32, zero[b + half]));
          }
          VI products;
          if constexpr (kWide) {
            const VI high =
                AddProducts(hn::Zero(i32), codes[half], x.high + at);
            products = hn::Add(hn::ShiftLeft<8>(high),
                               AddProducts(start, codes[half], x.low + at));
          } else {
            products = AddProducts(start, codes[half], x.high + at);
          }
          sum[i][half] =
              hn::MulAdd(hn::ConvertTo(f32, products),
                         hn::Set(f32, both[i][b + half]), sum[i][half]);
        }
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    y[i * ldy] =
        hn::GetLane(hn::SumOfLanes(f32, hn::Add(sum[i][0], sum[i][1])));
  }
}

template <int kBits, bool kSymmetric>
void DotsOf(const QuantizedRows& x, int64_t first, int64_t m, const uint8_t* w,
            const QuantFormat& format, int64_t k, int64_t n, float* y,
            int64_t ldy) {
  const PackedRow layout(format, k);
  for (int64_t j = 0; j < n; ++j, w += layout.bytes) {
    int64_t i = 0;
    while (i < m) {
      const int64_t row = first + i;
      float* const out = y + i * ldy + j;
      if (x.wide[row]) {
        Row<kBits, 1, true, kSymmetric>(x, row, w, format, layout, k, out, ldy);
        ++i;
        continue;
      }
      int64_t narrow = 1;
      while (narrow < kMaxRows && i + narrow < m && !x.wide[row + narrow]) {
        ++narrow;
      }
      if (narrow == kMaxRows) {
        Row<kBits, kMaxRows, false, kSymmetric>(x, row, w, format, layout, k,
                                                out, ldy);
        i += kMaxRows;
      } else {
        Row<kBits, 1, false, kSymmetric>(x, row, w, format, layout, k, out,
                                         ldy);
        ++i;
      }
    }
  }
}

void Dots(const QuantizedRows& x, int64_t first, int64_t m, const uint8_t* w,
          const QuantFormat& format, int64_t k, int64_t n, float* y,
          int64_t ldy) {
  const auto run =
      format.bits == 4
          ? (format.symmetric ? DotsOf<4, true> : DotsOf<4, false>)
          : (format.symmetric ? DotsOf<8, true> : DotsOf<8, false>);
  run(x, first, m, w, format, k, n, y, ldy);
}

// Codes of 32 columns, less their zero, times their scale.
HWY_INLINE void WidenBlock(const uint8_t* code, int32_t zero, float scale,
                           float* out) {
  const I32 i32;
  const F32 f32;
  const hn::Rebind<uint8_t, I32> u8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(i32));
  const VF s = hn::Set(f32, scale);
  const VI z = hn::Set(i32, zero);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    const VI q = hn::Sub(hn::PromoteTo(i32, hn::LoadU(u8, code + i)), z);
    hn::StoreU(hn::Mul(hn::ConvertTo(f32, q), s), f32, out + i);
  }
}

void WidenRows(const uint8_t* w, const QuantFormat& format, int64_t k,
               int64_t n, float* out) {
  if (k % kBlock != 0) {
    for (int64_t j = 0; j < n; ++j) {
      UnpackRow(format, k, w + j * PackedRow(format, k).bytes, out + j * k);
    }
    return;
  }
  const PackedRow layout(format, k);
  HWY_ALIGN float scale[kChunk];
  HWY_ALIGN int32_t zero[kChunk];
  HWY_ALIGN uint8_t code[2 * kBlock];
  for (int64_t j = 0; j < n; ++j, w += layout.bytes, out += k) {
    for (int64_t first = 0; first < k / kBlock; first += kChunk) {
      const int64_t blocks = std::min(kChunk, k / kBlock - first);
      BlockScales(w, format, layout, k, first, blocks, scale, zero);
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t column = (first + b) * kBlock;
        const int32_t z = format.symmetric ? format.middle() : zero[b];
        const uint8_t* from = w + column;
        if (format.bits == 4) {
          const uint8_t* const packed = w + column / 64 * 32;
          const int shift = column % 64 == 0 ? 0 : 4;
          for (int64_t i = 0; i < kBlock; ++i) {
            code[i] = packed[i] >> shift & 15;
          }
          from = code;
        }
        WidenBlock(from, z, scale[b], out + column);
      }
    }
  }
}

}  // namespace

const QuantProduct& QuantProductTable() {
  static constexpr QuantProduct table = {&Quantize, &Dots, &WidenRows};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(QuantProductTable);

const QuantProduct& QuantProduct::Get() {
  return HWY_DYNAMIC_DISPATCH(QuantProductTable)();
}

namespace {

int64_t Aligned(int64_t bytes) { return (bytes + 63) & ~int64_t{63}; }

}  // namespace

int64_t QuantizedRows::NumBytes(int64_t m, int64_t columns) {
  const int64_t padded = PaddedColumns(columns);
  const int64_t blocks = padded / kActivationBlock;
  return 2 * Aligned(m * padded) + Aligned(m * blocks * 4) +
         Aligned(m * blocks * 32) + Aligned(m);
}

QuantizedRows QuantizedRows::At(char* memory, int64_t m, int64_t columns) {
  QuantizedRows rows;
  rows.padded = PaddedColumns(columns);
  const int64_t blocks = rows.padded / kActivationBlock;
  rows.high = reinterpret_cast<int8_t*>(memory);
  rows.low = rows.high + Aligned(m * rows.padded);
  memory += 2 * Aligned(m * rows.padded);
  rows.scale = reinterpret_cast<float*>(memory);
  memory += Aligned(m * blocks * 4);
  rows.correction = reinterpret_cast<int32_t*>(memory);
  memory += Aligned(m * blocks * 32);
  rows.wide = reinterpret_cast<uint8_t*>(memory);
  return rows;
}

ActivationWidths CountActivationWidths() {
  return {rows_of_8_bits.load(), rows_of_16_bits.load()};
}

}  // namespace strata
#endif  // HWY_ONCE
