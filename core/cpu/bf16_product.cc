// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/bf16_product.h"

#include <cstdint>

#include "core/tensor/bfloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/bf16_product.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;

// Rows of x that share a load of w. With two rows of w and two sums for each
// pair there are 16 or 8 sums, which leaves registers for operands.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kRows = 4;  // Of 32 registers.
#else
constexpr int64_t kRows = 2;  // Of 16.
#endif
constexpr int64_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

HWY_INLINE V WidenVector(const BFloat16* p) {
  const F32 f32;
  const hn::RebindToUnsigned<F32> u32;
  const hn::Rebind<uint16_t, F32> u16;
  const auto bits = hn::LoadU(u16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(f32, hn::ShiftLeft<16>(hn::PromoteTo(u32, bits)));
}

// The last `count` elements and zeros.
HWY_INLINE V LoadPart(const float* p, int64_t count) {
  HWY_ALIGN float lane[kMaxLanes] = {};
  for (int64_t i = 0; i < count; ++i) lane[i] = p[i];
  return hn::Load(F32(), lane);
}

HWY_INLINE V WidenPart(const BFloat16* p, int64_t count) {
  BFloat16 lane[kMaxLanes];
  for (int64_t i = 0; i < count; ++i) lane[i] = p[i];
  return WidenVector(lane);
}

// `rows` of x by `columns` of w. Each element has two sums, of even and of odd
// vectors, and rows side by side keep as many additions on their way as the
// processor can take.
template <int kNumRows, int kNumColumns>
HWY_INLINE void Block(const float* HWY_RESTRICT x,
                      const BFloat16* HWY_RESTRICT w, int64_t k,
                      float* HWY_RESTRICT y, int64_t ldy) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  V even[kNumRows][kNumColumns], odd[kNumRows][kNumColumns];
#pragma GCC unroll 16
  for (int i = 0; i < kNumRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j)
      even[i][j] = odd[i][j] = hn::Zero(f32);
  }
  // The rows of w that come next are fetched meanwhile: the processor's own
  // prefetching ends with the page.
  const BFloat16* const ahead = w + kNumColumns * k;
  int64_t p = 0;
  for (; p + 2 * lanes <= k; p += 2 * lanes) {
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j) hwy::Prefetch(ahead + j * k + p);
    V column[kNumColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j)
      column[j] = WidenVector(w + j * k + p);
#pragma GCC unroll 16
    for (int i = 0; i < kNumRows; ++i) {
      const V row = hn::LoadU(f32, x + i * k + p);
#pragma GCC unroll 16
      for (int j = 0; j < kNumColumns; ++j) {
        even[i][j] = hn::MulAdd(row, column[j], even[i][j]);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j) {
      column[j] = WidenVector(w + j * k + p + lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kNumRows; ++i) {
      const V row = hn::LoadU(f32, x + i * k + p + lanes);
#pragma GCC unroll 16
      for (int j = 0; j < kNumColumns; ++j) {
        odd[i][j] = hn::MulAdd(row, column[j], odd[i][j]);
      }
    }
  }
  if (p + lanes <= k) {
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j) {
      const V column = WidenVector(w + j * k + p);
#pragma GCC unroll 16
      for (int i = 0; i < kNumRows; ++i) {
        even[i][j] =
            hn::MulAdd(hn::LoadU(f32, x + i * k + p), column, even[i][j]);
      }
    }
    p += lanes;
  }
  if (p < k) {
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j) {
      const V column = WidenPart(w + j * k + p, k - p);
#pragma GCC unroll 16
      for (int i = 0; i < kNumRows; ++i) {
        odd[i][j] =
            hn::MulAdd(LoadPart(x + i * k + p, k - p), column, odd[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kNumRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kNumColumns; ++j) {
      y[i * ldy + j] =
          hn::GetLane(hn::SumOfLanes(f32, hn::Add(even[i][j], odd[i][j])));
    }
  }
}

// One block of columns for all rows of x.
template <int kNumColumns>
HWY_INLINE void Columns(const float* x, int64_t m, const BFloat16* w, int64_t k,
                        float* y, int64_t ldy) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) {
    Block<kRows, kNumColumns>(x + i * k, w, k, y + i * ldy, ldy);
  }
  for (; i < m; ++i) Block<1, kNumColumns>(x + i * k, w, k, y + i * ldy, ldy);
}

void Dots(const float* x, int64_t m, const BFloat16* w, int64_t n, int64_t k,
          float* y, int64_t ldy) {
  int64_t j = 0;
  if (m == 1) {
    for (; j + 4 <= n; j += 4) Block<1, 4>(x, w + j * k, k, y + j, ldy);
  } else {
    for (; j + 2 <= n; j += 2) Columns<2>(x, m, w + j * k, k, y + j, ldy);
  }
  for (; j < n; ++j) Columns<1>(x, m, w + j * k, k, y + j, ldy);
}

void WidenRow(const BFloat16* x, int64_t n, float* out) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(WidenVector(x + i), f32, out + i);
  for (; i < n; ++i) out[i] = Widen(x[i]);
}

const Bf16Product& Table() {
  static constexpr Bf16Product table = {&Dots, &WidenRow};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(Table);

const Bf16Product& Bf16Product::Get() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace strata
#endif  // HWY_ONCE
