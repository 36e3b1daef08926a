#include <cstdint>

#include "cuda/kernels/round_rows.h"
#include "cuda/ops/batch/batch_linear.h"
#include "cuda/ops/batch/batch_rows.h"
#include "cuda/ops/cache/cached_attention.h"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/fused_heads.h"
#include "cuda/ops/decode/head_rows.h"
#include "cuda/ops/linear_part.h"
#include "cuda/ops/norm.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// Under bf16 up to 8 tokens have products that read each weight once and begin
// early, the norm in them; up to 64 those of a batch (cuda/ops/batch); others
// go operator by operator. All end their projections in one launch, StoreHeads.

namespace strata::gpu {
namespace {

// --- NormQkv ---

// Inputs: core/ops/fused_attention.h.
enum QkvInput {
  kX,
  kGain,
  kWq,
  kWk,
  kWv,
  kBq,
  kBk,
  kBv,
  kQGain,
  kKGain,
  kCos,
  kSin,
  kKCache,
  kVCache,
  kRow
};

// The projections of normalised rows, without results.
FewRowsArgs ProjectionsOf(const KernelContext& ctx) {
  FewRowsArgs a = NormedRows(ctx.in(kX), ctx.in(kGain), ctx.Float("eps"));
  a.num_products = 3;
  for (int i = 0; i < 3; ++i) {
    a.product[i].w = WeightRows(ctx.in(kWq + i), a.k);
  }
  return a;
}

bool IsBatch(const KernelContext& ctx) {
  const int64_t tokens = ctx.in(kX).dim(0), d = ctx.in(kX).dim(1);
  if (ctx.precision != Precision::kBf16 || d % 8 != 0) return false;
  for (const int w : {kWq, kWk, kWv}) {
    if (!HasBatchLinear(tokens, d, ctx.in(w), /*swiglu=*/false)) return false;
  }
  return true;
}

// y[i] = the rows of x, normalised, by weight i.
cudaError_t Project(const KernelContext& ctx, const Operand (&y)[3]) {
  const Operand& x = ctx.in(kX);
  const Extent t = x.rows();
  if (ctx.precision == Precision::kBf16) {
    FewRowsArgs few = ProjectionsOf(ctx);
    if (HasFewRowsProducts(few)) {
      for (int i = 0; i < 3; ++i) few.product[i].y = y[i].as<float>();
      return FewRowsProducts(few, ctx.stream);
    }
  }
  if (IsBatch(ctx)) {
    auto* const normed = ctx.Take<__nv_bfloat16>(x.max_elements());
    if (normed == nullptr) return cudaErrorMemoryAllocation;
    const Operand rows = Bf16Matrix(normed, t, x.dim(1));
    BatchLinear part[3];
    for (int i = 0; i < 3; ++i) {
      part[i].w = ctx.in(kWq + i);
      part[i].y = y[i].as<float>();
    }
    cudaError_t e =
        NormRounded(t, x.dim(1), x.as<float>(), ctx.in(kGain).as<float>(),
                    ctx.Float("eps"), normed, ctx.stream);
    if (e == cudaSuccess) e = RunBatchLinear(ctx, rows, part[0]);
    return e == cudaSuccess ? RunBatchLinears(ctx, rows, part[1], part[2]) : e;
  }
  const Operand normed = TakeMatrix(ctx, t, x.dim(1));
  if (normed.data == nullptr) return cudaErrorMemoryAllocation;
  cudaError_t e = NormRows(ctx, x, ctx.in(kGain), ctx.Float("eps"), normed);
  for (int i = 0; i < 3 && e == cudaSuccess; ++i) {
    e = RunLinear(ctx, normed, ctx.in(kWq + i), y[i]);
  }
  return e;
}

cudaError_t RunNormQkv(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  if (x.dim(0) == 0) return cudaSuccess;
  Operand y[3];
  for (int i = 0; i < 3; ++i) {
    y[i] = TakeMatrix(ctx, x.rows(), ctx.in(kWq + i).dim(0));
    if (y[i].data == nullptr) return cudaErrorMemoryAllocation;
  }
  if (const cudaError_t e = Project(ctx, y); e != cudaSuccess) return e;
  StoreHeadsArgs args;
  args.tokens = x.rows();
  const auto heads = static_cast<int>(ctx.Int("num_heads"));
  const auto kv_heads = static_cast<int>(ctx.Int("num_kv_heads"));
  for (int i = 0; i < 3; ++i) {
    HeadRows& part = args.part[i];
    part.x = y[i].as<float>();
    part.heads = i == 0 ? heads : kv_heads;
    part.dim = static_cast<int>(y[i].dim(1) / part.heads);
    if (ctx.has(kBq + i)) part.bias = ctx.in(kBq + i).as<float>();
    part.turns = i < 2;
  }
  if (ctx.has(kQGain)) {
    args.part[0].gain = ctx.in(kQGain).as<float>();
    args.part[1].gain = ctx.in(kKGain).as<float>();
  }
  args.part[0].y = ctx.out(0).as<float>();
  for (int i = 1; i < 3; ++i) {
    const Operand& cache = ctx.in(kKCache + i - 1);
    if (ctx.Int("format") == 0) {
      args.part[i].y = cache.as<float>();
    } else {
      args.part[i].packed = cache.as<uint8_t>();
    }
  }
  args.rounding = PackedRoundingOf(ctx);
  args.eps = ctx.Float("qk_eps");
  args.cos = ctx.in(kCos).as<float>();
  args.sin = ctx.in(kSin).as<float>();
  args.half = static_cast<int>(ctx.in(kCos).dim(1));
  args.interleaved = ctx.Int("interleaved") != 0;
  args.row = ctx.in(kRow).as<int32_t>();
  args.slots = ctx.in(kKCache).dim(0);
  args.fault = ctx.fault;
  return StoreHeads(args, ctx.stream);
}

// --- AttendProject ---

// Behind the inputs of attention.
enum ProjectInput { kH, kW, kBias };

// Output 0 = h + the rows of o by w.
cudaError_t Project(const KernelContext& ctx, const Operand& o,
                    const Operand& h, const Operand& w, const Operand* bias) {
  const int64_t columns = o.dim(1);
  if (ctx.precision == Precision::kBf16 && bias == nullptr) {
    FewRowsArgs few;
    few.tokens = o.rows();
    few.k = few.pitch = columns;
    few.x = o.as<float>();
    few.product[0].w = WeightRows(w, columns);
    few.product[0].y = ctx.out(0).as<float>();
    few.product[0].add = h.as<float>();
    if (HasFewRowsProducts(few)) return FewRowsProducts(few, ctx.stream);
    if (columns % 8 == 0 && HasBatchLinear(o.dim(0), columns, w, false)) {
      auto* const rounded = ctx.Take<__nv_bfloat16>(o.max_elements());
      if (rounded == nullptr) return cudaErrorMemoryAllocation;
      const cudaError_t e = RoundRows(o.rows(), columns, o.as<float>(), rounded,
                                      ctx.stream, /*zero_tail=*/false);
      if (e != cudaSuccess) return e;
      BatchLinear project;
      project.w = w;
      project.y = ctx.out(0).as<float>();
      project.add = h.as<float>();
      return RunBatchLinear(ctx, Bf16Matrix(rounded, o.rows(), columns),
                            project);
    }
  }
  return RunLinearResidual(ctx, o, w, bias, h, ctx.out(0));
}

// Columns of a head's values, which rows of a packed cache do not say.
int64_t ValueColumns(const KernelContext& ctx) {
  const Operand& v = ctx.in(2);
  return v.element_size == 1 ? ctx.Int("value_dim")
                             : v.dim(1) / ctx.Int("num_kv_heads");
}

// By what attends, of so many inputs.
template <Kernel attend, int kAttendInputs>
cudaError_t RunAttendProject(const KernelContext& ctx) {
  static_assert(kAttendInputs == 5 || kAttendInputs == 6);
  const Operand& q = ctx.in(0);
  if (q.dim(0) == 0) return cudaSuccess;
  const int64_t value = ValueColumns(ctx);
  const Operand o = TakeMatrix(ctx, q.rows(), ctx.Int("num_heads") * value);
  if (o.data == nullptr) return cudaErrorMemoryAllocation;
  cudaError_t e;
  if constexpr (kAttendInputs == 5) {
    e = RunPart(ctx, attend, {q, ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4)}, o,
                *ctx.attrs);
  } else {
    e = RunPart(ctx, attend,
                {q, ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4), ctx.in(5)}, o,
                *ctx.attrs);
  }
  if (e != cudaSuccess) return e;
  const bool has_bias = ctx.has(kAttendInputs + kBias);
  return Project(ctx, o, ctx.in(kAttendInputs + kH), ctx.in(kAttendInputs + kW),
                 has_bias ? &ctx.in(kAttendInputs + kBias) : nullptr);
}

}  // namespace

void RegisterFusedHeadsKernels(KernelRegistry& kernels) {
  // The second of each with packed weights (core/ops/quant_fused.h).
  for (const char* const op : {"NormQkv", "QuantNormQkv"}) {
    kernels.Register(op, RunNormQkv);
  }
  for (const char* const op :
       {"CachedAttendProject", "QuantCachedAttendProject"}) {
    kernels.Register(op, RunAttendProject<RunCachedAttentionAhead, 5>);
  }
  for (const char* const op :
       {"PagedAttendProject", "QuantPagedAttendProject"}) {
    kernels.Register(op, RunAttendProject<RunPagedAttentionAhead, 6>);
  }
  for (const char* const op :
       {"PackedAttendProject", "QuantPackedAttendProject"}) {
    kernels.Register(op, RunAttendProject<RunPackedAttentionAhead, 6>);
  }
}

}  // namespace strata::gpu
