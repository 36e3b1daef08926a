#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/energy.cuh"
#include "cuda/ops/gate.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// Groups of an energy signature, and experts of a token: what a warp's share
// of shared memory holds.
constexpr int kMaxGroups = 256;
constexpr int kMaxChosen = 64;

// A warp a row.
__global__ void __launch_bounds__(kBlock)
    EnergySignatureKernel(Extent rows, int groups, int64_t width,
                          const float* x, float* s) {
  __shared__ float squares_of[kWarpsPerBlock][kMaxGroups];
  float* const squares = squares_of[threadIdx.x / kWarp];
  const int64_t t = rows.Get(), columns = groups * width;
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    Signature(x + i * columns, groups, width, squares, s + i * groups);
    __syncwarp();
  }
}

cudaError_t RunEnergySignature(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const auto groups = static_cast<int>(ctx.Int("groups"));
  if (groups > kMaxGroups) return ctx.Refuse("more than 256 energy groups");
  EnergySignatureKernel<<<BlocksForRows(x.dim(0)), kBlock, 0, ctx.stream>>>(
      x.rows(), groups, x.dim(1) / groups, x.as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    EnergySignatureGradKernel(Extent rows, int groups, int64_t width,
                              const float* ds, const float* x, float* dx) {
  __shared__ float squares_of[kWarpsPerBlock][kMaxGroups];
  float* const squares = squares_of[threadIdx.x / kWarp];
  const int64_t t = rows.Get(), columns = groups * width;
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    SignatureGrad(ds + i * groups, x + i * columns, groups, width, squares,
                  dx + i * columns);
    __syncwarp();
  }
}

cudaError_t RunEnergySignatureGrad(const KernelContext& ctx) {
  const Operand& x = ctx.in(1);
  const auto groups = static_cast<int>(ctx.Int("groups"));
  if (groups > kMaxGroups) return ctx.Refuse("more than 256 energy groups");
  EnergySignatureGradKernel<<<BlocksForRows(x.dim(0)), kBlock, 0, ctx.stream>>>(
      x.rows(), groups, x.dim(1) / groups, ctx.in(0).as<float>(), x.as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

// How a row's chosen p become weights: core/ops/gate.h.
struct WeightOptions {
  bool normalize = false;
  float floor = 0, scale = 1;
};

WeightOptions ReadWeightOptions(const KernelContext& ctx) {
  return {ctx.Int("normalize") != 0, ctx.Float("floor"), ctx.Float("scale")};
}

constexpr float kSumFloor = 1e-20f;

// What a row's chosen p are divided by, and whether it moves with them. By one
// thread: they are few, and are added from the largest on, so that the sum
// depends on who was chosen and not on the order. `sorted` [kMaxChosen].
struct Divisor {
  float value;
  bool is_sum;
};
__device__ Divisor DivisorOf(const WeightOptions& options, const float* p,
                             const int32_t* chosen, int k, float* sorted) {
  if (!options.normalize) return {1.f, false};
  int n = 0;
  for (int j = 0; j < k; ++j) {
    if (chosen[j] < 0) continue;
    const float x = p[chosen[j]];
    int at = n++;
    for (; at > 0 && sorted[at - 1] < x; --at) sorted[at] = sorted[at - 1];
    sorted[at] = x;
  }
  float sum = kSumFloor;
  for (int j = 0; j < n; ++j) sum += sorted[j];
  return sum >= options.floor ? Divisor{sum, true}
                              : Divisor{options.floor, false};
}

// A thread a row.
__global__ void __launch_bounds__(kBlock)
    SelectedWeightKernel(Extent rows, int64_t experts, int k,
                         WeightOptions options, const float* p,
                         const int32_t* expert, float* weight) {
  const int64_t t = rows.Get();
  float sorted[kMaxChosen];
  for (int64_t i = FirstElement(); i < t; i += ElementStride()) {
    const float* const row = p + i * experts;
    const int32_t* const chosen = expert + i * k;
    const float factor =
        options.scale / DivisorOf(options, row, chosen, k, sorted).value;
    for (int j = 0; j < k; ++j) {
      weight[i * k + j] = chosen[j] >= 0 ? factor * row[chosen[j]] : 0.f;
    }
  }
}

}  // namespace

cudaError_t RunSelectedWeight(const KernelContext& ctx) {
  const Operand& p = ctx.in(0);
  const auto k = static_cast<int>(ctx.in(1).dim(1));
  if (k > kMaxChosen) return ctx.Refuse("more than 64 experts a token");
  SelectedWeightKernel<<<BlocksFor(p.dim(0)), kBlock, 0, ctx.stream>>>(
      p.rows(), p.dim(1), k, ReadWeightOptions(ctx), p.as<float>(),
      ctx.in(1).as<int32_t>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

namespace {

__global__ void __launch_bounds__(kBlock)
    ZeroRowsKernel(Extent rows, int64_t columns, float* x) {
  const int64_t n = rows.Get() * columns;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) x[i] = 0;
}

// Of weight = scale p / s, s the sum of the chosen p, a thread a row:
//   dp = scale / s * (dweight - sum(dweight p) / s).
__global__ void __launch_bounds__(kBlock)
    SelectedWeightGradKernel(Extent rows, int64_t experts, int k,
                             WeightOptions options, const float* dweight,
                             const float* p, const int32_t* expert, float* dp) {
  const int64_t t = rows.Get();
  float sorted[kMaxChosen];
  for (int64_t i = FirstElement(); i < t; i += ElementStride()) {
    const float* const row = p + i * experts;
    const int32_t* const chosen = expert + i * k;
    const Divisor divisor = DivisorOf(options, row, chosen, k, sorted);
    float mean = 0;
    if (divisor.is_sum) {
      for (int j = 0; j < k; ++j) {
        if (chosen[j] >= 0) {
          mean = fmaf(dweight[i * k + j], row[chosen[j]], mean);
        }
      }
      mean /= divisor.value;
    }
    const float factor = options.scale / divisor.value;
    for (int j = 0; j < k; ++j) {
      if (chosen[j] >= 0) {
        dp[i * experts + chosen[j]] += factor * (dweight[i * k + j] - mean);
      }
    }
  }
}

cudaError_t RunSelectedWeightGrad(const KernelContext& ctx) {
  const Operand& p = ctx.in(1);
  const auto k = static_cast<int>(ctx.in(2).dim(1));
  if (k > kMaxChosen) return ctx.Refuse("more than 64 experts a token");
  float* const dp = ctx.out(0).as<float>();
  ZeroRowsKernel<<<BlocksFor(p.max_elements()), kBlock, 0, ctx.stream>>>(
      p.rows(), p.dim(1), dp);
  SelectedWeightGradKernel<<<BlocksFor(p.dim(0)), kBlock, 0, ctx.stream>>>(
      p.rows(), p.dim(1), k, ReadWeightOptions(ctx), ctx.in(0).as<float>(),
      p.as<float>(), ctx.in(2).as<int32_t>(), dp);
  return cudaGetLastError();
}

// scaled = carry * weight, out = the sum of a row of it; a thread a row.
__global__ void __launch_bounds__(kBlock)
    CarryWeightKernel(Extent rows, int64_t k, const float* weight,
                      const float* carry, float* scaled, float* out) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstElement(); i < t; i += ElementStride()) {
    const float factor = carry != nullptr ? carry[i] : 1.f;
    float sum = 0;
    for (int64_t j = i * k; j < (i + 1) * k; ++j) {
      scaled[j] = factor * weight[j];
      sum += scaled[j];
    }
    out[i] = sum;
  }
}

cudaError_t RunCarryWeight(const KernelContext& ctx) {
  const Operand& weight = ctx.in(0);
  CarryWeightKernel<<<BlocksFor(weight.dim(0)), kBlock, 0, ctx.stream>>>(
      weight.rows(), weight.dim(1), weight.as<float>(),
      ctx.has(1) ? ctx.in(1).as<float>() : nullptr, ctx.out(0).as<float>(),
      ctx.out(1).as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    CarryWeightGradKernel(Extent rows, int64_t k, const float* dscaled,
                          const float* dout, const float* weight,
                          const float* carry, float* dweight, float* dcarry) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstElement(); i < t; i += ElementStride()) {
    const float factor = carry != nullptr ? carry[i] : 1.f;
    const float all = dout != nullptr ? dout[i] : 0.f;
    float sum = 0;
    for (int64_t j = i * k; j < (i + 1) * k; ++j) {
      const float d = all + (dscaled != nullptr ? dscaled[j] : 0.f);
      dweight[j] = factor * d;
      sum = fmaf(weight[j], d, sum);
    }
    dcarry[i] = sum;
  }
}

cudaError_t RunCarryWeightGrad(const KernelContext& ctx) {
  const Operand& weight = ctx.in(2);
  const auto or_null = [&](int i) {
    return ctx.has(i) ? ctx.in(i).as<float>() : nullptr;
  };
  CarryWeightGradKernel<<<BlocksFor(weight.dim(0)), kBlock, 0, ctx.stream>>>(
      weight.rows(), weight.dim(1), or_null(0), or_null(1), weight.as<float>(),
      or_null(3), ctx.out(0).as<float>(), ctx.out(1).as<float>());
  return cudaGetLastError();
}

// core/parallel/load_controller.h by one thread: experts are at most some
// hundred, and sums are in its order.
__global__ void LoadBiasKernel(int experts, float decay, float gain_p,
                               float gain_i, float max_bias,
                               const int32_t* offset, float* ema,
                               float* integral, float* bias) {
  double total = 0;
  bool begun = false;
  for (int e = 0; e < experts; ++e) {
    total += offset[e + 1] - offset[e];
    begun |= ema[e] != 0;
  }
  if (total == 0) return;
  const auto bounded = [](float x, float bound) {
    return fminf(fmaxf(x, -bound), bound);
  };
  const auto error = [&](int e) {
    return bounded(1.f - static_cast<float>(experts) * ema[e], 1.f);
  };
  float integral_sum = 0;
  for (int e = 0; e < experts; ++e) {
    const float before = begun ? ema[e] : 1.f / experts;
    const auto share = static_cast<float>((offset[e + 1] - offset[e]) / total);
    ema[e] = decay * before + (1.f - decay) * share;
    integral[e] += gain_i * error(e);
    integral_sum += integral[e];
  }
  const float mean = integral_sum / experts;
  for (int e = 0; e < experts; ++e) {
    integral[e] = bounded(integral[e] - mean, max_bias);
    bias[e] = bounded(integral[e] + gain_p * error(e), max_bias);
  }
}

cudaError_t RunLoadBias(const KernelContext& ctx) {
  LoadBiasKernel<<<1, 1, 0, ctx.stream>>>(
      static_cast<int>(ctx.in(1).dim(0)), ctx.Float("ema_decay"),
      ctx.Float("gain_p"), ctx.Float("gain_i"), ctx.Float("max_bias"),
      ctx.in(0).as<int32_t>(), ctx.in(1).as<float>(), ctx.in(2).as<float>(),
      ctx.in(3).as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    SignBiasKernel(int experts, float rate, const int32_t* offset,
                   float* bias) {
  const int64_t total = offset[experts] - offset[0];
  for (int e = threadIdx.x; e < experts; e += kBlock) {
    const int64_t load = int64_t{offset[e + 1] - offset[e]} * experts;
    if (load < total) bias[e] += rate;
    if (load > total) bias[e] -= rate;
  }
}

cudaError_t RunSignBias(const KernelContext& ctx) {
  SignBiasKernel<<<1, kBlock, 0, ctx.stream>>>(
      static_cast<int>(ctx.in(1).dim(0)), ctx.Float("rate"),
      ctx.in(0).as<int32_t>(), ctx.in(1).as<float>());
  return cudaGetLastError();
}

// out = max(p + bias, 0), and its gradient.
__global__ void __launch_bounds__(kBlock)
    BiasedScoreKernel(Extent rows, int64_t experts, const float* p,
                      const float* bias, float* out) {
  const int64_t n = rows.Get() * experts;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    out[i] = fmaxf(p[i] + bias[i % experts], 0.f);
  }
}

cudaError_t RunBiasedScore(const KernelContext& ctx) {
  const Operand& p = ctx.in(0);
  BiasedScoreKernel<<<BlocksFor(p.max_elements()), kBlock, 0, ctx.stream>>>(
      p.rows(), p.dim(1), p.as<float>(), ctx.in(1).as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    BiasedScoreGradKernel(Extent rows, int64_t experts, const float* dout,
                          const float* p, const float* bias, float* dp) {
  const int64_t n = rows.Get() * experts;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    dp[i] = p[i] + bias[i % experts] > 0 ? dout[i] : 0.f;
  }
}

cudaError_t RunBiasedScoreGrad(const KernelContext& ctx) {
  const Operand& p = ctx.in(1);
  BiasedScoreGradKernel<<<BlocksFor(p.max_elements()), kBlock, 0, ctx.stream>>>(
      p.rows(), p.dim(1), ctx.in(0).as<float>(), p.as<float>(),
      ctx.in(2).as<float>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

}  // namespace

void RegisterGateKernels(KernelRegistry& kernels) {
  kernels.Register("EnergySignature", RunEnergySignature);
  kernels.Register("EnergySignatureGrad", RunEnergySignatureGrad);
  kernels.Register("SelectedWeight", RunSelectedWeight);
  kernels.Register("SelectedWeightGrad", RunSelectedWeightGrad);
  kernels.Register("CarryWeight", RunCarryWeight);
  kernels.Register("CarryWeightGrad", RunCarryWeightGrad);
  kernels.Register("LoadBias", RunLoadBias);
  kernels.Register("SignBias", RunSignBias);
  kernels.Register("BiasedScore", RunBiasedScore);
  kernels.Register("BiasedScoreGrad", RunBiasedScoreGrad);
}

}  // namespace strata::gpu
