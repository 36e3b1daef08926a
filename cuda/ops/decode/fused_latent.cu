#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/round_rows.h"
#include "cuda/ops/batch/batch_linear.h"
#include "cuda/ops/batch/batch_rows.h"
#include "cuda/ops/batch/skinny_product.h"
#include "cuda/ops/cache/cached_attention.h"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/batch_absorb.h"
#include "cuda/ops/decode/batch_values.h"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/fused_latent.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode/latent_rows.h"
#include "cuda/ops/decode/latent_values.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/elementwise.h"
#include "cuda/ops/latent_attention.h"
#include "cuda/ops/linear_part.h"
#include "cuda/ops/norm.h"
#include "cuda/ops/rope.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// Few tokens under bf16 have kernels that read each weight once and begin
// early, up to 64 those of a batch (cuda/ops/batch); others go operator by
// operator, in fewer of them.

namespace strata::gpu {
namespace {

// --- LatentQkv ---

// Inputs: core/ops/fused_latent.h.
enum QkvInput {
  kX,
  kGain,
  kWqDown,
  kBqDown,
  kQGain,
  kWq,
  kWkv,
  kBkv,
  kKvGain,
  kKvB,
  kCos,
  kSin,
  kCache,
  kRow
};

// Of kv_b, in BF16, rows of all heads below each other, which `prepare` keeps.
constexpr char kKeptKeys[] = "W_K";
constexpr char kKeptValues[] = "W_V";

// Rows [first, first + count) of every head of kv_b.
cudaError_t KeepRows(const KernelContext& ctx, const Operand& kv_b,
                     const char* name, int64_t first, int64_t count) {
  const int64_t heads = ctx.Int("num_heads"), rank = kv_b.dim(1);
  const int64_t of_head = kv_b.dim(0) / heads;
  auto* const kept = ctx.Keep<__nv_bfloat16>(name, heads * count * rank);
  if (kept == nullptr) return cudaErrorMemoryAllocation;
  for (int64_t h = 0; h < heads; ++h) {
    const cudaError_t e = RoundRows(
        {count, nullptr}, rank, kv_b.as<float>() + (h * of_head + first) * rank,
        kept + h * count * rank, ctx.stream);
    if (e != cudaSuccess) return e;
  }
  return cudaSuccess;
}

LatentRowsArgs RowsOf(const KernelContext& ctx) {
  LatentRowsArgs a;
  a.tokens = ctx.in(kX).rows();
  a.num_heads = static_cast<int>(ctx.Int("num_heads"));
  a.nope = static_cast<int>(ctx.Int("nope"));
  a.rope = static_cast<int>(ctx.Int("rope"));
  a.rank = static_cast<int>(ctx.in(kKvB).dim(1));
  a.interleaved = ctx.Int("interleaved") != 0;
  a.cos = ctx.in(kCos).as<float>();
  a.sin = ctx.in(kSin).as<float>();
  if (ctx.has(kBkv)) a.bias = ctx.in(kBkv).as<float>();
  a.gain = ctx.in(kKvGain).as<float>();
  a.eps = ctx.Float("kv_eps");
  const Operand& cache = ctx.in(kCache);
  a.cache = cache.data;
  a.stored = PackedRoundingOf(ctx);
  a.slots = cache.dim(0);
  a.pitch =
      a.stored.format == PackedFormat::kBf16 ? cache.dim(1) / 2 : cache.dim(1);
  a.row = ctx.in(kRow).as<int32_t>();
  a.fault = ctx.fault;
  return a;
}

// The projections of normalised rows, without results.
FewRowsArgs ProjectionsOf(const KernelContext& ctx) {
  FewRowsArgs a = NormedRows(ctx.in(kX), ctx.in(kGain), ctx.Float("eps"));
  a.num_products = 2;
  a.product[0].w = WeightRows(ctx.in(kWq), a.k);
  a.product[1].w = WeightRows(ctx.in(kWkv), a.k);
  return a;
}

bool IsFewLatents(const KernelContext& ctx) {
  return ctx.precision == Precision::kBf16 && !ctx.has(kWqDown) &&
         HasFewRowsProducts(ProjectionsOf(ctx)) &&
         HasAbsorbQueries(RowsOf(ctx));
}

// --- LatentQkv of a batch ---

// Of kv_b, in BF16, W_K^T of all heads [heads * rank, nope].
constexpr char kKeptKeysAcross[] = "W_K^T";

bool IsBatchLatents(const KernelContext& ctx) {
  const int64_t tokens = ctx.in(kX).dim(0), d = ctx.in(kX).dim(1);
  return ctx.precision == Precision::kBf16 && !ctx.has(kWqDown) && d % 8 == 0 &&
         HasBatchLinear(tokens, d, ctx.in(kWq), false) &&
         HasBatchLinear(tokens, d, ctx.in(kWkv), false) &&
         HasBatchAbsorb(RowsOf(ctx));
}

cudaError_t PrepareLatentQkv(const KernelContext& ctx) {
  const Operand& kv_b = ctx.in(kKvB);
  const int64_t heads = ctx.Int("num_heads"), nope = ctx.Int("nope");
  if (IsFewLatents(ctx)) return KeepRows(ctx, kv_b, kKeptKeys, 0, nope);
  if (!IsBatchLatents(ctx)) return cudaSuccess;
  const int64_t rank = kv_b.dim(1);
  auto* const kept =
      ctx.Keep<__nv_bfloat16>(kKeptKeysAcross, heads * nope * rank);
  if (kept == nullptr) return cudaErrorMemoryAllocation;
  return TransposeRounded(heads, nope, rank, kv_b.dim(0) / heads * rank,
                          kv_b.as<float>(), kept, ctx.stream);
}

cudaError_t RunBatchLatents(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  const Extent t = x.rows();
  const Operand& wq = ctx.in(kWq);
  const Operand& wkv = ctx.in(kWkv);
  LatentRowsArgs rows = RowsOf(ctx);
  auto* const normed = ctx.Take<__nv_bfloat16>(x.max_elements());
  auto* const q = ctx.Take<float>(t.bound * wq.dim(0));
  auto* const kv = ctx.Take<float>(t.bound * wkv.dim(0));
  const int64_t key_rows = rows.num_heads * int64_t{rows.nope};
  const auto* const w_k =
      ctx.Keep<__nv_bfloat16>(kKeptKeysAcross, key_rows * rows.rank);
  if (normed == nullptr || q == nullptr || kv == nullptr || w_k == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  rows.q = q;
  rows.kv = kv;
  rows.absorbed = ctx.out(0).as<float>();
  BatchLinear of_q, of_kv;
  of_q.w = wq;
  of_q.y = q;
  of_kv.w = wkv;
  of_kv.y = kv;
  cudaError_t e =
      NormRounded(t, x.dim(1), x.as<float>(), ctx.in(kGain).as<float>(),
                  ctx.Float("eps"), normed, ctx.stream);
  if (e == cudaSuccess) {
    e = RunBatchLinears(ctx, Bf16Matrix(normed, t, x.dim(1)), of_q, of_kv);
  }
  return e == cudaSuccess ? BatchAbsorb(rows, w_k, ctx.stream) : e;
}

cudaError_t RunFewLatents(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  LatentRowsArgs rows = RowsOf(ctx);
  auto* const q = ctx.Take<float>(x.dim(0) * ctx.in(kWq).dim(0));
  auto* const kv = ctx.Take<float>(x.dim(0) * ctx.in(kWkv).dim(0));
  const int64_t key_rows = rows.num_heads * int64_t{rows.nope};
  rows.w_k = ctx.Keep<__nv_bfloat16>(kKeptKeys, key_rows * rows.rank);
  if (q == nullptr || kv == nullptr || rows.w_k == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  FewRowsArgs a = ProjectionsOf(ctx);
  a.product[0].y = q;
  a.product[1].y = kv;
  if (const cudaError_t e = FewRowsProducts(a, ctx.stream); e) return e;
  rows.q = q;
  rows.kv = kv;
  rows.absorbed = ctx.out(0).as<float>();
  return AbsorbQueries(rows, ctx.stream);
}

// Rows in F32, which are rounded then.
cudaError_t StoreRounded(const KernelContext& ctx, LatentRowsArgs rows) {
  const Operand floats = TakeMatrix(ctx, rows.tokens, rows.rank + rows.rope);
  if (floats.data == nullptr) return cudaErrorMemoryAllocation;
  const PackedRounding rounding = rows.stored;
  rows.stored.format = PackedFormat::kF32;
  rows.cache = floats.data;
  rows.slots = rows.tokens.bound;
  rows.pitch = floats.dim(1);
  rows.row = nullptr;
  const cudaError_t e = StoreLatents(rows, ctx.stream);
  if (e != cudaSuccess) return e;
  return WritePacked(ctx, ctx.in(kCache), floats, ctx.in(kRow), /*heads=*/1,
                     rounding);
}

cudaError_t RunLatentQkv(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  if (x.dim(0) == 0) return cudaSuccess;
  if (IsFewLatents(ctx)) return RunFewLatents(ctx);
  if (IsBatchLatents(ctx)) return RunBatchLatents(ctx);
  LatentRowsArgs rows = RowsOf(ctx);
  const Operand& wq = ctx.in(kWq);
  Operand normed = TakeMatrix(ctx, x.rows(), x.dim(1));
  Operand q = TakeMatrix(ctx, x.rows(), wq.dim(0));
  const Operand kv = TakeMatrix(ctx, x.rows(), ctx.in(kWkv).dim(0));
  if (normed.data == nullptr || q.data == nullptr || kv.data == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  cudaError_t e = NormRows(ctx, x, ctx.in(kGain), ctx.Float("eps"), normed);
  if (e == cudaSuccess) e = RunLinear(ctx, normed, ctx.in(kWkv), kv);
  if (e == cudaSuccess && ctx.has(kWqDown)) {
    const int64_t columns = ctx.in(kWqDown).dim(0);
    const Operand down = TakeMatrix(ctx, x.rows(), columns);
    const Operand normed_down = TakeMatrix(ctx, x.rows(), columns);
    if (down.data == nullptr || normed_down.data == nullptr) {
      return cudaErrorMemoryAllocation;
    }
    e = RunLinear(ctx, normed, ctx.in(kWqDown), down);
    if (e == cudaSuccess && ctx.has(kBqDown)) {
      e = RunPart(ctx, RunAddBias, {down, ctx.in(kBqDown)}, down);
    }
    if (e == cudaSuccess) {
      e = NormRows(ctx, down, ctx.in(kQGain), ctx.Float("q_eps"), normed_down);
    }
    normed = normed_down;
  }
  if (e == cudaSuccess) e = RunLinear(ctx, normed, wq, q);
  rows.q = q.as<float>();
  rows.kv = kv.as<float>();
  if (e == cudaSuccess) e = TurnQueries(rows, ctx.stream);
  if (e == cudaSuccess) {
    e = IsInCodes(rows.stored.format) ? StoreRounded(ctx, rows)
                                      : StoreLatents(rows, ctx.stream);
  }
  if (e != cudaSuccess) return e;
  return RunPart(ctx, RunLatentQuery, {q, ctx.in(kKvB)}, ctx.out(0),
                 *ctx.attrs);
}

// --- LatentAttendProject ---

// Behind the inputs of attention, which say over what it is.
enum ProjectInput { kH, kW, kBias, kProjectKvB };
constexpr int kOverRows = 4, kOverBlocks = 5, kOverPacked = 6;

template <int kAttendInputs>
cudaError_t ReadLatentsOf(const KernelContext& ctx, LatentDecodeArgs& attend) {
  switch (kAttendInputs) {
    case kOverRows:
      return ReadCachedLatents(ctx, attend);
    case kOverBlocks:
      return ReadPagedLatents(ctx, attend);
    default:
      return ReadPackedLatents(ctx, attend);
  }
}

// Columns of a key.
int64_t KeyColumns(const KernelContext& ctx) {
  return ctx.in(0).dim(1) / ctx.Int("num_heads");
}

// Whether attention has a kernel in the tensor cores, under bf16.
template <int kAttendInputs>
bool HasTensorLatents(const KernelContext& ctx) {
  return HasLatentDecode(ctx.Int("rank"), KeyColumns(ctx)) &&
         (kAttendInputs != kOverPacked || ctx.Int("attention_bits") == 0);
}

// Of a token, all heads.
int64_t ValueColumns(const KernelContext& ctx) {
  return ctx.Int("num_heads") * ctx.Int("value");
}

template <int kAttendInputs>
bool IsFewOutputs(const KernelContext& ctx) {
  const int64_t tokens = ctx.in(0).dim(0), rank = ctx.Int("rank");
  const int64_t columns = ValueColumns(ctx);
  // Where W_V lies is not known yet; it is aligned.
  const PackedRows values = Bf16Rows(
      ctx.in(kAttendInputs + kProjectKvB).as<__nv_bfloat16>(), columns, rank);
  return ctx.precision == Precision::kBf16 && !ctx.has(kAttendInputs + kBias) &&
         ctx.Int("value") % 16 == 0 && HasTensorLatents<kAttendInputs>(ctx) &&
         HasFewRows(tokens, values) &&
         HasFewRows(tokens, WeightRows(ctx.in(kAttendInputs + kW), columns));
}

// Of a batch: attention's results by W_V; without operands.
SkinnyProductArgs ValuesOf(const KernelContext& ctx) {
  SkinnyProductArgs product;
  product.tokens = ctx.in(0).rows();
  product.k = product.x_step = ctx.Int("rank");
  product.pitch = ctx.Int("num_heads") * product.k;
  product.rows_of_x = product.y_step = ctx.Int("value");
  product.product[0].n = ValueColumns(ctx);
  return product;
}

template <int kAttendInputs>
bool IsBatchOutputs(const KernelContext& ctx) {
  return ctx.precision == Precision::kBf16 && !ctx.has(kAttendInputs + kBias) &&
         HasTensorLatents<kAttendInputs>(ctx) &&
         HasSkinnyProduct(ValuesOf(ctx)) &&
         HasBatchLinear(ctx.in(0).dim(0), ValueColumns(ctx),
                        ctx.in(kAttendInputs + kW), false);
}

template <int kAttendInputs>
cudaError_t PrepareAttendProject(const KernelContext& ctx) {
  if (!IsFewOutputs<kAttendInputs>(ctx) &&
      !IsBatchOutputs<kAttendInputs>(ctx)) {
    return cudaSuccess;
  }
  return KeepRows(ctx, ctx.in(kAttendInputs + kProjectKvB), kKeptValues,
                  ctx.Int("nope"), ctx.Int("value"));
}

template <int kAttendInputs>
PackedRows ValueRows(const KernelContext& ctx) {
  const int64_t columns = ValueColumns(ctx), rank = ctx.Int("rank");
  return Bf16Rows(ctx.Keep<__nv_bfloat16>(kKeptValues, columns * rank), columns,
                  rank);
}

// values = attention's results by W_V: in one launch, or with the pieces of
// attention joined by the product.
cudaError_t RunValues(const LatentValuesArgs& args, cudaStream_t stream) {
  if (HasLatentValues(args)) return LatentValues(args, stream);
  const LatentDecodeArgs& attend = args.attend;
  if (const cudaError_t e = LatentDecode(attend, stream); e != cudaSuccess) {
    return e;
  }
  FewRowsArgs a;
  a.tokens = attend.tokens;
  a.k = kLatentRank;
  a.pitch = attend.num_heads * a.k;
  a.rows_of_x = args.value;
  a.splits = LatentSplits(attend);
  a.x = a.splits > 1 ? attend.partial : attend.o;
  a.max = attend.max;
  a.sum = attend.sum;
  a.product[0].w = args.w;
  a.product[0].y = args.y;
  return FewRowsProducts(a, stream);
}

template <int kAttendInputs>
cudaError_t RunFewOutputs(const KernelContext& ctx) {
  const Operand& h = ctx.in(kAttendInputs + kH);
  const int64_t columns = ValueColumns(ctx);
  LatentValuesArgs values;
  LatentDecodeArgs& attend = values.attend;
  cudaError_t e = ReadLatentsOf<kAttendInputs>(ctx, attend);
  if (e != cudaSuccess) return e;
  const int64_t rows = attend.tokens.bound;
  attend.o = ctx.Take<float>(rows * attend.num_heads * kLatentRank);
  attend.join = false;
  attend.old_keys_stay = true;
  values.w = ValueRows<kAttendInputs>(ctx);
  values.value = ctx.Int("value");
  values.y = ctx.Take<float>(rows * columns);
  if (attend.o == nullptr || values.y == nullptr || values.w.data == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  if (e = RunValues(values, ctx.stream); e != cudaSuccess) return e;
  FewRowsArgs project;
  project.tokens = attend.tokens;
  project.k = project.pitch = columns;
  project.x = values.y;
  project.product[0].w = WeightRows(ctx.in(kAttendInputs + kW), columns);
  project.product[0].y = ctx.out(0).as<float>();
  project.product[0].add = h.as<float>();
  return FewRowsProducts(project, ctx.stream);
}

// value [t, heads * value] = attention's results by W_V, whose rows are `w`:
// pieces are joined in the product's launch, or before it.
cudaError_t RunBatchValues(const KernelContext& ctx, LatentDecodeArgs attend,
                           const __nv_bfloat16* w, __nv_bfloat16* value) {
  BatchValuesArgs joined;
  joined.tokens = attend.tokens;
  joined.num_heads = attend.num_heads;
  joined.splits = LatentSplits(attend);
  joined.value = static_cast<int>(ctx.Int("value"));
  joined.partial = attend.partial;
  joined.max = attend.max;
  joined.sum = attend.sum;
  joined.w = w;
  joined.y = value;
  if (HasBatchValues(joined)) {
    attend.join = false;
    const cudaError_t e = LatentDecode(attend, ctx.stream);
    return e != cudaSuccess ? e : BatchValues(joined, ctx.stream);
  }
  SkinnyProductArgs product = ValuesOf(ctx);
  auto* const latents =
      ctx.Take<__nv_bfloat16>(product.tokens.bound * product.pitch);
  if (latents == nullptr) return cudaErrorMemoryAllocation;
  attend.rounded = latents;
  product.x = latents;
  product.product[0].w = w;
  product.product[0].rounded = value;
  const cudaError_t e = LatentDecode(attend, ctx.stream);
  return e != cudaSuccess ? e : SkinnyProduct(product, ctx.stream);
}

template <int kAttendInputs>
cudaError_t RunBatchOutputs(const KernelContext& ctx) {
  const Extent t = ctx.in(0).rows();
  const int64_t columns = ValueColumns(ctx);
  LatentDecodeArgs attend;
  cudaError_t e = ReadLatentsOf<kAttendInputs>(ctx, attend);
  if (e != cudaSuccess) return e;
  attend.old_keys_stay = true;
  const auto* const w =
      ctx.Keep<__nv_bfloat16>(kKeptValues, columns * ctx.Int("rank"));
  auto* const value = ctx.Take<__nv_bfloat16>(t.bound * columns);
  if (w == nullptr || value == nullptr) return cudaErrorMemoryAllocation;
  if (e = RunBatchValues(ctx, attend, w, value); e != cudaSuccess) return e;
  BatchLinear project;
  project.w = ctx.in(kAttendInputs + kW);
  project.y = ctx.out(0).as<float>();
  project.add = ctx.in(kAttendInputs + kH).as<float>();
  return RunBatchLinear(ctx, Bf16Matrix(value, t, columns), project);
}

template <int kAttendInputs>
cudaError_t RunAttendProject(const KernelContext& ctx) {
  const Operand& q = ctx.in(0);
  if (q.dim(0) == 0) return cudaSuccess;
  if (IsFewOutputs<kAttendInputs>(ctx)) {
    return RunFewOutputs<kAttendInputs>(ctx);
  }
  if (IsBatchOutputs<kAttendInputs>(ctx)) {
    return RunBatchOutputs<kAttendInputs>(ctx);
  }
  const Operand& w = ctx.in(kAttendInputs + kW);
  const Operand latents =
      TakeMatrix(ctx, q.rows(), ctx.Int("num_heads") * ctx.Int("rank"));
  const Operand values = TakeMatrix(ctx, q.rows(), ValueColumns(ctx));
  for (const Operand& part : {latents, values}) {
    if (part.data == nullptr) return cudaErrorMemoryAllocation;
  }
  cudaError_t e;
  if constexpr (kAttendInputs == kOverRows) {
    e = RunPart(ctx, RunCachedLatentAttention,
                {q, ctx.in(1), ctx.in(2), ctx.in(3)}, latents, *ctx.attrs);
  } else if constexpr (kAttendInputs == kOverBlocks) {
    e = RunPart(ctx, RunPagedLatentAttention,
                {q, ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4)}, latents,
                *ctx.attrs);
  } else {
    e = RunPart(ctx, RunPackedAttention,
                {q, ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4), ctx.in(5)},
                latents, *ctx.attrs);
  }
  if (e == cudaSuccess) {
    e = RunPart(ctx, RunLatentOutput,
                {latents, ctx.in(kAttendInputs + kProjectKvB)}, values,
                *ctx.attrs);
  }
  if (e != cudaSuccess) return e;
  const bool has_bias = ctx.has(kAttendInputs + kBias);
  return RunLinearResidual(ctx, values, w,
                           has_bias ? &ctx.in(kAttendInputs + kBias) : nullptr,
                           ctx.in(kAttendInputs + kH), ctx.out(0));
}

}  // namespace

void RegisterFusedLatentKernels(KernelRegistry& kernels) {
  // The second of each with packed weights (core/ops/quant_fused.h).
  for (const char* const op : {"LatentQkv", "QuantLatentQkv"}) {
    kernels.Register(op, RunLatentQkv, PrepareLatentQkv);
  }
  for (const char* const op :
       {"CachedLatentAttendProject", "QuantCachedLatentAttendProject"}) {
    kernels.Register(op, RunAttendProject<kOverRows>,
                     PrepareAttendProject<kOverRows>);
  }
  for (const char* const op :
       {"PagedLatentAttendProject", "QuantPagedLatentAttendProject"}) {
    kernels.Register(op, RunAttendProject<kOverBlocks>,
                     PrepareAttendProject<kOverBlocks>);
  }
  for (const char* const op :
       {"PackedLatentAttendProject", "QuantPackedLatentAttendProject"}) {
    kernels.Register(op, RunAttendProject<kOverPacked>,
                     PrepareAttendProject<kOverPacked>);
  }
}

}  // namespace strata::gpu
