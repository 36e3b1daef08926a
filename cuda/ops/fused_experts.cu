#include <cstdint>

#include "cuda/kernels/round_rows.h"
#include "cuda/ops/activation.h"
#include "cuda/ops/dispatch.h"
#include "cuda/ops/elementwise.h"
#include "cuda/ops/expert_layer.h"
#include "cuda/ops/fused_experts.h"
#include "cuda/ops/linear_part.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Inputs of ExpertsResidual, core/ops/fused_experts.h.
enum ExpertsInput {
  kX,
  kRowSlot,
  kSlotRow,
  kOffset,
  kWeight,
  kGateUp,
  kDown,
  kH,
  kIndex
};

// A weight in BF16: itself, or rounded into scratch. Null if there is none.
const __nv_bfloat16* Rounded(const KernelContext& ctx, const Operand& weight,
                             cudaError_t& error) {
  if (weight.element_size == 2) return weight.as<__nv_bfloat16>();
  auto* const rounded = ctx.Take<__nv_bfloat16>(weight.max_elements());
  error = rounded == nullptr
              ? cudaErrorMemoryAllocation
              : RoundRows(weight.rows(), weight.columns(), weight.as<float>(),
                          rounded, ctx.stream);
  return error == cudaSuccess ? rounded : nullptr;
}

ExpertLayerArgs ReadArgs(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  ExpertLayerArgs a;
  a.tokens = x.rows();
  a.k = static_cast<int>(ctx.in(kSlotRow).dim(1));
  a.num_experts = static_cast<int>(ctx.in(kGateUp).dim(0));
  a.d = x.dim(1);
  a.width = ctx.in(kGateUp).dim(1) / 2;
  a.x = x.data;
  if (ctx.has(kWeight)) a.weight = ctx.in(kWeight).as<float>();
  a.slot_row = ctx.in(kSlotRow).as<int32_t>();
  a.offset = ctx.in(kOffset).as<int32_t>();
  a.rows = ctx.in(kRowSlot).rows();
  a.h = ctx.in(kH).data;
  if (ctx.has(kIndex)) a.index = ctx.in(kIndex).as<int32_t>();
  a.num_indexed = ctx.in(kH).dim(0);
  a.y = ctx.out(0).data;
  a.fault = ctx.fault;
  return a;
}

// Operator by operator, as if they had not been fused.
cudaError_t RunByParts(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  const Extent slots = ctx.in(kRowSlot).rows();
  const int64_t d = x.dim(1), width = ctx.in(kGateUp).dim(1) / 2;
  const Operand rows = TakeMatrix(ctx, slots, d);
  const Operand both = TakeMatrix(ctx, slots, 2 * width);
  const Operand hidden = TakeMatrix(ctx, slots, width);
  const Operand sum = TakeMatrix(ctx, x.rows(), d);
  for (const Operand& part : {rows, both, hidden, sum}) {
    if (part.data == nullptr) return cudaErrorMemoryAllocation;
  }
  const Operand none;
  const Operand& row_slot = ctx.in(kRowSlot);
  const Operand& slot_row = ctx.in(kSlotRow);
  const Operand& offset = ctx.in(kOffset);
  const Operand weight = ctx.has(kWeight) ? ctx.in(kWeight) : none;
  cudaError_t e = RunPart(ctx, RunDispatchRows, {x, row_slot, slot_row}, rows);
  if (e == cudaSuccess) {
    e = RunExpertLinear(ctx, rows, ctx.in(kGateUp), offset, both);
  }
  if (e == cudaSuccess) e = RunPart(ctx, RunSwiGlu, {both}, hidden);
  if (e == cudaSuccess) {
    e = RunExpertLinear(ctx, hidden, ctx.in(kDown), offset, rows);
  }
  if (e == cudaSuccess) {
    e = RunPart(ctx, RunCombineRows, {rows, row_slot, slot_row, weight}, sum);
  }
  if (e != cudaSuccess) return e;
  return ctx.has(kIndex)
             ? RunPart(ctx, RunAddRows, {ctx.in(kH), sum, ctx.in(kIndex)},
                       ctx.out(0))
             : RunPart(ctx, RunAdd, {ctx.in(kH), sum}, ctx.out(0));
}

}  // namespace

cudaError_t RunExpertsResidual(const KernelContext& ctx) {
  ExpertLayerArgs a = ReadArgs(ctx);
  const int up = ctx.in(kGateUp).element_size;
  const int down = ctx.in(kDown).element_size;
  const bool narrow = up == 2 && down == 2, packed = up == 1 || down == 1;
  // Few slots read less of F32 weights than rounding them would.
  if (ctx.precision != Precision::kBf16 || packed || !HasExpertLayer(a) ||
      (!narrow && a.max_slots() <= kMaxFewSlots)) {
    return RunByParts(ctx);
  }
  cudaError_t error = cudaSuccess;
  a.gate_up = Rounded(ctx, ctx.in(kGateUp), error);
  if (a.gate_up == nullptr) return error;
  a.down = Rounded(ctx, ctx.in(kDown), error);
  if (a.down == nullptr) return error;
  a.gathered = ctx.Take<__nv_bfloat16>(a.max_slots() * a.d);
  a.hidden = ctx.Take<__nv_bfloat16>(a.max_slots() * a.width);
  if (a.gathered == nullptr || a.hidden == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  if (a.index != nullptr && a.h != a.y) {
    error = cudaMemcpyAsync(a.y, a.h, ctx.in(kH).max_elements() * sizeof(float),
                            cudaMemcpyDeviceToDevice, ctx.stream);
    if (error != cudaSuccess) return error;
  }
  return ExpertLayer(a, ctx.stream);
}

void RegisterFusedExpertsKernels(KernelRegistry& kernels) {
  kernels.Register("ExpertsResidual", RunExpertsResidual);
}

}  // namespace strata::gpu
