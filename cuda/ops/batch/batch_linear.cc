#include "cuda/ops/batch/batch_linear.h"

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/round_rows.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/batch/batch_rows.h"
#include "cuda/ops/batch/skinny_product.h"
#include "cuda/ops/linear_part.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

SkinnyWeights WeightsOf(const BatchLinear& p) {
  SkinnyWeights w;
  w.w = p.w.as<__nv_bfloat16>();
  w.n = p.w.dim(0);
  w.y = p.y;
  w.rounded = p.rounded;
  w.add = p.add;
  w.swiglu = p.swiglu;
  return w;
}

SkinnyProductArgs ProductOf(const Operand& x, const BatchLinear& first) {
  SkinnyProductArgs args;
  args.tokens = x.rows();
  args.k = args.pitch = x.columns();
  args.x = x.as<__nv_bfloat16>();
  args.product[0] = WeightsOf(first);
  args.x_ahead = first.x_ahead;
  return args;
}

// y = x w^T of packed rows, without what else there is.
QuantProductArgs PackedProductOf(const Operand& x, const BatchLinear& p) {
  QuantProductArgs args;
  args.rows = x.rows();
  args.x_bf16 = x.as<__nv_bfloat16>();
  args.w = WeightRows(p.w, x.columns());
  args.y = p.y;
  return args;
}
bool IsPlain(const BatchLinear& p) {
  return p.y != nullptr && p.rounded == nullptr && !p.swiglu;
}

// The product into scratch, then what is made of it; what is added, in one
// launch where there is one.
cudaError_t RunPacked(const KernelContext& ctx, const Operand& x,
                      const BatchLinear& p) {
  const int64_t n = p.w.dim(0);
  if (p.add != nullptr) {
    ResidentMore more;
    more.add = p.add;
    const QuantProductArgs args = PackedProductOf(x, p);
    if (IsPlain(p) && HasResidentProduct(args, more)) {
      return ResidentProduct(args, {}, ctx.stream, more);
    }
  }
  Operand y;
  if (p.y != nullptr && p.add == nullptr) {
    y.data = p.y;
    y.rank = 2;
    y.dims[0] = x.dim(0);
    y.dims[1] = n;
    y.count = x.count;
  } else {
    y = TakeMatrix(ctx, x.rows(), n);
  }
  if (y.data == nullptr) return cudaErrorMemoryAllocation;
  if (const cudaError_t e = RunLinear(ctx, x, p.w, y); e) return e;
  if (p.swiglu) {
    return SwiGluRounded(x.rows(), n / 2, y.as<float>(), p.rounded, ctx.stream);
  }
  if (p.add != nullptr) {
    return SumRows(x.rows(), n, p.add, y.as<float>(), p.y, ctx.stream);
  }
  if (p.rounded == nullptr) return cudaSuccess;
  return RoundRows(x.rows(), n, y.as<float>(), p.rounded, ctx.stream,
                   /*zero_tail=*/false);
}

}  // namespace

Operand Bf16Matrix(__nv_bfloat16* data, Extent rows, int64_t columns) {
  Operand operand;
  operand.data = data;
  operand.element_size = 2;
  operand.rank = 2;
  operand.dims[0] = rows.bound;
  operand.dims[1] = columns;
  operand.count = rows.count;
  return operand;
}

bool HasBatchLinear(int64_t tokens, int64_t k, const Operand& w, bool swiglu) {
  BatchLinear p;
  p.w = w;
  p.swiglu = swiglu;
  if (w.element_size == 2) {
    return HasSkinnyProduct(
        ProductOf(Bf16Matrix(nullptr, {tokens, nullptr}, k), p));
  }
  const int64_t columns = swiglu ? w.dim(0) / 2 : w.dim(0);
  return tokens >= 1 && tokens <= kMaxBatchTokens && IsHopper() && k % 8 == 0 &&
         columns % 8 == 0 && WeightRows(w, k).data != nullptr;
}

cudaError_t RunBatchLinear(const KernelContext& ctx, const Operand& x,
                           const BatchLinear& product) {
  if (product.w.element_size == 2) {
    return SkinnyProduct(ProductOf(x, product), ctx.stream);
  }
  return RunPacked(ctx, x, product);
}

cudaError_t RunBatchLinears(const KernelContext& ctx, const Operand& x,
                            const BatchLinear& first,
                            const BatchLinear& second) {
  if (first.w.element_size == 2 && second.w.element_size == 2) {
    SkinnyProductArgs args = ProductOf(x, first);
    args.product[1] = WeightsOf(second);
    args.num_products = 2;
    return SkinnyProduct(args, ctx.stream);
  }
  if (IsPacked(first.w) && IsPacked(second.w) && IsPlain(first) &&
      IsPlain(second) && first.add == nullptr && second.add == nullptr) {
    ResidentMore more;
    more.w = WeightRows(second.w, x.columns());
    more.y = second.y;
    const QuantProductArgs args = PackedProductOf(x, first);
    if (HasResidentProduct(args, more)) {
      return ResidentProduct(args, {}, ctx.stream, more);
    }
  }
  const cudaError_t e = RunBatchLinear(ctx, x, first);
  return e == cudaSuccess ? RunBatchLinear(ctx, x, second) : e;
}

}  // namespace strata::gpu
