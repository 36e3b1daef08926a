// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/row_products.h"

#include <algorithm>
#include <cstdint>

#include "core/tensor/bfloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/row_products.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
using Tag = hn::ScalableTag<T>;
template <typename T>
using V = hn::Vec<Tag<T>>;

// With 16 registers a tile of 4 x 4 sums would spill.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
constexpr int64_t kTileRows = 2;
#else
constexpr int64_t kTileRows = 4;
#endif
// Columns of a tile of dots: their ends are added four at a time.
constexpr int64_t kDotColumns = 4;

// The first `count` elements, zeros behind them.
template <typename T>
HWY_INLINE V<T> LoadPart(const T* p, int64_t count) {
  const Tag<T> d;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, count), d, p);
#else
  // Elsewhere a masked access would touch memory behind the array.
  HWY_ALIGN T lane[HWY_MAX_BYTES / sizeof(T)] = {};
  std::copy_n(p, count, lane);
  return hn::Load(d, lane);
#endif
}

// Elements of b as the vectors that a's are multiplied by.
template <typename T>
HWY_INLINE V<T> LoadWeights(const T* p) {
  return hn::LoadU(Tag<T>(), p);
}

HWY_INLINE V<float> LoadWeights(const BFloat16* p) {
  const Tag<float> f32;
  const hn::RebindToUnsigned<Tag<float>> u32;
  const hn::Rebind<uint16_t, Tag<float>> u16;
  const auto bits = hn::LoadU(u16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(f32, hn::ShiftLeft<16>(hn::PromoteTo(u32, bits)));
}

template <typename T>
HWY_INLINE V<T> LoadWeightsPart(const T* p, int64_t count) {
  return LoadPart(p, count);
}

HWY_INLINE V<float> LoadWeightsPart(const BFloat16* p, int64_t count) {
  BFloat16 lane[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(p, count, lane);
  return LoadWeights(lane);
}

template <typename T>
HWY_INLINE void StorePart(V<T> v, T* p, int64_t count) {
  const Tag<T> d;
  HWY_ALIGN T lane[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lane);
  std::copy_n(lane, count, p);
}

// out[j] = the sum of v_j's lanes.
template <typename T>
HWY_INLINE void SumFour(V<T> v0, V<T> v1, V<T> v2, V<T> v3, T* out) {
  const Tag<T> d;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  if constexpr (sizeof(T) == 4) {
    // Within blocks of four lanes: halves of two sums, then of four.
    const auto s01 =
        hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1));
    const auto s23 =
        hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3));
    const hn::RepartitionToWide<Tag<T>> dw;
    const auto w01 = hn::BitCast(dw, s01), w23 = hn::BitCast(dw, s23);
    const auto sums =
        hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, w01, w23)),
                hn::BitCast(d, hn::InterleaveUpper(dw, w01, w23)));
    // Then the blocks.
    const hn::Half<Tag<T>> dh;
    const auto half = hn::Add(hn::LowerHalf(dh, sums), hn::UpperHalf(dh, sums));
    if constexpr (HWY_MAX_BYTES == 64) {
      const hn::Half<hn::Half<Tag<T>>> dq;
      hn::StoreU(hn::Add(hn::LowerHalf(dq, half), hn::UpperHalf(dq, half)), dq,
                 out);
    } else {
      hn::StoreU(half, dh, out);
    }
    return;
  }
#endif
  out[0] = hn::GetLane(hn::SumOfLanes(d, v0));
  out[1] = hn::GetLane(hn::SumOfLanes(d, v1));
  out[2] = hn::GetLane(hn::SumOfLanes(d, v2));
  out[3] = hn::GetLane(hn::SumOfLanes(d, v3));
}

