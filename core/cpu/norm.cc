#include "core/cpu/norm.h"

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/norm.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// A row with several groups is as many rows: t and d below are those.
template <typename T>
absl::Status RunRmsNorm(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t d = ctx.in(1).dim(0), t = ctx.in(0).num_elements() / d;
  const T* const x = ctx.in(0).as<T>();     // [t, d]
  const T* const gain = ctx.in(1).as<T>();  // [d]
  T* const y = ctx.out(0).as<T>();          // [t, d]
  T* const rstd = ctx.out(1).as<T>();       // [t]
  const T eps = static_cast<T>(ctx.attrs().Float("eps"));
  ForRowChunks(ctx.pool, t, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T mean_square = vec.sum_of_squares(x + i * d, d) / d;
      rstd[i] = 1 / std::sqrt(mean_square + eps);
      vec.product(rstd[i], x + i * d, gain, d, y + i * d);
    }
  });
  return absl::OkStatus();
}

// dx = rstd dy gain - x rstd^3 dot(dy gain, x) / d, plus a or a + b
template <typename T>
absl::Status RunInputGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t d = ctx.in(2).dim(0), t = ctx.in(0).num_elements() / d;
  const T* const dy = ctx.in(0).as<T>();    // [t, d]
  const T* const x = ctx.in(1).as<T>();     // [t, d]
  const T* const gain = ctx.in(2).as<T>();  // [d]
  const T* const rstd = ctx.in(3).as<T>();  // [t]
  constexpr int kA = kRmsNormInputGradAdd;
  const T* const a = ctx.has(kA) ? ctx.in(kA).as<T>() : nullptr;  // [t, d]
  const T* const b = ctx.has(kA + 1) ? ctx.in(kA + 1).as<T>() : nullptr;
  T* const dx = ctx.out(0).as<T>();  // [t, d]
  T* const sums =
      b != nullptr ? ctx.scratch.Take<T>(ctx.pool.num_threads() * d) : nullptr;
  ForEachRow(ctx.pool, t, d, [&](int64_t i, int worker) {
    const T dot = vec.dot3(dy + i * d, gain, x + i * d, d);
    const T r = rstd[i];
    vec.product_plus(r, dy + i * d, gain, -r * r * r * dot / d, x + i * d, d,
                     dx + i * d);
    if (a == nullptr) return;
    const T* add = a + i * d;
    if (b != nullptr) {
      vec.add(a + i * d, b + i * d, d, sums + worker * d);
      add = sums + worker * d;
    }
    vec.add(dx + i * d, add, d, dx + i * d);
  });
  return absl::OkStatus();
}

// dgain = sum over rows of dy x rstd.
template <typename T>
absl::Status RunWeightGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t d = ctx.in(2).dim(0), t = ctx.in(0).num_elements() / d;
  const T* const dy = ctx.in(0).as<T>();    // [t, d]
  const T* const x = ctx.in(1).as<T>();     // [t, d]
  const T* const rstd = ctx.in(3).as<T>();  // [t]
  T* const dgain = ctx.out(0).as<T>();      // [d]
  SumOverRows(ctx, t, d, dgain, [&](int64_t i, int worker, T* sum) {
    vec.add_product(rstd[i], dy + i * d, x + i * d, d, sum);
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterNormKernels(KernelRegistry& kernels) {
  kernels.Register(kRmsNorm, DType::kF32, RunRmsNorm<float>);
  kernels.Register(kRmsNorm, DType::kF64, RunRmsNorm<double>);
  kernels.Register(kRmsNormInputGrad, DType::kF32, RunInputGrad<float>);
  kernels.Register(kRmsNormInputGrad, DType::kF64, RunInputGrad<double>);
  kernels.Register(kRmsNormWeightGrad, DType::kF32, RunWeightGrad<float>);
  kernels.Register(kRmsNormWeightGrad, DType::kF64, RunWeightGrad<double>);
}

}  // namespace strata
