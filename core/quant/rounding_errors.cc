// Compiled once for each vector width, as core/cpu/vector_math.cc is.

#include "core/quant/rounding_errors.h"

#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/quant/rounding_errors.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// As CodeOf has them, but for what is not a number: codes are floats here.
template <typename D>
HWY_INLINE hn::Vec<D> Errors(D d, const float* w, const float* weight,
                             float scale, float zero, float max_code) {
  const auto x = hn::LoadU(d, w);
  const auto s = hn::Set(d, scale), z = hn::Set(d, zero);
  const auto place =
      hn::Clamp(hn::Add(hn::Div(x, s), z), hn::Zero(d), hn::Set(d, max_code));
  const auto code = hn::Trunc(hn::Add(place, hn::Set(d, 0.5f)));
  const auto off = hn::Sub(x, hn::Mul(hn::Sub(code, z), s));
  return hn::Mul(hn::Mul(hn::LoadU(d, weight), off), off);
}

void Run(const float* w, const float* weight, int64_t n, float scale, int zero,
         int max_code, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const auto z = static_cast<float>(zero), most = static_cast<float>(max_code);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes) {
    hn::StoreU(Errors(d, w + c, weight + c, scale, z, most), d, out + c);
  }
  for (; c < n; ++c) {
    hn::StoreU(Errors(one, w + c, weight + c, scale, z, most), one, out + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(Run);

void RoundingErrors(const float* w, const float* weight, int64_t n, float scale,
                    int zero, int max_code, float* out) {
  HWY_DYNAMIC_DISPATCH(Run)(w, weight, n, scale, zero, max_code, out);
}

}  // namespace strata
#endif  // HWY_ONCE
