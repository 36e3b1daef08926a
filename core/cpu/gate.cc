#include "core/cpu/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/cpu/gate_rows.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/gate.h"
#include "core/parallel/load_controller.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunEnergySignature(const KernelContext& ctx) {
  const TensorView& x = ctx.in(0);
  const int64_t columns = x.dim(1);
  const int64_t groups = ctx.attrs().Int("groups");
  const int64_t width = columns / groups;
  const T* const in = x.as<T>();
  T* const out = ctx.out(0).as<T>();
  ForRowChunks(ctx.pool, x.dim(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      SignatureRow(in + i * columns, groups, width, out + i * groups);
    }
  });
  return absl::OkStatus();
}

// With r_g the norm of slice g, r that of the row, and s as above,
//   dx_i = scale sqrt(groups) x_i (ds_g / (r_g r) - sum_h(ds_h r_h) / r^3).
template <typename T>
absl::Status RunEnergySignatureGrad(const KernelContext& ctx) {
  const TensorView& x = ctx.in(1);
  const int64_t columns = x.dim(1);
  const int64_t groups = ctx.attrs().Int("groups");
  const int64_t width = columns / groups;
  const T* const in = x.as<T>();
  const T* const ds = ctx.in(0).as<T>();
  T* const out = ctx.out(0).as<T>();
  const T scale = std::sqrt(T{2} * width * groups);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * groups);
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForEachRow(ctx.pool, x.dim(0), columns, [&](int64_t i, int worker) {
    const T* const row = in + i * columns;
    const T* const drow = ds + i * groups;
    T* const dx = out + i * columns;
    T* const norm = scratch + worker * groups;
    T sum = 0, dot = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const T square = vec.sum_of_squares(row + g * width, width);
      sum += square;
      norm[g] = std::sqrt(square);
      dot += drow[g] * norm[g];
    }
    const T all = std::sqrt(sum);
    const T pull = sum > 0 ? dot / sum : T{0};
    for (int64_t g = 0; g < groups; ++g) {
      const T factor =
          norm[g] > 0 ? scale / all * (drow[g] / norm[g] - pull) : T{0};
      for (int64_t j = 0; j < width; ++j) {
        dx[g * width + j] = factor * row[g * width + j];
      }
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSelectedWeight(const KernelContext& ctx) {
  const int64_t experts = ctx.in(0).dim(1);
  const int64_t k = ctx.in(1).dim(1);
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  const T* const p = ctx.in(0).as<T>();
  const int32_t* const expert = ctx.in(1).as<int32_t>();
  T* const out = ctx.out(0).as<T>();
  const Normalizer<T> normalizer(ctx.attrs());
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * k);
  ForEachRow(ctx.pool, ctx.in(0).dim(0), k, [&](int64_t i, int worker) {
    normalizer.Weigh(scale, p + i * experts, expert + i * k, k,
                     scratch + worker * k, out + i * k);
  });
  return absl::OkStatus();
}

// Of weight = scale p / s, s the sum of the chosen p:
// dp = scale / s * (dweight - sum(dweight p) / s).
template <typename T>
absl::Status RunSelectedWeightGrad(const KernelContext& ctx) {
  const int64_t experts = ctx.in(1).dim(1);
  const int64_t k = ctx.in(2).dim(1);
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  const T* const dweight = ctx.in(0).as<T>();
  const T* const p = ctx.in(1).as<T>();
  const int32_t* const expert = ctx.in(2).as<int32_t>();
  T* const dp = ctx.out(0).as<T>();
  const Normalizer<T> normalizer(ctx.attrs());
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * k);
  ForEachRow(ctx.pool, ctx.in(1).dim(0), experts, [&](int64_t i, int worker) {
    const T* const row = p + i * experts;
    const int32_t* const chosen = expert + i * k;
    const Divisor<T> divisor =
        normalizer.Of(row, chosen, k, scratch + worker * k);
    const T factor = scale / divisor.value;
    T mean = 0;
    if (divisor.is_sum) {
      for (int64_t j = 0; j < k; ++j) {
        if (chosen[j] >= 0) mean += dweight[i * k + j] * row[chosen[j]];
      }
      mean /= divisor.value;
    }
    T* const drow = dp + i * experts;
    std::fill_n(drow, experts, T{0});
    for (int64_t j = 0; j < k; ++j) {
      if (chosen[j] >= 0) {
        drow[chosen[j]] += factor * (dweight[i * k + j] - mean);
      }
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCarryWeight(const KernelContext& ctx) {
  const int64_t k = ctx.in(0).dim(1);
  const T* const weight = ctx.in(0).as<T>();
  const T* const carry = ctx.has(1) ? ctx.in(1).as<T>() : nullptr;
  T* const scaled = ctx.out(0).as<T>();
  T* const out = ctx.out(1).as<T>();
  ForRowChunks(ctx.pool, ctx.in(0).dim(0), k, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T factor = carry != nullptr ? carry[i] : T{1};
      T sum = 0;
      for (int64_t j = i * k; j < (i + 1) * k; ++j) {
        scaled[j] = factor * weight[j];
        sum += scaled[j];
      }
      out[i] = sum;
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCarryWeightGrad(const KernelContext& ctx) {
  const int64_t k = ctx.in(2).dim(1);
  const T* const dscaled = ctx.has(0) ? ctx.in(0).as<T>() : nullptr;
  const T* const dout = ctx.has(1) ? ctx.in(1).as<T>() : nullptr;
  const T* const weight = ctx.in(2).as<T>();
  const T* const carry = ctx.has(3) ? ctx.in(3).as<T>() : nullptr;
  T* const dweight = ctx.out(0).as<T>();
  T* const dcarry = ctx.out(1).as<T>();
  ForRowChunks(ctx.pool, ctx.in(2).dim(0), k, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T factor = carry != nullptr ? carry[i] : T{1};
      const T all = dout != nullptr ? dout[i] : T{0};
      T sum = 0;
      for (int64_t j = i * k; j < (i + 1) * k; ++j) {
        const T d = all + (dscaled != nullptr ? dscaled[j] : T{0});
        dweight[j] = factor * d;
        sum += weight[j] * d;
      }
      dcarry[i] = sum;
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunLoadBias(const KernelContext& ctx) {
  LoadControllerConfig config;
  config.ema_decay = static_cast<float>(ctx.attrs().Float("ema_decay"));
  config.gain_p = static_cast<float>(ctx.attrs().Float("gain_p"));
  config.gain_i = static_cast<float>(ctx.attrs().Float("gain_i"));
  config.max_bias = static_cast<float>(ctx.attrs().Float("max_bias"));
  const int64_t experts = ctx.in(1).dim(0);
  const int32_t* const offset = ctx.in(0).as<int32_t>();
  auto* const load = ctx.scratch.Take<int64_t>(experts);
  for (int64_t e = 0; e < experts; ++e) load[e] = offset[e + 1] - offset[e];
  UpdateLoadBias<T, int64_t>(config, absl::MakeConstSpan(load, experts),
                             ctx.in(1).span<T>(), ctx.in(2).span<T>(),
                             ctx.in(3).span<T>());
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSignBias(const KernelContext& ctx) {
  const int64_t experts = ctx.in(1).dim(0);
  const int32_t* const offset = ctx.in(0).as<int32_t>();
  const T rate = static_cast<T>(ctx.attrs().Float("rate"));
  T* const bias = ctx.in(1).as<T>();
  const int64_t total = offset[experts] - offset[0];
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t load = (offset[e + 1] - offset[e]) * experts;
    if (load < total) bias[e] += rate;
    if (load > total) bias[e] -= rate;
  }
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kEnergySignature, dtype, RunEnergySignature<T>);
  kernels.Register(kEnergySignatureGrad, dtype, RunEnergySignatureGrad<T>);
  kernels.Register(kSelectedWeight, dtype, RunSelectedWeight<T>);
  kernels.Register(kSelectedWeightGrad, dtype, RunSelectedWeightGrad<T>);
  kernels.Register(kCarryWeight, dtype, RunCarryWeight<T>);
  kernels.Register(kCarryWeightGrad, dtype, RunCarryWeightGrad<T>);
  kernels.Register(kLoadBias, dtype, RunLoadBias<T>);
  kernels.Register(kSignBias, dtype, RunSignBias<T>);
}

}  // namespace

void RegisterGateKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