// A tile of kRows rows and, of kDotColumns columns, the first `columns`. The
// others repeat the last, so that every element is made alike. Meanwhile it
// asks for kFetch rows of b from `next` on.
template <typename T, typename W, int kRows, int kFetch>
HWY_INLINE void DotTile(const RowProductArgs<T, W>& g, int64_t row,
                        int64_t column, int64_t columns, const W* next) {
  const Tag<T> d;
  const int64_t lanes = hn::Lanes(d);
  const W* const b0 = g.b + column * g.ldb;
  const W* const b1 = b0 + std::min<int64_t>(1, columns - 1) * g.ldb;
  const W* const b2 = b0 + std::min<int64_t>(2, columns - 1) * g.ldb;
  const W* const b3 = b0 + (columns - 1) * g.ldb;
  const auto row_of_a = [&](int i) HWY_ATTR {
    const int64_t at = row + std::min(i, kRows - 1);
    return g.a + (g.a_row != nullptr ? g.a_row[at] : at) * g.lda;
  };
  const T* const a0 = row_of_a(0);
  const T* const a1 = row_of_a(1);
  const T* const a2 = row_of_a(2);
  const T* const a3 = row_of_a(3);
  V<T> s00 = hn::Zero(d), s01 = s00, s02 = s00, s03 = s00;
  V<T> s10 = s00, s11 = s00, s12 = s00, s13 = s00;
  V<T> s20 = s00, s21 = s00, s22 = s00, s23 = s00;
  V<T> s30 = s00, s31 = s00, s32 = s00, s33 = s00;
  // Were it a call, sums would live in memory and be stored in each step.
  const auto step = [&](V<T> y0, V<T> y1, V<T> y2, V<T> y3, auto load) HWY_ATTR
      __attribute__((always_inline)) {
    const V<T> x0 = load(a0);
    s00 = hn::MulAdd(x0, y0, s00);
    s01 = hn::MulAdd(x0, y1, s01);
    s02 = hn::MulAdd(x0, y2, s02);
    s03 = hn::MulAdd(x0, y3, s03);
    if constexpr (kRows >= 2) {
      const V<T> x1 = load(a1);
      s10 = hn::MulAdd(x1, y0, s10);
      s11 = hn::MulAdd(x1, y1, s11);
      s12 = hn::MulAdd(x1, y2, s12);
      s13 = hn::MulAdd(x1, y3, s13);
    }
    if constexpr (kRows >= 3) {
      const V<T> x2 = load(a2);
      s20 = hn::MulAdd(x2, y0, s20);
      s21 = hn::MulAdd(x2, y1, s21);
      s22 = hn::MulAdd(x2, y2, s22);
      s23 = hn::MulAdd(x2, y3, s23);
    }
    if constexpr (kRows >= 4) {
      const V<T> x3 = load(a3);
      s30 = hn::MulAdd(x3, y0, s30);
      s31 = hn::MulAdd(x3, y1, s31);
      s32 = hn::MulAdd(x3, y2, s32);
      s33 = hn::MulAdd(x3, y3, s33);
    }
  };
  int64_t i = 0;
  for (; i + lanes <= g.k; i += lanes) {
    if constexpr (kFetch >= 1) hwy::Prefetch(next + i);
    if constexpr (kFetch >= 2) hwy::Prefetch(next + g.ldb + i);
    if constexpr (kFetch >= 4) {
      hwy::Prefetch(next + 2 * g.ldb + i);
      hwy::Prefetch(next + 3 * g.ldb + i);
    }
    step(LoadWeights(b0 + i), LoadWeights(b1 + i), LoadWeights(b2 + i),
         LoadWeights(b3 + i),
         [&](const T* p) HWY_ATTR { return hn::LoadU(d, p + i); });
  }
  if (i < g.k) {
    const int64_t rest = g.k - i;
    step(LoadWeightsPart(b0 + i, rest), LoadWeightsPart(b1 + i, rest),
         LoadWeightsPart(b2 + i, rest), LoadWeightsPart(b3 + i, rest),
         [&](const T* p) HWY_ATTR { return LoadPart(p + i, rest); });
  }
  T* const c = g.c + row * g.ldc + column;
  const auto store = [&](V<T> v0, V<T> v1, V<T> v2, V<T> v3, T* to) HWY_ATTR {
    if (columns == kDotColumns) {
      SumFour<T>(v0, v1, v2, v3, to);
      return;
    }
    T sums[kDotColumns];
    SumFour<T>(v0, v1, v2, v3, sums);
    std::copy_n(sums, columns, to);
  };
  store(s00, s01, s02, s03, c);
  if constexpr (kRows >= 2) store(s10, s11, s12, s13, c + g.ldc);
  if constexpr (kRows >= 3) store(s20, s21, s22, s23, c + 2 * g.ldc);
  if constexpr (kRows >= 4) store(s30, s31, s32, s33, c + 3 * g.ldc);
}

