#include "core/cpu/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/optimizer.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunAccumulate(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  T* const sum = ctx.in(0).as<T>();
  const T* const value = ctx.in(1).as<T>();
  const T keep = *ctx.in(2).as<T>();
  ForElementChunks(
      ctx.pool, ctx.in(0).num_elements(), [&](int64_t begin, int64_t end) {
        if (keep == 0) {  // Whatever `sum` holds, NaN too, is forgotten.
          std::copy(value + begin, value + end, sum + begin);
        } else {
          vec.axpby(1, value + begin, keep, end - begin, sum + begin);
        }
      });
  return absl::OkStatus();
}

// T: of `keep`.
template <typename T>
absl::Status RunAccumulateCounts(const KernelContext& ctx) {
  const auto sum = ctx.in(0).span<int32_t>();
  const auto value = ctx.in(1).span<int32_t>();
  const bool keep = *ctx.in(2).as<T>() != 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] = value[i] + (keep ? sum[i] : 0);
  }
  return absl::OkStatus();
}

// Sums of squares by chunk of each gradient, in double; then over all chunks in
// their order.
template <typename T>
absl::Status RunGlobalNorm(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T divisor = *ctx.in(0).as<T>();
  const auto num_grads = static_cast<int64_t>(ctx.inputs.size()) - 1;
  // Chunks of gradient g are [first_chunk[g], first_chunk[g + 1]).
  int64_t* const first_chunk = ctx.scratch.Take<int64_t>(num_grads + 1);
  first_chunk[0] = 0;
  for (int64_t g = 0; g < num_grads; ++g) {
    first_chunk[g + 1] =
        first_chunk[g] +
        (ctx.in(g + 1).num_elements() + kChunkElements - 1) / kChunkElements;
  }
  const int64_t num_chunks = first_chunk[num_grads];
  double* const partial = ctx.scratch.Take<double>(num_chunks);
  ctx.pool.ParallelFor(num_chunks, [&](int64_t chunk) {
    const int64_t g =
        std::upper_bound(first_chunk, first_chunk + num_grads + 1, chunk) -
        first_chunk - 1;
    const TensorView& grad = ctx.in(g + 1);
    const int64_t begin = (chunk - first_chunk[g]) * kChunkElements;
    const int64_t size = std::min(kChunkElements, grad.num_elements() - begin);
    partial[chunk] = vec.sum_of_squares_in_double(grad.as<T>() + begin, size);
  });
  double sum = 0;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) sum += partial[chunk];
  *ctx.out(0).as<T>() = static_cast<T>(std::sqrt(sum) / divisor);
  return absl::OkStatus();
}

template <typename T>
absl::Status RunAdamW(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  T* const param = ctx.in(0).as<T>();
  T* const m = ctx.in(1).as<T>();
  T* const v = ctx.in(2).as<T>();
  const T* const grad = ctx.in(3).as<T>();
  const double norm = *ctx.in(4).as<T>();
  const double divisor = *ctx.in(5).as<T>();
  const int32_t step_number = *ctx.in(7).as<int32_t>();
  if (step_number < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("step is ", step_number, "; want 1 or more"));
  }
  // A step whose gradient is NaN or infinite would spoil every weight: the
  // caller sees the norm, and the weights stay as they were.
  if (!std::isfinite(norm)) return absl::OkStatus();
  const double beta1 = ctx.attrs().Float("beta1");
  const double beta2 = ctx.attrs().Float("beta2");
  const double max_norm = ctx.attrs().Float("max_norm");
  AdamWStep<T> step;
  step.grad_scale = static_cast<T>(std::min(1.0, max_norm / norm) / divisor);
  step.beta1 = static_cast<T>(beta1);
  step.beta2 = static_cast<T>(beta2);
  step.m_scale = static_cast<T>(1 / (1 - std::pow(beta1, step_number)));
  step.v_scale = static_cast<T>(1 / (1 - std::pow(beta2, step_number)));
  step.eps = static_cast<T>(ctx.attrs().Float("eps"));
  step.lr = *ctx.in(6).as<T>();
  step.weight_decay = static_cast<T>(ctx.attrs().Float("weight_decay"));
  ForElementChunks(ctx.pool, ctx.in(0).num_elements(),
                   [&](int64_t begin, int64_t end) {
                     vec.adamw(step, grad + begin, end - begin, param + begin,
                               m + begin, v + begin);
                   });
  return absl::OkStatus();
}

}  // namespace

void RegisterOptimizerKernels(KernelRegistry& kernels) {
  kernels.Register(kAccumulate, DType::kF32, RunAccumulate<float>);
  kernels.Register(kAccumulate, DType::kF64, RunAccumulate<double>);
  kernels.Register(kAccumulateCounts, DType::kF32, RunAccumulateCounts<float>);
  kernels.Register(kAccumulateCounts, DType::kF64, RunAccumulateCounts<double>);
  kernels.Register(kGlobalNorm, DType::kF32, RunGlobalNorm<float>);
  kernels.Register(kGlobalNorm, DType::kF64, RunGlobalNorm<double>);
  kernels.Register(kAdamW, DType::kF32, RunAdamW<float>);
  kernels.Register(kAdamW, DType::kF64, RunAdamW<double>);
}

}  // namespace strata
