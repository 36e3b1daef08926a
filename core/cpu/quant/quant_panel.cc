// Compiled once for each vector width, as core/cpu/vector_math.cc is.

#include "core/cpu/quant/quant_panel.h"

#include <algorithm>
#include <cstdint>

#include "core/cpu/quant/quant_product.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/quant/quant_panel.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "core/cpu/quant/avx2_panel-inl.h"
#include "core/cpu/quant/vnni_panel-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// As in vnni-inl.h.
#pragma GCC target("avx512vnni")
#endif
namespace strata {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
// How many of m rows of x, from `row` on, are of one width.
int64_t AlikeRows(const QuantizedRows& x, int64_t row, int64_t m) {
  int64_t alike = 1;
  while (alike < m && (x.wide[row + alike] != 0) == (x.wide[row] != 0)) {
    ++alike;
  }
  return alike;
}

// Asks memory for bytes that will be read; there may be none.
HWY_INLINE void AskFor(const uint8_t* begin, const uint8_t* end) {
  for (; begin < end; begin += 64) hwy::Prefetch(begin);
}

template <int kBits, bool kSymmetric>
void MultiplyOf(const QuantizedRows& x, int64_t first, int64_t m,
                const uint8_t* w, const QuantFormat& format, int64_t k,
                int64_t n, char* memory, float* y, int64_t ldy) {
  const Panel panel(memory, k);
  Pack<kBits, kSymmetric>(w, format, k, n, panel);
  // Whoever calls mostly goes on with the rows of w behind these.
  const int64_t bytes = n * PackedRow(format, k).bytes;
  const uint8_t* const next = w + bytes;
  for (int64_t i = 0; i < m;) {
    const bool wide = x.wide[first + i] != 0;
    const auto tile =
        wide ? Tile<kBits, kSymmetric, true> : Tile<kBits, kSymmetric, false>;
    const int64_t most = wide ? kMaxWideRows : kMaxRows;
    for (int64_t left = AlikeRows(x, first + i, m - i); left > 0;) {
      // As even as possible: a pass of few rows gains little.
      const int64_t passes = (left + most - 1) / most;
      const int64_t rows = (left + passes - 1) / passes;
      if constexpr (kAsksAhead) {
        AskFor(next + bytes * i / m, next + bytes * (i + rows) / m);
      }
      tile(x, first + i, rows, panel, n, y + i * ldy, ldy);
      i += rows;
      left -= rows;
    }
  }
}

void Multiply(const QuantizedRows& x, int64_t first, int64_t m,
              const uint8_t* w, const QuantFormat& format, int64_t k, int64_t n,
              char* memory, float* y, int64_t ldy) {
  const bool symmetric = format.symmetric;
  const auto run = format.bits == 2
                       ? symmetric ? MultiplyOf<2, true> : MultiplyOf<2, false>
                   : format.bits == 4
                       ? symmetric ? MultiplyOf<4, true> : MultiplyOf<4, false>
                   : symmetric ? MultiplyOf<8, true>
                               : MultiplyOf<8, false>;
  run(x, first, m, w, format, k, n, memory, y, ldy);
}

constexpr QuantPanel kTable = {&Multiply, kAsDots, kFewRows, kFewRowsOf8Bits};
#else
constexpr QuantPanel kTable = {nullptr, false, 0, 0};
#endif

}  // namespace

const QuantPanel& QuantPanelTable() { return kTable; }

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(QuantPanelTable);

const QuantPanel& QuantPanel::Get() {
  return HWY_DYNAMIC_DISPATCH(QuantPanelTable)();
}

int64_t PanelBytes(int64_t k) {
  const int64_t blocks = PaddedColumns(k) / kActivationBlock;
  // Of a row and block: codes, in AVX2's panel of 8 bits two bytes each; a
  // scale; a zero or what sums begin with. And of AVX2 six rows of x.
  constexpr int64_t kRowBytes = 2 * kActivationBlock + 4 + 4;
  constexpr int64_t kActivationBytes = 6 * 2 * kActivationBlock;
  return blocks * (kPanelRows * kRowBytes + kActivationBytes);
}

}  // namespace strata
#endif  // HWY_ONCE