template <typename T, typename W, int kFetch>
HWY_INLINE void DotRows(const RowProductArgs<T, W>& g, int64_t row, int rows,
                        int64_t column, int64_t columns, const W* next) {
  switch (rows) {
    case 1:
      return DotTile<T, W, 1, kFetch>(g, row, column, columns, next);
    case 2:
      return DotTile<T, W, 2, kFetch>(g, row, column, columns, next);
    case 3:
      return DotTile<T, W, 3, kFetch>(g, row, column, columns, next);
    default:
      return DotTile<T, W, kTileRows, kFetch>(g, row, column, columns, next);
  }
}

// Some columns at a time, whose rows of b stay in the first cache while all
// rows of a pass. Meanwhile the next columns' come from memory, which is too
// slow to have them ready: the processor does not guess streams that end after
// a page. They are asked for by several tiles, as a core waits for few lines at
// a time. An expert often has few rows, so the rest is one tile.
template <typename T, typename W>
void ByDots(const RowProductArgs<T, W>& g) {
  const int64_t row_tiles = (g.m + kTileRows - 1) / kTileRows;
  const int64_t group =
      row_tiles > 1 && sizeof(W) == 2 ? 2 * kDotColumns : kDotColumns;
  for (int64_t first = 0; first < g.n; first += group) {
    const int64_t end = std::min(first + group, g.n);
    const bool last = end == g.n;
    const W* next = last ? g.then : g.b + end * g.ldb;
    const int64_t fetched = last ? group : std::min(group, g.n - end);
    const W* const next_end =
        next == nullptr ? nullptr : next + fetched * g.ldb;
    for (int64_t row = 0; row < g.m; row += kTileRows) {
      const int rows = static_cast<int>(std::min(kTileRows, g.m - row));
      for (int64_t column = first; column < end; column += kDotColumns) {
        const int64_t columns = std::min(kDotColumns, end - column);
        if (next >= next_end) {
          DotRows<T, W, 0>(g, row, rows, column, columns, next);
        } else if (row_tiles == 1) {
          DotRows<T, W, 4>(g, row, rows, column, columns, next);
          next += 4 * g.ldb;
        } else if (row_tiles <= 3) {
          DotRows<T, W, 2>(g, row, rows, column, columns, next);
          next += 2 * g.ldb;
        } else {
          DotRows<T, W, 1>(g, row, rows, column, columns, next);
          next += g.ldb;
        }
      }
    }
  }
}

