// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/quant/quant_product.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/cpu/quant/scaling.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/bfloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/quant/quant_product.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "core/cpu/quant/lane_dots-inl.h"
#include "hwy/highway.h"

#ifndef CORE_CPU_QUANT_QUANT_PRODUCT_COUNTS_
#define CORE_CPU_QUANT_QUANT_PRODUCT_COUNTS_
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

// Eight numbers, or fewer where vectors are shorter.
using I32 = hn::CappedTag<int32_t, 8>;
using F32 = hn::CappedTag<float, 8>;
using VI = hn::Vec<I32>;
using VF = hn::Vec<F32>;

// --- Sums of products ---

#ifndef STRATA_LANE_DOTS

// start + sums of products of 32 codes of w, each in a byte, and of x; in eight
// lanes or, where vectors are shorter, fewer.
HWY_INLINE VI AddProducts(VI start, const uint8_t* w, const int8_t* x) {
#if HWY_TARGET == HWY_SCALAR
  int32_t sum = hn::GetLane(start);
  for (int64_t i = 0; i < kBlock; ++i) sum += w[i] * x[i];
  return hn::Set(I32(), sum);
#else
  const I32 i32;
  const hn::Repartition<int16_t, I32> i16;
  const hn::Rebind<uint8_t, decltype(i16)> u8;
  const hn::Rebind<int8_t, decltype(i16)> i8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(i16));
  VI sum = start, more = hn::Zero(i32);
  for (int64_t i = 0; i < kBlock; i += lanes) {
    sum = hn::ReorderWidenMulAccumulate(
        i32, hn::PromoteTo(i16, hn::LoadU(u8, w + i)),
        hn::PromoteTo(i16, hn::LoadU(i8, x + i)), sum, more);
  }
  return hn::Add(sum, more);
#endif
}

// Minus the sums of the codes of each of a row's blocks, of 16 bits if `low` is
// not null.
void MinusBlockSums(const int8_t* high, const int8_t* low, int64_t blocks,
                    int32_t* out) {
  static constexpr uint8_t kOnes[kBlock] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const I32 i32;
  for (int64_t b = 0; b < blocks; ++b) {
    VI sums = AddProducts(hn::Zero(i32), kOnes, high + b * kBlock);
    if (low != nullptr) {
      sums = AddProducts(hn::ShiftLeft<8>(sums), kOnes, low + b * kBlock);
    }
    out[b] = -hn::GetLane(hn::SumOfLanes(i32, sums));
  }
}

#endif

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

// Codes of a block of x that is multiplied by `to_code`.
template <bool kWide>
HWY_INLINE void QuantizeBlock(const float* x, float to_code, int8_t* high,
                              int8_t* low) {
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
}

#if HWY_TARGET == HWY_AVX3_DL
// Codes of a row, in multiples of 64, in the order of `high_by_halves`.
void CopyByHalves(const int8_t* codes, int64_t padded, int8_t* out) {
  int64_t c = 0;
  for (; c + 4 * kBlock <= padded; c += 4 * kBlock) {
    std::memcpy(out + c, codes + c, kBlock);
    std::memcpy(out + c + kBlock, codes + c + 2 * kBlock, kBlock);
    std::memcpy(out + c + 2 * kBlock, codes + c + kBlock, kBlock);
    std::memcpy(out + c + 3 * kBlock, codes + c + 3 * kBlock, kBlock);
  }
  std::memcpy(out + c, codes + c, padded - c);
}
#endif

