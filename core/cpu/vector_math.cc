// Compiled once for each vector width that an x86-64 or Arm processor may have;
// foreach_target.h includes this file again and again for that.

#include "core/cpu/vector_math.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/vector_math.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
using Tag = hn::ScalableTag<T>;
template <typename T>
using V = hn::Vec<Tag<T>>;

// How a loop body reads and writes: whole vectors, or the last `count` lanes of
// an array, with zeros in the rest.
template <typename T>
struct Whole {
  HWY_INLINE V<T> Load(const T* p) const { return hn::LoadU(Tag<T>(), p); }
  HWY_INLINE void Store(V<T> v, T* p) const { hn::StoreU(v, Tag<T>(), p); }
};

template <typename T>
struct Part {
  int64_t count;

// Elsewhere a masked access would touch memory behind the array.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  HWY_INLINE V<T> Load(const T* p) const {
    const Tag<T> d;
    return hn::MaskedLoad(hn::FirstN(d, count), d, p);
  }
  HWY_INLINE void Store(V<T> v, T* p) const {
    const Tag<T> d;
    hn::BlendedStore(v, hn::FirstN(d, count), d, p);
  }
#else
  HWY_INLINE V<T> Load(const T* p) const {
    const Tag<T> d;
    HWY_ALIGN T lane[HWY_MAX_BYTES / sizeof(T)] = {};
    for (int64_t i = 0; i < count; ++i) lane[i] = p[i];
    return hn::Load(d, lane);
  }
  HWY_INLINE void Store(V<T> v, T* p) const {
    const Tag<T> d;
    HWY_ALIGN T lane[HWY_MAX_BYTES / sizeof(T)];
    hn::Store(v, d, lane);
    for (int64_t i = 0; i < count; ++i) p[i] = lane[i];
  }
#endif
};

// Calls body(i, io) for the vectors of n elements; the last may be in part.
template <typename T, class Body>
HWY_INLINE void ForVectors(int64_t n, Body body) {
  const int64_t lanes = hn::Lanes(Tag<T>());
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, Whole<T>());
  if (i < n) body(i, Part<T>{n - i});
}

// Adds up term(i, io) over n elements, in four chains so that additions need
// not wait for each other.
template <typename T, class Term>
HWY_INLINE T SumOver(int64_t n, Term term) {
  const Tag<T> d;
  const int64_t lanes = hn::Lanes(d);
  V<T> sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const Whole<T> io;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    sum0 = hn::Add(sum0, term(i, io));
    sum1 = hn::Add(sum1, term(i + lanes, io));
    sum2 = hn::Add(sum2, term(i + 2 * lanes, io));
    sum3 = hn::Add(sum3, term(i + 3 * lanes, io));
  }
  for (; i + lanes <= n; i += lanes) sum0 = hn::Add(sum0, term(i, io));
  if (i < n) {
    const auto last = hn::FirstN(d, n - i);
    sum1 = hn::Add(sum1, hn::IfThenElseZero(last, term(i, Part<T>{n - i})));
  }
  return hn::GetLane(
      hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

// Highway's, but NaN stays NaN and large values become infinity.
template <typename T>
HWY_INLINE V<T> Exp(V<T> x) {
  const Tag<T> d;
  const V<T> limit = hn::Set(d, sizeof(T) == 4 ? T{104} : T{710});
  const V<T> y = hn::Exp(d, hn::Min(x, limit));
  return hn::IfThenElse(hn::Eq(x, x), y, x);
}

// 1 / (1 + exp(-x)) by exp(-|x|), which cannot overflow.
template <typename T>
HWY_INLINE V<T> Sigmoid(V<T> x) {
  const Tag<T> d;
  const V<T> one = hn::Set(d, T{1});
  const V<T> e = Exp<T>(hn::Neg(hn::Abs(x)));
  const V<T> y = hn::Div(one, hn::Add(one, e));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Mul(e, y), y);
}

// --- Numbers as integers in the same order ---