// A tile of kRows rows and kVectors vectors of columns, the last of which may
// be in part (`rest` lanes of it; 0: whole).
template <typename T, int kRows, int kVectors>
HWY_INLINE void SumTile(const RowProductArgs<T>& g, int64_t row, int64_t column,
                        int64_t rest) {
  const Tag<T> d;
  const int64_t lanes = hn::Lanes(d);
  const T* const a = g.a + row * g.lda;
  const T* b = g.b + column;
  T* const c = g.c + row * g.ldc + column;
  const auto load = [&](const T* p, bool last) HWY_ATTR {
    return last && rest > 0 ? LoadPart(p, rest) : hn::LoadU(d, p);
  };
  const auto store = [&](V<T> v, T* p, bool last) HWY_ATTR {
    if (last && rest > 0) {
      StorePart(v, p, rest);
    } else {
      hn::StoreU(v, d, p);
    }
  };
  constexpr bool kTwo = kVectors == 2;
  const auto start = [&](int64_t i, int64_t v) HWY_ATTR {
    return g.add ? load(c + i * g.ldc + v * lanes, v + 1 == kVectors)
                 : hn::Zero(d);
  };
  V<T> s00 = start(0, 0), s01 = s00, s10 = s00, s11 = s00;
  V<T> s20 = s00, s21 = s00, s30 = s00, s31 = s00;
  if constexpr (kTwo) s01 = start(0, 1);
  if constexpr (kRows == 4) {
    s10 = start(1, 0), s20 = start(2, 0), s30 = start(3, 0);
    if constexpr (kTwo) s11 = start(1, 1), s21 = start(2, 1), s31 = start(3, 1);
  }
  for (int64_t j = 0; j < g.k; ++j, b += g.ldb) {
    const V<T> y0 = load(b, kVectors == 1);
    const V<T> y1 = kTwo ? load(b + lanes, true) : y0;
    const V<T> x0 = hn::Set(d, a[j]);
    s00 = hn::MulAdd(x0, y0, s00);
    if constexpr (kTwo) s01 = hn::MulAdd(x0, y1, s01);
    if constexpr (kRows == 4) {
      const V<T> x1 = hn::Set(d, a[g.lda + j]);
      const V<T> x2 = hn::Set(d, a[2 * g.lda + j]);
      const V<T> x3 = hn::Set(d, a[3 * g.lda + j]);
      s10 = hn::MulAdd(x1, y0, s10);
      s20 = hn::MulAdd(x2, y0, s20);
      s30 = hn::MulAdd(x3, y0, s30);
      if constexpr (kTwo) {
        s11 = hn::MulAdd(x1, y1, s11);
        s21 = hn::MulAdd(x2, y1, s21);
        s31 = hn::MulAdd(x3, y1, s31);
      }
    }
  }
  store(s00, c, kVectors == 1);
  if constexpr (kTwo) store(s01, c + lanes, true);
  if constexpr (kRows == 4) {
    store(s10, c + g.ldc, kVectors == 1);
    store(s20, c + 2 * g.ldc, kVectors == 1);
    store(s30, c + 3 * g.ldc, kVectors == 1);
    if constexpr (kTwo) {
      store(s11, c + g.ldc + lanes, true);
      store(s21, c + 2 * g.ldc + lanes, true);
      store(s31, c + 3 * g.ldc + lanes, true);
    }
  }
}

template <typename T, int kRows>
HWY_INLINE void SumRows(const RowProductArgs<T>& g, int64_t row) {
  const int64_t lanes = hn::Lanes(Tag<T>());
  int64_t column = 0;
  for (; column + 2 * lanes <= g.n; column += 2 * lanes) {
    SumTile<T, kRows, 2>(g, row, column, /*rest=*/0);
  }
  if (column + lanes < g.n) {
    SumTile<T, kRows, 2>(g, row, column, g.n - column - lanes);
  } else if (column < g.n) {
    SumTile<T, kRows, 1>(g, row, column, (g.n - column) % lanes);
  }
}

template <typename T>
void BySums(const RowProductArgs<T>& g) {
  int64_t row = 0;
  for (; row + 4 <= g.m; row += 4) SumRows<T, 4>(g, row);
  for (; row < g.m; ++row) SumRows<T, 1>(g, row);
}

const RowProducts<float>& FloatProducts() {
  static constexpr RowProducts<float> table = {&ByDots<float, float>,
                                               &BySums<float>};
  return table;
}

const RowProducts<double>& DoubleProducts() {
  static constexpr RowProducts<double> table = {&ByDots<double, double>,
                                                &BySums<double>};
  return table;
}

const NarrowRowProducts& NarrowProducts() {
  static constexpr NarrowRowProducts table = {&ByDots<float, BFloat16>};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(FloatProducts);
HWY_EXPORT(DoubleProducts);
HWY_EXPORT(NarrowProducts);

template <>
const RowProducts<float>& RowProducts<float>::Get() {
  static const RowProducts<float>& table =
      HWY_DYNAMIC_DISPATCH(FloatProducts)();
  return table;
}

template <>
const RowProducts<double>& RowProducts<double>::Get() {
  static const RowProducts<double>& table =
      HWY_DYNAMIC_DISPATCH(DoubleProducts)();
  return table;
}

const NarrowRowProducts& NarrowRowProducts::Get() {
  static const NarrowRowProducts& table =
      HWY_DYNAMIC_DISPATCH(NarrowProducts)();
  return table;
}

}  // namespace strata
#endif  // HWY_ONCE