void QuantizeRow(const float* x, int64_t k, int64_t row,
                 const QuantizedRows& out) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const int64_t blocks = out.padded / kBlock;
  float* const scale = out.scale + row * blocks;
  HWY_ALIGN float memory[kBlock];
  // What rounding a block loses is uniform within a step of largest / 127.
  VF squares = hn::Zero(f32);
  float error = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* const from = BlockOf(x, k, b, memory);
    VF largest = hn::Zero(f32);
    for (int64_t i = 0; i < kBlock; i += lanes) {
      const VF v = hn::LoadU(f32, from + i);
      squares = hn::MulAdd(v, v, squares);
      largest = hn::Max(largest, hn::Abs(v));
    }
    scale[b] = hn::GetLane(hn::MaxOfLanes(f32, largest));
    error += scale[b] * scale[b];
  }
  const float energy = hn::GetLane(hn::SumOfLanes(f32, squares));
  error *= kBlock / (127.0f * 127 * 12);
  const bool wide = error > kMaxError * energy;
  // A NaN must not become a number, nor an infinity.
  const bool finite = std::isfinite(energy);
  out.wide[row] = wide;
  const float max_code = wide ? 127 * 256 : 127;
  const int64_t first = row * out.padded;
  int8_t* const high = out.high + first;
  int8_t* const low = out.low + first;
  const auto quantize = wide ? QuantizeBlock<true> : QuantizeBlock<false>;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* const from = BlockOf(x, finite ? k : 0, b, memory);
    const bool some = finite && scale[b] > 0;
    const float to_code = some ? max_code / scale[b] : 0;
    scale[b] = some ? scale[b] / max_code : 0;
    quantize(from, to_code, high + b * kBlock, low + b * kBlock);
  }
  MinusBlockSums(high, wide ? low : nullptr, blocks,
                 out.minus_sum + row * blocks);
  if (!finite) scale[0] = std::numeric_limits<float>::quiet_NaN();
#if HWY_TARGET == HWY_AVX3_DL
  CopyByHalves(high, out.padded, out.high_by_halves + first);
  if (wide) CopyByHalves(low, out.padded, out.low_by_halves + first);
#endif
  (wide ? rows_of_16_bits : rows_of_8_bits)
      .fetch_add(1, std::memory_order_relaxed);
}

void Quantize(const float* x, int64_t k, int64_t begin, int64_t end,
              const QuantizedRows& out) {
  for (int64_t row = begin; row < end; ++row) {
    QuantizeRow(x + row * k, k, row, out);
  }
}

// --- Products of rows ---

// The codes of a pair of blocks, a byte each.
template <int kBits>
HWY_INLINE void SpreadPair(const uint8_t* from, uint8_t* codes) {
  constexpr int kPairBytes = 2 * kBlock * kBits / 8;
  for (int part = 0; part < 8 / kBits; ++part) {
    for (int i = 0; i < kPairBytes; ++i) {
      codes[part * kPairBytes + i] =
          from[i] >> part * kBits & ((1 << kBits) - 1);
    }
  }
}

// Scales, and zeros of asymmetric formats, of blocks [first, first + n) of a
// row of w; 0 behind its columns.
HWY_INLINE void BlockScales(const uint8_t* w, const QuantFormat& format,
                            const PackedRow& layout, int64_t k, int64_t first,
                            int64_t n, float* scale, int32_t* zero) {
  const uint8_t* const scales = w + layout.code_bytes;
  const int64_t group = GroupColumns(format, k);
  const uint8_t* const zeros = scales + 2 * layout.num_groups;
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
    scale[b] = Widen(BFloat16{bits});
    zero[b] = format.symmetric ? 0 : zeros[g];
  }
}

#ifndef STRATA_LANE_DOTS

// What of a row is the same for all rows of w.
struct BlockGroups {
  QuantFormat format;
  int64_t k;
  PackedRow layout;

  BlockGroups(const QuantFormat& format, int64_t k)
      : format(format), k(k), layout(format, k) {}
};

