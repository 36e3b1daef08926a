#include "cuda/ops/quant_matmul.h"

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Up to so many rows at the bound, of an expert as many on average, weights are
// read once without tiles that would be nearly empty.
constexpr int64_t kMaxFewRows = 8;
constexpr int64_t kMaxFewRowsOfExpert = 4;

cudaError_t RunProduct(const KernelContext& ctx, const QuantProductArgs& args) {
  if (args.w.bits != 4 && args.w.bits != 8) {
    return ctx.Refuse(
        "weights of 2 bits; want rows of 4 or 8, as models are loaded for "
        "backend cuda (WeightStorage::kAlike)");
  }
  const int64_t few = args.num_experts > 0
                          ? kMaxFewRowsOfExpert * args.num_experts
                          : kMaxFewRows;
  if (ctx.precision != Precision::kBf16 || !IsHopper()) {
    return QuantProduct(args, /*rounded=*/nullptr, ctx.stream);
  }
  auto* const rounded = ctx.Take<__nv_bfloat16>(RoundedElements(args));
  if (rounded == nullptr) return cudaErrorMemoryAllocation;
  const bool streamed = HasStreamedProduct(args) && !HasResidentProduct(args);
  return args.rows.bound <= few || streamed
             ? QuantProduct(args, rounded, ctx.stream)
             : QuantProductSm90(args, rounded, ctx.stream);
}

// What both operators say of their product; `axis` is w's of rows.
QuantProductArgs ReadArgs(const KernelContext& ctx, int axis) {
  const Operand& x = ctx.in(0);
  const Operand& w = ctx.in(1);
  QuantProductArgs args;
  args.rows = x.rows();
  if (x.element_size == 2) {
    args.x_bf16 = x.as<__nv_bfloat16>();
  } else {
    args.x = x.as<float>();
  }
  args.w = DescribePacked(w.as<uint8_t>(), w.dim(axis), x.dim(1),
                          static_cast<int>(ctx.Int("bits")), ctx.Int("group"),
                          ctx.Int("symmetric") != 0);
  args.y = ctx.out(0).as<float>();
  args.fault = ctx.fault;
  return args;
}

}  // namespace

cudaError_t RunQuantMatMul(const KernelContext& ctx) {
  return RunProduct(ctx, ReadArgs(ctx, 0));
}

cudaError_t RunQuantGroupedMatMul(const KernelContext& ctx) {
  QuantProductArgs args = ReadArgs(ctx, 1);
  args.num_experts = static_cast<int>(ctx.in(1).dim(0));
  args.offset = ctx.in(2).as<int32_t>();
  return RunProduct(ctx, args);
}

void RegisterQuantMatMulKernels(KernelRegistry& kernels) {
  kernels.Register("QuantMatMul", RunQuantMatMul);
  kernels.Register("QuantGroupedMatMul", RunQuantGroupedMatMul);
}

}  // namespace strata::gpu