template <typename T>
using Key = typename VectorMath<T>::Int;
template <typename T>
using KeyTag = hn::RebindToSigned<Tag<T>>;

// The key of each: -0 and 0 are equals, NaN is below all else.
template <typename T>
HWY_INLINE hn::Vec<KeyTag<T>> ToKey(V<T> x) {
  const Tag<T> d;
  const KeyTag<T> di;
  const V<T> v = hn::Add(x, hn::Zero(d));  // -0 becomes 0.
  const auto bits = hn::BitCast(di, v);
  const auto flipped =
      hn::Xor(bits, hn::And(hn::BroadcastSignBit(bits),
                            hn::Set(di, std::numeric_limits<Key<T>>::max())));
  return hn::IfThenElse(hn::RebindMask(di, hn::Eq(v, v)), flipped,
                        hn::Set(di, std::numeric_limits<Key<T>>::min()));
}

template <typename T>
struct KeyRange {
  Key<T> least;
  Key<T> most;
};

// The keys of x + bias, as bits of T. Returns the least and the largest; n > 0.
template <typename T>
HWY_INLINE KeyRange<T> MakeKeys(const T* x, const T* bias, int64_t n, T* keys) {
  const Tag<T> d;
  const KeyTag<T> di;
  const auto lowest = hn::Set(di, std::numeric_limits<Key<T>>::min());
  const auto highest = hn::Set(di, std::numeric_limits<Key<T>>::max());
  auto least = highest, most = lowest;
  ForVectors<T>(n, [&](int64_t i, auto io) HWY_ATTR {
    const auto key = ToKey<T>(hn::Add(io.Load(x + i), io.Load(bias + i)));
    io.Store(hn::BitCast(d, key), keys + i);
    const auto here = hn::FirstN(di, n - i);
    least = hn::Min(least, hn::IfThenElse(here, key, highest));
    most = hn::Max(most, hn::IfThenElse(here, key, lowest));
  });
  return {hn::GetLane(hn::MinOfLanes(di, least)),
          hn::GetLane(hn::MaxOfLanes(di, most))};
}

template <typename T>
HWY_INLINE int64_t CountAtLeast(const T* keys, int64_t n, Key<T> bound) {
  const KeyTag<T> di;
  const auto least = hn::Set(di, bound);
  int64_t count = 0;
  ForVectors<T>(n, [&](int64_t i, auto io) HWY_ATTR {
    const auto small = hn::Lt(hn::BitCast(di, io.Load(keys + i)), least);
    count += hn::CountTrue(di, hn::AndNot(small, hn::FirstN(di, n - i)));
  });
  return count;
}

// silu'(x) = s + x s (1 - s)
template <typename T>
HWY_INLINE V<T> SiluSlope(V<T> x, V<T> sigmoid) {
  const V<T> silu = hn::Mul(x, sigmoid);
  return hn::Add(sigmoid, hn::NegMulAdd(silu, sigmoid, silu));
}

template <typename T>
struct Functions {
  static T Sum(const T* x, int64_t n) {
    return SumOver<T>(
        n, [=](int64_t i, auto io) HWY_ATTR { return io.Load(x + i); });
  }

  static T Dot(const T* x, const T* y, int64_t n) {
    const Tag<T> d;
    const int64_t lanes = hn::Lanes(d);
    V<T> sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes) {
      const Whole<T> io;
      sum0 = hn::MulAdd(io.Load(x + i), io.Load(y + i), sum0);
      sum1 = hn::MulAdd(io.Load(x + i + lanes), io.Load(y + i + lanes), sum1);
      sum2 = hn::MulAdd(io.Load(x + i + 2 * lanes), io.Load(y + i + 2 * lanes),
                        sum2);
      sum3 = hn::MulAdd(io.Load(x + i + 3 * lanes), io.Load(y + i + 3 * lanes),
                        sum3);
    }
    ForVectors<T>(n - i,
                  [&, x = x + i, y = y + i](int64_t j, auto io) HWY_ATTR {
                    sum0 = hn::MulAdd(io.Load(x + j), io.Load(y + j), sum0);
                  });
    return hn::GetLane(
        hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  }