// One row of w by kRows of x, all of 8 bits or (kWide) of 16.
template <int kBits, int kRows, bool kWide, Scaling kScaling, int kTail>
HWY_INLINE void RowOf(const QuantizedRows& x, int64_t row, const uint8_t* w,
                      const BlockGroups& groups, float* y, int64_t ldy) {
  const I32 i32;
  const F32 f32;
  const int64_t blocks = x.padded / kBlock;
  VF sum[kRows];
  for (int i = 0; i < kRows; ++i) sum[i] = hn::Zero(f32);
  HWY_ALIGN float scale[kChunk];
  HWY_ALIGN int32_t zero[kChunk];
  HWY_ALIGN uint8_t codes[2 * kBlock];
  for (int64_t b = 0; b < blocks; b += 2) {
    if (b % kChunk == 0) {
      BlockScales(w, groups.format, groups.layout, groups.k, b,
                  std::min(kChunk, blocks - b), scale, zero);
    }
    SpreadPair<kBits>(w + b * kBlock * kBits / 8, codes);
    for (int i = 0; i < kRows; ++i) {
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t at = (row + i) * blocks + b + half;
        const int32_t middle = 1 << (kBits - 1);
        const int32_t start =
            x.minus_sum[at] *
            (kScaling != Scaling::kZeros ? middle : zero[(b + half) % kChunk]);
        const uint8_t* const c = codes + half * kBlock;
        VI products =
            hn::IfThenElseZero(hn::FirstN(i32, 1), hn::Set(i32, start));
        if constexpr (kWide) {
          const VI high = AddProducts(hn::Zero(i32), c, x.high + at * kBlock);
          products = hn::Add(products, hn::ShiftLeft<8>(high));
          products = AddProducts(products, c, x.low + at * kBlock);
        } else {
          products = AddProducts(products, c, x.high + at * kBlock);
        }
        sum[i] = hn::MulAdd(
            hn::ConvertTo(f32, products),
            hn::Set(f32, scale[(b + half) % kChunk] * x.scale[at]), sum[i]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    y[i * ldy] = hn::GetLane(hn::SumOfLanes(f32, sum[i]));
  }
}

// n rows of w by one of x.
template <int kBits, bool kWide, Scaling kScaling, int kTail>
HWY_INLINE void DotsOfOne(const QuantizedRows& x, int64_t row, const uint8_t* w,
                          int64_t bytes, const BlockGroups& groups, int64_t n,
                          float* y) {
  for (int64_t j = 0; j < n; ++j, w += bytes) {
    RowOf<kBits, 1, kWide, kScaling, kTail>(x, row, w, groups, y + j, 0);
  }
}

#endif

template <int kBits, Scaling kScaling, int kTail>
void DotsOf(const QuantizedRows& x, int64_t first, int64_t m, const uint8_t* w,
            const QuantFormat& format, int64_t k, int64_t n, float* y,
            int64_t ldy) {
  const BlockGroups groups(format, k);
  const int64_t bytes = PackedRow(format, k).bytes;
  if (m == 1) {
    const auto dots = x.wide[first] ? DotsOfOne<kBits, true, kScaling, kTail>
                                    : DotsOfOne<kBits, false, kScaling, kTail>;
    dots(x, first, w, bytes, groups, n, y);
    return;
  }
  for (int64_t j = 0; j < n; ++j, w += bytes) {
    int64_t i = 0;
    while (i < m) {
      const int64_t row = first + i;
      float* const out = y + i * ldy + j;
      int64_t narrow = 0;
      while (narrow < kMaxRows && i + narrow < m && !x.wide[row + narrow]) {
        ++narrow;
      }
      if (narrow == kMaxRows) {
        RowOf<kBits, kMaxRows, false, kScaling, kTail>(x, row, w, groups, out,
                                                       ldy);
        i += kMaxRows;
        continue;
      }
      if (narrow > 0) {
        RowOf<kBits, 1, false, kScaling, kTail>(x, row, w, groups, out, ldy);
      } else {
        RowOf<kBits, 1, true, kScaling, kTail>(x, row, w, groups, out, ldy);
      }
      ++i;
    }
  }
}

using DotsFunction = void (*)(const QuantizedRows&, int64_t, int64_t,
                              const uint8_t*, const QuantFormat&, int64_t,
                              int64_t, float*, int64_t);

// By the pairs of blocks of 32 columns behind the last that fill a vector.
template <int kBits, Scaling kScaling, int... kTail>
DotsFunction DotsBehind(int64_t pairs, std::integer_sequence<int, kTail...>) {
  static constexpr DotsFunction kBehind[] = {DotsOf<kBits, kScaling, kTail>...};
  return kBehind[pairs];
}

void Dots(const QuantizedRows& x, int64_t first, int64_t m, const uint8_t* w,
          const QuantFormat& format, int64_t k, int64_t n, float* y,
          int64_t ldy) {
#ifdef STRATA_LANE_DOTS
  constexpr int kTails = kLanes / 2;
#else
  constexpr int kTails = 1;
#endif
  using Tails = std::make_integer_sequence<int, kTails>;
  const int64_t pairs = x.padded / 64 % kTails;
  const auto with = [pairs](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    return [pairs](Scaling scaling) {
      switch (scaling) {
        case Scaling::kZeros:
          return DotsBehind<kBits, Scaling::kZeros>(pairs, Tails());
        case Scaling::kGroups:
          return DotsBehind<kBits, Scaling::kGroups>(pairs, Tails());
        default:
          return DotsBehind<kBits, Scaling::kBlocks>(pairs, Tails());
      }
    };
  };
  const Scaling scaling = ScalingOf(format, k);
  const DotsFunction run =
      format.bits == 2   ? with(std::integral_constant<int, 2>())(scaling)
      : format.bits == 4 ? with(std::integral_constant<int, 4>())(scaling)
                         : with(std::integral_constant<int, 8>())(scaling);
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
  const auto spread = format.bits == 2   ? SpreadPair<2>
                      : format.bits == 4 ? SpreadPair<4>
                                         : SpreadPair<8>;
  for (int64_t j = 0; j < n; ++j, w += layout.bytes, out += k) {
    for (int64_t first = 0; first < k / kBlock; first += kChunk) {
      const int64_t blocks = std::min(kChunk, k / kBlock - first);
      BlockScales(w, format, layout, k, first, blocks, scale, zero);
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t column = (first + b) * kBlock;
        const int32_t z = format.symmetric ? format.middle() : zero[b];
        if (b % 2 == 0) spread(w + column * format.bits / 8, code);
        WidenBlock(code + b % 2 * kBlock, z, scale[b], out + column);
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
  // Codes are read 512 at a time.
  constexpr int64_t kBehind = 512;
  const int64_t padded = PaddedColumns(columns);
  const int64_t blocks = padded / kActivationBlock;
  return 4 * Aligned(m * padded) + 2 * Aligned(m * blocks * 4) + Aligned(m) +
         kBehind;
}

QuantizedRows QuantizedRows::At(char* memory, int64_t m, int64_t columns) {
  QuantizedRows rows;
  rows.padded = PaddedColumns(columns);
  const int64_t blocks = rows.padded / kActivationBlock;
  rows.high = reinterpret_cast<int8_t*>(memory);
  rows.low = rows.high + Aligned(m * rows.padded);
  rows.high_by_halves = rows.low + Aligned(m * rows.padded);
  rows.low_by_halves = rows.high_by_halves + Aligned(m * rows.padded);
  memory += 4 * Aligned(m * rows.padded);
  rows.scale = reinterpret_cast<float*>(memory);
  memory += Aligned(m * blocks * 4);
  rows.minus_sum = reinterpret_cast<int32_t*>(memory);
  memory += Aligned(m * blocks * 4);
  rows.wide = reinterpret_cast<uint8_t*>(memory);
  return rows;
}

ActivationWidths CountActivationWidths() {
  return {rows_of_8_bits.load(), rows_of_16_bits.load()};
}

}  // namespace strata
#endif  // HWY_ONCE
