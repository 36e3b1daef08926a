#include <cstdint>

#include "cuda/ops/bf16/norm.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/norm.h"
#include "cuda/ops/rms_norm.h"
#include "cuda/runtime/kernel.h"

// The operators of core/ops/norm.h over the kernels of rms_norm.h. A row with
// several groups is as many rows.

namespace strata::gpu {
namespace {

// The rows of x, whose groups are `width` columns wide, for an Args of them.
template <typename Args>
void SetRows(const Operand& x, int64_t width, Args& args) {
  args.width = static_cast<int>(width);
  args.rows = x.max_elements() / width;
  args.count = x.count;
  args.rows_per_count = static_cast<int>(x.columns() / width);
}

cudaError_t RunRmsNorm(const KernelContext& ctx) {
  if (ctx.out(0).element_size == 2) return RmsNormToBf16(ctx);
  RmsNormArgs<float> args;
  SetRows(ctx.in(0), ctx.in(1).dim(0), args);
  args.x = ctx.in(0).as<float>();
  args.gain = ctx.in(1).as<float>();
  args.y = ctx.out(0).as<float>();
  args.rstd = ctx.out(1).as<float>();
  args.eps = ctx.Float("eps");
  return RmsNorm(args, ctx.stream);
}

cudaError_t RunInputGrad(const KernelContext& ctx) {
  constexpr int kAdd = 4;  // kRmsNormInputGradAdd of core/ops/norm.h
  if (HasBf16(ctx)) return RmsNormInputGradMixed(ctx);
  RmsNormInputGradArgs<float> args;
  SetRows(ctx.in(0), ctx.in(2).dim(0), args);
  args.dy = ctx.in(0).as<float>();
  args.x = ctx.in(1).as<float>();
  args.gain = ctx.in(2).as<float>();
  args.rstd = ctx.in(3).as<float>();
  for (int i = 0; i < 2; ++i) {
    if (ctx.has(kAdd + i)) args.add[i] = ctx.in(kAdd + i).as<float>();
  }
  args.dx = ctx.out(0).as<float>();
  return RmsNormInputGrad(args, ctx.stream);
}

cudaError_t RunWeightGrad(const KernelContext& ctx) {
  if (HasBf16(ctx)) return RmsNormWeightGradMixed(ctx);
  RmsNormWeightGradArgs<float> args;
  SetRows(ctx.in(0), ctx.in(2).dim(0), args);
  args.dy = ctx.in(0).as<float>();
  args.x = ctx.in(1).as<float>();
  args.rstd = ctx.in(3).as<float>();
  args.dgain = ctx.out(0).as<float>();
  args.partial =
      ctx.Take<float>(RmsNormWeightGradPartials(args.rows) * args.width);
  if (args.partial == nullptr) return cudaErrorMemoryAllocation;
  return RmsNormWeightGrad(args, ctx.stream);
}

}  // namespace

cudaError_t NormRows(const KernelContext& ctx, const Operand& x,
                     const Operand& gain, float eps, const Operand& y) {
  RmsNormArgs<float> args;
  SetRows(x, gain.dim(0), args);
  args.x = x.as<float>();
  args.gain = gain.as<float>();
  args.y = y.as<float>();
  args.rstd = ctx.Take<float>(args.rows);
  if (args.rstd == nullptr) return cudaErrorMemoryAllocation;
  args.eps = eps;
  return RmsNorm(args, ctx.stream);
}

void RegisterNormKernels(KernelRegistry& kernels) {
  kernels.Register("RmsNorm", RunRmsNorm);
  kernels.Register("RmsNormInputGrad", RunInputGrad);
  kernels.Register("RmsNormWeightGrad", RunWeightGrad);
}

}  // namespace strata::gpu
