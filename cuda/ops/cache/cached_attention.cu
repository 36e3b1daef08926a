#include <cstdint>

#include "cuda/ops/attend.cuh"
#include "cuda/ops/cache/cached_attention.h"
#include "cuda/ops/cache/cached_rows.cuh"
#include "cuda/ops/cache/decode_paths.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// Keys or values [slots, kv_heads * dim].
struct FloatCache {
  using Line = const float*;
  const float* data = nullptr;
  int64_t ld = 0, dim = 0;

  __device__ __forceinline__ Line At(int64_t row, int64_t kv_head) const {
    return data + row * ld + kv_head * dim;
  }
};
using Args = CachedArgs<FloatCache, ExpWeight>;

Args ReadArgs(const KernelContext& ctx, int64_t num_kv_heads) {
  const Operand& q = ctx.in(0);
  Args args;
  args.tokens = q.rows();
  args.num_heads = static_cast<int>(ctx.Int("num_heads"));
  args.sizes.key_dim = static_cast<int>(q.dim(1) / args.num_heads);
  args.sizes.scale = ctx.Float("scale");
  args.window = ctx.Int("window");
  args.q = q.as<float>();
  args.k = {ctx.in(1).as<float>(), ctx.in(1).dim(1),
            ctx.in(1).dim(1) / num_kv_heads};
  args.v = args.k;
  args.fault = ctx.fault;
  return args;
}

// (q, k_cache, v_cache, ...)
Args WithValues(const KernelContext& ctx) {
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  Args args = ReadArgs(ctx, num_kv_heads);
  const int64_t width = ctx.in(2).dim(1);
  args.v = {ctx.in(2).as<float>(), width, width / num_kv_heads};
  args.sizes.value_dim = static_cast<int>(args.v.dim);
  return args;
}

// (q, cache, ...): the values are the first columns of the one key.
Args OverLatents(const KernelContext& ctx) {
  Args args = ReadArgs(ctx, /*num_kv_heads=*/1);
  args.sizes.value_dim = static_cast<int>(ctx.Int("rank"));
  args.values_are_keys = true;
  return args;
}

CachePlaces RowsFrom(const KernelContext& ctx, int first) {
  return RowPlaces(ctx.in(first), ctx.in(first + 1), ctx.in(1).dim(0));
}

CachePlaces BlocksFrom(const KernelContext& ctx, int first) {
  return BlockPlaces(ctx.in(first), ctx.Int("block_size"), ctx.in(first + 1),
                     ctx.in(first + 2), ctx.in(1).dim(0));
}

Args At(Args args, const CachePlaces& places) {
  static_cast<CachePlaces&>(args.places) = places;
  return args;
}

cudaError_t RunKeysAndValues(const KernelContext& ctx, const Args& args,
                             bool old_keys_stay) {
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  DecodeAttentionArgs decode = DecodeHeads(ctx, args, num_kv_heads);
  if (args.sizes.key_dim != args.sizes.value_dim ||
      !HasDecodeAttention(decode)) {
    return RunCached(ctx, num_kv_heads, args);
  }
  if (!TakePieces(ctx, decode)) return cudaErrorMemoryAllocation;
  decode.old_keys_stay = old_keys_stay;
  return DecodeAttention(decode, ctx.stream);
}

// In the tensor cores under bf16, else by the plain kernel.
cudaError_t RunOverLatents(const KernelContext& ctx, const Args& args) {
  if (ctx.precision != Precision::kBf16 ||
      !HasLatentDecode(args.sizes.value_dim, args.sizes.key_dim)) {
    return RunCached(ctx, /*num_kv_heads=*/1, args);
  }
  return RunLatents(ctx, args, args.k.data, PackedFormat::kF32);
}

Args CachedLatents(const KernelContext& ctx) {
  return At(OverLatents(ctx), RowsFrom(ctx, 2));
}
Args PagedLatents(const KernelContext& ctx) {
  return At(OverLatents(ctx), BlocksFrom(ctx, 2));
}

cudaError_t AttendRows(const KernelContext& ctx, bool old_keys_stay) {
  return RunKeysAndValues(ctx, At(WithValues(ctx), RowsFrom(ctx, 3)),
                          old_keys_stay);
}
cudaError_t AttendBlocks(const KernelContext& ctx, bool old_keys_stay) {
  return RunKeysAndValues(ctx, At(WithValues(ctx), BlocksFrom(ctx, 3)),
                          old_keys_stay);
}

}  // namespace

cudaError_t RunCachedAttention(const KernelContext& ctx) {
  return AttendRows(ctx, /*old_keys_stay=*/false);
}
cudaError_t RunPagedAttention(const KernelContext& ctx) {
  return AttendBlocks(ctx, /*old_keys_stay=*/false);
}
cudaError_t RunCachedAttentionAhead(const KernelContext& ctx) {
  return AttendRows(ctx, /*old_keys_stay=*/true);
}
cudaError_t RunPagedAttentionAhead(const KernelContext& ctx) {
  return AttendBlocks(ctx, /*old_keys_stay=*/true);
}

cudaError_t ReadCachedLatents(const KernelContext& ctx,
                              LatentDecodeArgs& args) {
  const Args cached = CachedLatents(ctx);
  return ReadLatents(ctx, cached, cached.k.data, args);
}

cudaError_t ReadPagedLatents(const KernelContext& ctx, LatentDecodeArgs& args) {
  const Args cached = PagedLatents(ctx);
  return ReadLatents(ctx, cached, cached.k.data, args);
}

cudaError_t RunCachedLatentAttention(const KernelContext& ctx) {
  return RunOverLatents(ctx, CachedLatents(ctx));
}

cudaError_t RunPagedLatentAttention(const KernelContext& ctx) {
  return RunOverLatents(ctx, PagedLatents(ctx));
}

namespace {

// cache [slots, n] at row[i] = rows [t, n] at i, a warp a row.
__global__ void __launch_bounds__(kBlock)
    CacheWriteKernel(Extent tokens, int64_t slots, int64_t n, const float* rows,
                     const int32_t* row, float* cache, FaultSink fault) {
  const int64_t t = tokens.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const int64_t to = row[i];
    if (to < 0 || to >= slots) {
      if (Lane() == 0) fault.Report(FaultKind::kCacheRow, i, to, slots);
      continue;
    }
    for (int64_t c = Lane(); c < n; c += kWarp) {
      cache[to * n + c] = rows[i * n + c];
    }
  }
}

cudaError_t RunCacheWrite(const KernelContext& ctx) {
  const Operand& cache = ctx.in(0);
  const Operand& rows = ctx.in(1);
  CacheWriteKernel<<<BlocksForRows(rows.dim(0)), kBlock, 0, ctx.stream>>>(
      rows.rows(), cache.dim(0), cache.dim(1), rows.as<float>(),
      ctx.in(2).as<int32_t>(), cache.as<float>(), ctx.fault);
  return cudaGetLastError();
}

}  // namespace

void RegisterCachedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register("CacheWrite", RunCacheWrite);
  kernels.Register("CachedAttention", RunCachedAttention);
  kernels.Register("PagedAttention", RunPagedAttention);
  kernels.Register("CachedLatentAttention", RunCachedLatentAttention);
  kernels.Register("PagedLatentAttention", RunPagedLatentAttention);
}

}  // namespace strata::gpu
