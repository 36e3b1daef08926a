#include "core/cpu/fused/fed_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/norm.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fed_norm.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// added [d] = rows - before.
template <typename T>
void Difference(const T* before, const T* rows, int64_t d, T* added) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  vec.scale(T{-1}, before, d, added);
  vec.add(rows, added, d, added);
}

// y = the norm of x by `gain`; returns its rstd. y may be x.
template <typename T>
T Norm(const T* x, const T* gain, T eps, int64_t d, T* y) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T mean_square = vec.sum_of_squares(x, d) / d;
  const T rstd = 1 / std::sqrt(mean_square + eps);
  vec.product(rstd, x, gain, d, y);
  return rstd;
}

// dx = the gradient through that norm.
template <typename T>
void NormGrad(const T* dy, const T* gain, const T* x, T rstd, int64_t d,
              T* dx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T dot = vec.dot3(dy, gain, x, d);
  vec.product_plus(rstd, dy, gain, -rstd * rstd * rstd * dot / d, x, d, dx);
}

template <typename T>
absl::Status RunFedNorm(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), d = ctx.in(0).dim(1);
  const T* const before = ctx.in(0).as<T>();    // [t, d]
  const T* const rows = ctx.in(1).as<T>();      // [t, d]
  const T* const gain = ctx.in(2).as<T>();      // [d]
  const T* const fed_gain = ctx.in(3).as<T>();  // [d]
  T* const x = ctx.out(0).as<T>();              // [t, d]
  T* const rstd = ctx.out(1).as<T>();           // [t]
  T* const fed_rstd = ctx.out(2).as<T>();       // [t]
  const T eps = static_cast<T>(ctx.attrs().Float("eps"));
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * d);
  ForEachRow(ctx.pool, t, d, [&](int64_t i, int worker) {
    T* const fed = scratch + worker * d;
    T* const to = x + i * d;
    Difference(before + i * d, rows + i * d, d, fed);
    fed_rstd[i] = Norm(fed, fed_gain, eps, d, fed);
    rstd[i] = Norm(before + i * d, gain, eps, d, to);
    vec.add(to, fed, d, to);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunInputGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), d = ctx.in(0).dim(1);
  const T* const dx = ctx.in(0).as<T>();        // [t, d]
  const T* const before = ctx.in(1).as<T>();    // [t, d]
  const T* const rows = ctx.in(2).as<T>();      // [t, d]
  const T* const gain = ctx.in(3).as<T>();      // [d]
  const T* const fed_gain = ctx.in(4).as<T>();  // [d]
  const T* const rstd = ctx.in(5).as<T>();      // [t]
  const T* const fed_rstd = ctx.in(6).as<T>();  // [t]
  const auto addend = [&](int i) {
    return ctx.has(i) ? ctx.in(i).as<T>() : nullptr;
  };
  const T* const to_before = addend(kFedNormToBefore);  // [t, d]
  const T* const to_rows = addend(kFedNormToRows);      // [t, d]
  T* const d_before = ctx.out(0).as<T>();               // [t, d]
  T* const d_rows = ctx.out(1).as<T>();                 // [t, d]
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * 2 * d);
  ForEachRow(ctx.pool, t, d, [&](int64_t i, int worker) {
    T* const added = scratch + 2 * worker * d;
    T* const f = added + d;
    T* const of_before = d_before + i * d;
    T* const of_rows = d_rows + i * d;
    Difference(before + i * d, rows + i * d, d, added);
    NormGrad(dx + i * d, fed_gain, added, fed_rstd[i], d, f);
    NormGrad(dx + i * d, gain, before + i * d, rstd[i], d, of_before);
    if (to_before != nullptr) {
      vec.add(to_before + i * d, of_before, d, of_before);
    }
    if (to_rows != nullptr) {
      vec.add(to_rows + i * d, f, d, of_rows);
    } else {
      std::copy_n(f, d, of_rows);
    }
    vec.scale(T{-1}, f, d, f);
    vec.add(of_before, f, d, of_before);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunWeightGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), d = ctx.in(0).dim(1);
  const T* const dx = ctx.in(0).as<T>();        // [t, d]
  const T* const before = ctx.in(1).as<T>();    // [t, d]
  const T* const rows = ctx.in(2).as<T>();      // [t, d]
  const T* const rstd = ctx.in(3).as<T>();      // [t]
  const T* const fed_rstd = ctx.in(4).as<T>();  // [t]
  T* const sums = ctx.scratch.Take<T>(2 * d);   // dgain, then dfed_gain.
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * d);
  SumOverRows(ctx, t, 2 * d, sums, [&](int64_t i, int worker, T* sum) {
    T* const added = scratch + worker * d;
    Difference(before + i * d, rows + i * d, d, added);
    vec.add_product(rstd[i], dx + i * d, before + i * d, d, sum);
    vec.add_product(fed_rstd[i], dx + i * d, added, d, sum + d);
  });
  std::copy_n(sums, d, ctx.out(0).as<T>());
  std::copy_n(sums + d, d, ctx.out(1).as<T>());
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels, DType dtype) {
  kernels.Register(kFedNorm, dtype, RunFedNorm<T>);
  kernels.Register(kFedNormInputGrad, dtype, RunInputGrad<T>);
  kernels.Register(kFedNormWeightGrad, dtype, RunWeightGrad<T>);
}

}  // namespace

void RegisterFedNormKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels, DType::kF32);
  RegisterFor<double>(kernels, DType::kF64);
}

}  // namespace strata