  static T Dot3(const T* x, const T* y, const T* z, int64_t n) {
    return SumOver<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      return hn::Mul(hn::Mul(io.Load(x + i), io.Load(y + i)), io.Load(z + i));
    });
  }

  static T SumOfSquares(const T* x, int64_t n) { return Dot(x, x, n); }

  static double SumOfSquaresInDouble(const T* x, int64_t n) {
    if constexpr (sizeof(T) == 8) {
      return Dot(x, x, n);
    } else {
      const Tag<double> d;
      const hn::Rebind<float, Tag<double>> half;
      const int64_t lanes = hn::Lanes(d);
      V<double> sum0 = hn::Zero(d), sum1 = sum0;
      int64_t i = 0;
      for (; i + 2 * lanes <= n; i += 2 * lanes) {
        const V<double> x0 = hn::PromoteTo(d, hn::LoadU(half, x + i));
        const V<double> x1 = hn::PromoteTo(d, hn::LoadU(half, x + i + lanes));
        sum0 = hn::MulAdd(x0, x0, sum0);
        sum1 = hn::MulAdd(x1, x1, sum1);
      }
      double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
      for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
      return sum;
    }
  }

  static T Max(const T* x, int64_t n) {
    const Tag<T> d;
    const T lowest = -std::numeric_limits<T>::infinity();
    V<T> max = hn::Set(d, lowest);
    ForVectors<T>(n, [&](int64_t i, auto io) HWY_ATTR {
      V<T> v = io.Load(x + i);
      if constexpr (std::is_same_v<decltype(io), Part<T>>) {
        v = hn::IfThenElse(hn::FirstN(d, n - i), v, hn::Set(d, lowest));
      }
      max = hn::Max(max, v);
    });
    return hn::GetLane(hn::MaxOfLanes(d, max));
  }

  static T SumExp(const T* x, T scale, T shift, int64_t n) {
    const V<T> a = hn::Set(Tag<T>(), scale), b = hn::Set(Tag<T>(), shift);
    return SumOver<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      return strata::HWY_NAMESPACE::Exp<T>(hn::MulSub(a, io.Load(x + i), b));
    });
  }

  static void Add(const T* x, const T* y, int64_t n, T* z) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::Add(io.Load(x + i), io.Load(y + i)), z + i);
    });
  }

  static void Scale(T a, const T* x, int64_t n, T* y) {
    const V<T> va = hn::Set(Tag<T>(), a);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::Mul(va, io.Load(x + i)), y + i);
    });
  }

  static void Axpy(T a, const T* x, int64_t n, T* y) {
    const V<T> va = hn::Set(Tag<T>(), a);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::MulAdd(va, io.Load(x + i), io.Load(y + i)), y + i);
    });
  }

  static void Axpby(T a, const T* x, T b, int64_t n, T* y) {
    const V<T> va = hn::Set(Tag<T>(), a), vb = hn::Set(Tag<T>(), b);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> by = hn::Mul(vb, io.Load(y + i));
      io.Store(hn::MulAdd(va, io.Load(x + i), by), y + i);
    });
  }

  static void Product(T a, const T* x, const T* y, int64_t n, T* z) {
    const V<T> va = hn::Set(Tag<T>(), a);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::Mul(hn::Mul(va, io.Load(x + i)), io.Load(y + i)), z + i);
    });
  }

  static void AddProduct(T a, const T* x, const T* y, int64_t n, T* z) {
    const V<T> va = hn::Set(Tag<T>(), a);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> ax = hn::Mul(va, io.Load(x + i));
      io.Store(hn::MulAdd(ax, io.Load(y + i), io.Load(z + i)), z + i);
    });
  }

  static void ProductPlus(T a, const T* x, const T* y, T b, const T* z,
                          int64_t n, T* out) {
    const V<T> va = hn::Set(Tag<T>(), a), vb = hn::Set(Tag<T>(), b);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> ax = hn::Mul(va, io.Load(x + i));
      const V<T> bz = hn::Mul(vb, io.Load(z + i));
      io.Store(hn::MulAdd(ax, io.Load(y + i), bz), out + i);
    });
  }

  static void Rotate(const T* x_low, const T* x_high, const T* cos,
                     const T* sin, int64_t n, T* y_low, T* y_high) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> low = io.Load(x_low + i), high = io.Load(x_high + i);
      const V<T> c = io.Load(cos + i), s = io.Load(sin + i);
      io.Store(hn::NegMulAdd(high, s, hn::Mul(low, c)), y_low + i);
      io.Store(hn::MulAdd(high, c, hn::Mul(low, s)), y_high + i);
    });
  }

  static void Exp(const T* x, T scale, T shift, T factor, int64_t n, T* y) {
    const Tag<T> d;
    const V<T> a = hn::Set(d, scale), b = hn::Set(d, shift);
    const V<T> f = hn::Set(d, factor);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> v = hn::MulSub(a, io.Load(x + i), b);
      io.Store(hn::Mul(strata::HWY_NAMESPACE::Exp<T>(v), f), y + i);
    });
  }

  static T Softmax(const T* x, T scale, int64_t n, T* y) {
    const Tag<T> d;
    const T lowest = -std::numeric_limits<T>::infinity();
    const T max = scale * Max(x, n);
    if (n == 0 || max == lowest) {
      // All -infinity, unless a NaN hides among them.
      const V<T> zero = hn::Zero(d);
      ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
        const V<T> v = io.Load(x + i);
        io.Store(hn::IfThenElse(hn::Eq(v, v), zero, v), y + i);
      });
      return lowest;
    }
    const V<T> a = hn::Set(d, scale), b = hn::Set(d, max);
    const T sum = SumOver<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> v = hn::MulSub(a, io.Load(x + i), b);
      const V<T> e = strata::HWY_NAMESPACE::Exp<T>(v);
      io.Store(e, y + i);
      return e;
    });
    Scale(T{1} / sum, y, n, y);
    return max + std::log(sum);
  }

  static void SoftmaxGrad(const T* dy, const T* y, T delta, T scale, int64_t n,
                          T* dx) {
    const Tag<T> d;
    const V<T> vd = hn::Set(d, delta), vs = hn::Set(d, scale);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> sy = hn::Mul(vs, io.Load(y + i));
      io.Store(hn::Mul(sy, hn::Sub(io.Load(dy + i), vd)), dx + i);
    });
  }

  static void Sigmoid(const T* x, int64_t n, T* y) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      io.Store(strata::HWY_NAMESPACE::Sigmoid<T>(io.Load(x + i)), y + i);
    });
  }

  static void SigmoidGrad(const T* dy, const T* y, int64_t n, T* dx) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> s = io.Load(y + i);
      io.Store(hn::Mul(io.Load(dy + i), hn::NegMulAdd(s, s, s)), dx + i);
    });
  }

  static void Silu(const T* x, int64_t n, T* y) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> v = io.Load(x + i);
      io.Store(hn::Mul(v, strata::HWY_NAMESPACE::Sigmoid<T>(v)), y + i);
    });
  }

  static void SiluGrad(const T* dy, const T* x, int64_t n, T* dx) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> v = io.Load(x + i);
      const V<T> s = strata::HWY_NAMESPACE::Sigmoid<T>(v);
      io.Store(hn::Mul(io.Load(dy + i), SiluSlope<T>(v, s)), dx + i);
    });
  }

  static void SwiGlu(const T* gate, const T* up, int64_t n, T* y) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> g = io.Load(gate + i);
      const V<T> silu = hn::Mul(g, strata::HWY_NAMESPACE::Sigmoid<T>(g));
      io.Store(hn::Mul(silu, io.Load(up + i)), y + i);
    });
  }

  static void SwiGluGrad(const T* dy, const T* gate, const T* up, int64_t n,
                         T* dgate, T* dup) {
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> g = io.Load(gate + i), u = io.Load(up + i);
      const V<T> grad = io.Load(dy + i);
      const V<T> s = strata::HWY_NAMESPACE::Sigmoid<T>(g);
      io.Store(hn::Mul(hn::Mul(grad, u), SiluSlope<T>(g, s)), dgate + i);
      io.Store(hn::Mul(grad, hn::Mul(g, s)), dup + i);
    });
  }

  static void RootShare(const T* x, T sum, T scale, int64_t n, T* y) {
    const Tag<T> d;
    const V<T> vs = hn::Set(d, sum), vn = hn::Set(d, static_cast<T>(n));
    const V<T> factor = hn::Set(d, scale), one = hn::Set(d, T{1});
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> share = hn::Mul(hn::Div(io.Load(x + i), vs), vn);
      io.Store(hn::Mul(hn::Sub(hn::Sqrt(share), one), factor), y + i);
    });
  }

  // Bisection on keys: the least one such that `keep` have it or a larger one.
  // It ends as soon as so many are above it, as a rule after some ten rounds.
  static void KeepLargest(const T* x, const T* bias, int64_t n, int64_t keep,
                          T* scratch, uint8_t* mask) {
    const KeyRange<T> range = MakeKeys<T>(x, bias, n, scratch);
    Key<T> low = range.least;  // At least `keep` are as large.
    Key<T> high = range.most;  // Fewer than `keep` are larger.
    bool exact = keep == n;
    while (!exact && low < high) {
      // Rounded up, without overflow: low < middle <= high.
      using Unsigned = std::make_unsigned_t<Key<T>>;
      const auto distance =
          static_cast<Unsigned>(high) - static_cast<Unsigned>(low);
      const auto middle = static_cast<Key<T>>(static_cast<Unsigned>(low) +
                                              distance - distance / 2);
      const int64_t count = CountAtLeast<T>(scratch, n, middle);
      if (count >= keep) {
        low = middle;
        exact = count == keep;
      } else {
        high = middle - 1;
      }
    }
    if (exact) {  // The rule: nearly always.
      for (int64_t i = 0; i < n; ++i) {
        Key<T> key;
        std::memcpy(&key, scratch + i, sizeof(key));
        mask[i] = key >= low;
      }
      return;
    }
    // Where equals must be told apart, `low` is their key, which as that of a
    // number or of NaN has a successor.
    int64_t num_ties = keep - CountAtLeast<T>(scratch, n, low + 1);
    for (int64_t i = 0; i < n; ++i) {
      Key<T> key;
      std::memcpy(&key, scratch + i, sizeof(key));
      mask[i] = key > low || (key == low && num_ties-- > 0);
    }
  }

  // Each vector of keys meets every key: no branch, and no chain of moves as in
  // a sorted list.
  static void Ranks(const T* x, int64_t n, Key<T>* rank) {
    const KeyTag<T> di;
    const int64_t lanes = hn::Lanes(di);
    HWY_ALIGN Key<T> keys[VectorMath<T>::kMaxRanked + hn::MaxLanes(di)];
    ForVectors<T>(n, [&](int64_t i, auto io) HWY_ATTR {
      hn::Store(ToKey<T>(io.Load(x + i)), di, keys + i);
    });
    const auto one = hn::Set(di, Key<T>{1});
    for (int64_t i = 0; i < n; i += lanes) {
      const auto mine = hn::Load(di, keys + i);
      auto count = hn::Zero(di);
      // Of equals the first: one before these lanes counts, one behind not.
      for (int64_t j = 0; j < i; ++j) {
        const auto behind = hn::Lt(hn::Set(di, keys[j]), mine);
        count = hn::IfThenElse(behind, count, hn::Add(count, one));
      }
      const int64_t end = i + lanes < n ? i + lanes : n;
      for (int64_t j = i; j < end; ++j) {
        const auto other = hn::Set(di, keys[j]);
        const auto before =
            hn::Or(hn::Gt(other, mine),
                   hn::AndNot(hn::FirstN(di, j - i + 1), hn::Eq(other, mine)));
        count = hn::IfThenElse(before, hn::Add(count, one), count);
      }
      for (int64_t j = end; j < n; ++j) {
        const auto before = hn::Gt(hn::Set(di, keys[j]), mine);
        count = hn::IfThenElse(before, hn::Add(count, one), count);
      }
      if (i + lanes <= n) {
        hn::StoreU(count, di, rank + i);
      } else {
        hn::Store(count, di, keys);  // Nobody reads keys any more.
        std::memcpy(rank + i, keys, (n - i) * sizeof(Key<T>));
      }
    }
  }

  static void AdamW(const AdamWStep<T>& step, const T* grad, int64_t n,
                    T* param, T* m, T* v) {
    const Tag<T> d;
    const V<T> grad_scale = hn::Set(d, step.grad_scale);
    const V<T> beta1 = hn::Set(d, step.beta1);
    const V<T> beta2 = hn::Set(d, step.beta2);
    const V<T> rest1 = hn::Set(d, T{1} - step.beta1);
    const V<T> rest2 = hn::Set(d, T{1} - step.beta2);
    const V<T> m_scale = hn::Set(d, step.m_scale);
    const V<T> v_scale = hn::Set(d, step.v_scale);
    const V<T> eps = hn::Set(d, step.eps);
    const V<T> lr = hn::Set(d, step.lr);
    const V<T> decay = hn::Set(d, step.weight_decay);
    ForVectors<T>(n, [=](int64_t i, auto io) HWY_ATTR {
      const V<T> g = hn::Mul(grad_scale, io.Load(grad + i));
      const V<T> p = io.Load(param + i);
      const V<T> new_m = hn::MulAdd(beta1, io.Load(m + i), hn::Mul(rest1, g));
      const V<T> new_v =
          hn::MulAdd(beta2, io.Load(v + i), hn::Mul(hn::Mul(rest2, g), g));
      const V<T> denominator = hn::Add(hn::Sqrt(hn::Mul(new_v, v_scale)), eps);
      const V<T> update =
          hn::MulAdd(decay, p, hn::Div(hn::Mul(new_m, m_scale), denominator));
      io.Store(new_m, m + i);
      io.Store(new_v, v + i);
      io.Store(hn::NegMulAdd(lr, update, p), param + i);
    });
  }

  static const VectorMath<T>& Table() {
    static constexpr VectorMath<T> table = {&Sum,
                                            &Dot,
                                            &Dot3,
                                            &SumOfSquares,
                                            &SumOfSquaresInDouble,
                                            &Max,
                                            &SumExp,
                                            &Add,
                                            &Scale,
                                            &Axpy,
                                            &Axpby,
                                            &Product,
                                            &AddProduct,
                                            &ProductPlus,
                                            &Rotate,
                                            &Exp,
                                            &Softmax,
                                            &SoftmaxGrad,
                                            &Sigmoid,
                                            &SigmoidGrad,
                                            &Silu,
                                            &SiluGrad,
                                            &SwiGlu,
                                            &SwiGluGrad,
                                            &RootShare,
                                            &KeepLargest,
                                            &Ranks,
                                            &AdamW};
    return table;
  }
};

const VectorMath<float>& FloatTable() { return Functions<float>::Table(); }
const VectorMath<double>& DoubleTable() { return Functions<double>::Table(); }

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(FloatTable);
HWY_EXPORT(DoubleTable);

template <>
const VectorMath<float>& VectorMath<float>::Get() {
  return HWY_DYNAMIC_DISPATCH(FloatTable)();
}

template <>
const VectorMath<double>& VectorMath<double>::Get() {
  return HWY_DYNAMIC_DISPATCH(DoubleTable)();
}

}  // namespace strata
#endif  // HWY_ONCE
