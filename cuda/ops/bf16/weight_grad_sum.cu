#include <cstdint>

#include "cuda/kernels/grouped_product.h"
#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/bf16/weight_grad_sum.h"
#include "cuda/ops/blas.h"
#include "cuda/ops/grouped_matmul.h"
#include "cuda/ops/step/accumulate.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// What the product is multiplied by, and what the sum so far.
__global__ void ScalarsKernel(const float* keep, float* scalars) {
  scalars[0] = 1;
  scalars[1] = *keep;
}

// The gradient in F32 scratch, then added to the sum.
template <typename Differentiate>
cudaError_t ThroughScratch(const KernelContext& ctx, const Operand& sum,
                           Differentiate differentiate) {
  auto* const dw = ctx.Take<float>(sum.max_elements());
  if (dw == nullptr) return cudaErrorMemoryAllocation;
  if (const cudaError_t e = differentiate(dw); e != cudaSuccess) return e;
  return AddToSum(sum, dw, ctx.in(3).as<float>(), ctx.stream);
}

cudaError_t SumByExpert(const KernelContext& ctx) {
  const Operand& sum = ctx.in(0);
  const Operand& dy = ctx.in(1);
  const Operand& x = ctx.in(2);
  const Operand& offset = ctx.in(4);
  if (!SumsInTensorCores(ctx, sum.dim(1), sum.dim(2), sum.dim(0))) {
    return ThroughScratch(ctx, sum, [&](float* dw) {
      return WeightGradByExpert(ctx, dy, x, offset, dw);
    });
  }
  GroupedWeightGradArgs grad;
  grad.dw = sum.data;
  grad.bf16_dw = sum.element_size == 2;
  grad.keep = ctx.in(3).as<float>();
  return WeightGradRounded(ctx, dy, x, offset, grad);
}

cudaError_t SumOfRows(const KernelContext& ctx) {
  const Operand& sum = ctx.in(0);
  const Operand& dy = ctx.in(1);
  const Operand& x = ctx.in(2);
  GemmArgs args;
  args.transpose_a = true;
  args.m = args.lda = sum.dim(0);
  args.n = args.ldb = args.ldc = sum.dim(1);
  args.k = dy.dim(0);
  if (ctx.precision != Precision::kBf16) {
    return ThroughScratch(ctx, sum, [&](float* dw) {
      const float *wide_dy = nullptr, *wide_x = nullptr;
      if (const cudaError_t e = Widened(ctx, dy, &wide_dy); e) return e;
      if (const cudaError_t e = Widened(ctx, x, &wide_x); e) return e;
      args.a = wide_dy;
      args.b = wide_x;
      args.c = dw;
      return Gemm(ctx, args);
    });
  }
  const __nv_bfloat16 *narrow_dy = nullptr, *narrow_x = nullptr;
  if (const cudaError_t e = Rounded(ctx, dy, &narrow_dy); e) return e;
  if (const cudaError_t e = Rounded(ctx, x, &narrow_x); e) return e;
  auto* const scalars = ctx.Take<float>(2);
  if (scalars == nullptr) return cudaErrorMemoryAllocation;
  ScalarsKernel<<<1, 1, 0, ctx.stream>>>(ctx.in(3).as<float>(), scalars);
  args.a = narrow_dy;
  args.b = narrow_x;
  args.bf16 = true;
  args.c = sum.as<float>();
  args.bf16_c = sum.element_size == 2;
  args.scalars = scalars;
  return Gemm(ctx, args);
}

cudaError_t RunSumWeightGrad(const KernelContext& ctx) {
  if (ctx.in(0).max_elements() == 0) return cudaSuccess;
  return ctx.has(4) ? SumByExpert(ctx) : SumOfRows(ctx);
}

}  // namespace

void RegisterWeightGradSumKernels(KernelRegistry& kernels) {
  kernels.Register("SumWeightGrad", RunSumWeightGrad);
}

}  // namespace strata::gpu
