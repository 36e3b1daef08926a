// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/bf16_product.h"

#include <cstdint>

#include "core/tensor/bfloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/bf16_product.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;

// Rows of x that share a load of w. With four sums each there are 16 or 8 sums,
// which leaves registers for operands.
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

// kNumRows rows of x by one of w. Each element has four sums, of every fourth
// vector, so that additions need not wait for each other.
//
// One row of w at a time is read from end to end, and the next lies behind it:
// a single stream, which the processor fetches ahead better than several.
template <int kNumRows>
HWY_INLINE void Row(const float* HWY_RESTRICT x, const BFloat16* HWY_RESTRICT w,
                    int64_t k, float* HWY_RESTRICT y, int64_t ldy) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  V sum[kNumRows][4];
#pragma GCC unroll 16
  for (int i = 0; i < kNumRows; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) sum[i][s] = hn::Zero(f32);
  }
  int64_t p = 0;
  for (; p + 4 * lanes <= k; p += 4 * lanes) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const V weight = WidenVector(w + p + s * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < kNumRows; ++i) {
        sum[i][s] = hn::MulAdd(hn::LoadU(f32, x + i * k + p + s * lanes),
                               weight, sum[i][s]);
      }
    }
  }
  for (; p + lanes <= k; p += lanes) {
    const V weight = WidenVector(w + p);
#pragma GCC unroll 16
    for (int i = 0; i < kNumRows; ++i) {
      sum[i][0] = hn::MulAdd(hn::LoadU(f32, x + i * k + p), weight, sum[i][0]);
    }
  }
  if (p < k) {
    const V weight = WidenPart(w + p, k - p);
#pragma GCC unroll 16
    for (int i = 0; i < kNumRows; ++i) {
      sum[i][1] = hn::MulAdd(LoadPart(x + i * k + p, k - p), weight, sum[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kNumRows; ++i) {
    y[i * ldy] = hn::GetLane(hn::SumOfLanes(
        f32,
        hn::Add(hn::Add(sum[i][0], sum[i][1]), hn::Add(sum[i][2], sum[i][3]))));
  }
}

void Dots(const float* x, int64_t m, const BFloat16* w, int64_t n, int64_t k,
          float* y, int64_t ldy) {
  for (int64_t j = 0; j < n; ++j, w += k) {
    int64_t i = 0;
    for (; i + kRows <= m; i += kRows) {
      Row<kRows>(x + i * k, w, k, y + i * ldy + j, ldy);
    }
    for (; i < m; ++i) Row<1>(x + i * k, w, k, y + i * ldy + j, ldy);
  }
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
