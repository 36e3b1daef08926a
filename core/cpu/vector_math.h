// Loops over arrays in the widest vectors that the processor has.
//
//   const VectorMath<T>& vec = VectorMath<T>::Get();
//   for (int64_t row = begin; row < end; ++row) {
//     vec.softmax(x + row * n, scale, n, y + row * n);
//   }
//
// A table of functions for float and one for double, picked once by Highway.
// An output may be the very array that an input is; other overlaps are not
// allowed, and alignment does not matter. A result depends on the values and on
// `n` alone, never on where the arrays lie; NaN in is NaN out. Vectors differ
// in width between machines, so sums may differ in rounding there.
//
// A call costs a few nanoseconds: give it a row, not an element.

#ifndef CORE_CPU_VECTOR_MATH_H_
#define CORE_CPU_VECTOR_MATH_H_

#include <cstdint>
#include <type_traits>

namespace strata {

// What AdamW does to each element; see core/ops/optimizer.h.
template <typename T>
struct AdamWStep {
  T grad_scale = 1;  // 1 / divisor * min(1, max_norm / norm)
  T beta1 = 0;
  T beta2 = 0;
  T m_scale = 1;  // 1 / (1 - beta1^step)
  T v_scale = 1;  // 1 / (1 - beta2^step)
  T eps = 0;
  T lr = 0;
  T weight_decay = 0;
};

template <typename T>
struct VectorMath {
  // As wide as T.
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  // What `ranks` takes at most: it compares each with each.
  static constexpr int64_t kMaxRanked = 64;

  // The table for this processor, T float or double.
  static const VectorMath& Get();

  // --- Sums and maxima. 0 for n = 0; max -infinity. ---

  T (*sum)(const T* x, int64_t n);
  T (*dot)(const T* x, const T* y, int64_t n);
  // Sum of x[i] * y[i] * z[i].
  T (*dot3)(const T* x, const T* y, const T* z, int64_t n);
  T (*sum_of_squares)(const T* x, int64_t n);
  // Squared and added up in double.
  double (*sum_of_squares_in_double)(const T* x, int64_t n);
  T (*max)(const T* x, int64_t n);
  // Sum of exp(scale * x[i] - shift).
  T (*sum_exp)(const T* x, T scale, T shift, int64_t n);

  // --- Linear maps. ---

  // z = x + y
  void (*add)(const T* x, const T* y, int64_t n, T* z);
  // y = a * x
  void (*scale)(T a, const T* x, int64_t n, T* y);
  // y += a * x
  void (*axpy)(T a, const T* x, int64_t n, T* y);
  // y = a * x + b * y
  void (*axpby)(T a, const T* x, T b, int64_t n, T* y);
  // z = a * x * y
  void (*product)(T a, const T* x, const T* y, int64_t n, T* z);
  // z += a * x * y
  void (*add_product)(T a, const T* x, const T* y, int64_t n, T* z);
  // out = a * x * y + b * z
  void (*product_plus)(T a, const T* x, const T* y, T b, const T* z, int64_t n,
                       T* out);
  // (y_low, y_high) = (x_low cos - x_high sin, x_low sin + x_high cos)
  void (*rotate)(const T* x_low, const T* x_high, const T* cos, const T* sin,
                 int64_t n, T* y_low, T* y_high);

  // --- Activations and their gradients. ---

  // y = exp(scale * x - shift) * factor
  void (*exp)(const T* x, T scale, T shift, T factor, int64_t n, T* y);
  // y = softmax(scale * x), scale > 0; returns log(sum(exp(scale * x))). If
  // every x is -infinity (or n is 0), y is 0 and the return value -infinity.
  T (*softmax)(const T* x, T scale, int64_t n, T* y);
  // dx = scale * y * (dy - delta): softmax's gradient with delta = dot(dy, y).
  void (*softmax_grad)(const T* dy, const T* y, T delta, T scale, int64_t n,
                       T* dx);
  // y = 1 / (1 + exp(-x)), and dx = dy * y * (1 - y)
  void (*sigmoid)(const T* x, int64_t n, T* y);
  void (*sigmoid_grad)(const T* dy, const T* y, int64_t n, T* dx);
  // y = x * sigmoid(x), and dx = dy * its derivative
  void (*silu)(const T* x, int64_t n, T* y);
  void (*silu_grad)(const T* dy, const T* x, int64_t n, T* dx);
  // y = silu(gate) * up, and its gradients
  void (*swiglu)(const T* gate, const T* up, int64_t n, T* y);
  void (*swiglu_grad)(const T* dy, const T* gate, const T* up, int64_t n,
                      T* dgate, T* dup);

  // --- What gates need. ---

  // y = scale * (sqrt(n * x / sum) - 1), sum > 0: how far the root of each
  // share of the sum is from that of an even one.
  void (*root_share)(const T* x, T sum, T scale, int64_t n, T* y);
  // mask = 1 at the `keep` largest of x + bias, 0 elsewhere; of equals the
  // first; 1 <= keep <= n. -0 equals 0, NaN is below all else. `scratch` [n].
  void (*keep_largest)(const T* x, const T* bias, int64_t n, int64_t keep,
                       T* scratch, uint8_t* mask);
  // rank = how many stand before each if the largest is first, in the order of
  // keep_largest; n <= kMaxRanked.
  void (*ranks)(const T* x, int64_t n, Int* rank);

  // --- Updates of state. ---

  void (*adamw)(const AdamWStep<T>& step, const T* grad, int64_t n, T* param,
                T* m, T* v);
};

}  // namespace strata

#endif  // CORE_CPU_VECTOR_MATH_H_
