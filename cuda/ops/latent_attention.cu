#include <cstdint>

#include "cuda/ops/blas.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/latent_attention.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// Columns of a head: core/ops/attention.h, core/ops/absorbed_attention.h.
struct Columns {
  int64_t num_heads = 1, nope = 0, rope = 0, value = 0;
};

// k [t, heads * (nope + rope)] and v [t, heads * value], a warp a head of a
// token.
__global__ void __launch_bounds__(kBlock)
    KeyValueKernel(Extent tokens, const Columns columns, const float* kv,
                   const float* k_rope, float* k, float* v) {
  const int64_t n = tokens.Get() * columns.num_heads;
  for (int64_t row = FirstRow(); row < n; row += RowStride()) {
    const float* const from = kv + row * (columns.nope + columns.value);
    const float* const rotary = k_rope + row / columns.num_heads * columns.rope;
    float* const key = k + row * (columns.nope + columns.rope);
    for (int64_t c = Lane(); c < columns.nope; c += kWarp) key[c] = from[c];
    for (int64_t c = Lane(); c < columns.rope; c += kWarp) {
      key[columns.nope + c] = rotary[c];
    }
    for (int64_t c = Lane(); c < columns.value; c += kWarp) {
      v[row * columns.value + c] = from[columns.nope + c];
    }
  }
}

cudaError_t RunLatentKeyValue(const KernelContext& ctx) {
  const Operand& kv = ctx.in(0);
  Columns columns;
  columns.num_heads = ctx.Int("num_heads");
  columns.nope = ctx.Int("nope");
  columns.value = ctx.Int("value");
  columns.rope = ctx.in(1).dim(1);
  KeyValueKernel<<<BlocksForRows(kv.dim(0) * columns.num_heads), kBlock, 0,
                   ctx.stream>>>(kv.rows(), columns, kv.as<float>(),
                                 ctx.in(1).as<float>(), ctx.out(0).as<float>(),
                                 ctx.out(1).as<float>());
  return cudaGetLastError();
}

// A block a token. A gradient that is null counts as zero; heads are summed in
// order.
__global__ void __launch_bounds__(kBlock)
    KeyValueGradKernel(Extent tokens, const Columns columns, const float* dk,
                       const float* dv, float* dkv, float* dk_rope) {
  const int64_t t = tokens.Get();
  const int64_t width = columns.nope + columns.value;
  const int64_t key_width = columns.nope + columns.rope;
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    for (int64_t at = threadIdx.x; at < columns.num_heads * width;
         at += kBlock) {
      const int64_t row = i * columns.num_heads + at / width;
      const int64_t c = at % width;
      float d = 0;
      if (c < columns.nope) {
        if (dk != nullptr) d = dk[row * key_width + c];
      } else if (dv != nullptr) {
        d = dv[row * columns.value + c - columns.nope];
      }
      dkv[row * width + c] = d;
    }
    for (int64_t c = threadIdx.x; c < columns.rope; c += kBlock) {
      float sum = 0;
      for (int64_t h = 0; dk != nullptr && h < columns.num_heads; ++h) {
        sum += dk[(i * columns.num_heads + h) * key_width + columns.nope + c];
      }
      dk_rope[i * columns.rope + c] = sum;
    }
  }
}

cudaError_t RunLatentKeyValueGrad(const KernelContext& ctx) {
  const Operand& dkv = ctx.out(0);
  const Operand& dk_rope = ctx.out(1);
  Columns columns;
  columns.num_heads = ctx.Int("num_heads");
  columns.nope = ctx.Int("nope");
  columns.value = ctx.Int("value");
  columns.rope = dk_rope.dim(1);
  const auto blocks =
      static_cast<unsigned>(std::clamp<int64_t>(dkv.dim(0), 1, kMaxBlocks));
  KeyValueGradKernel<<<blocks, kBlock, 0, ctx.stream>>>(
      dkv.rows(), columns, ctx.has(0) ? ctx.in(0).as<float>() : nullptr,
      ctx.has(1) ? ctx.in(1).as<float>() : nullptr, dkv.as<float>(),
      dk_rope.as<float>());
  return cudaGetLastError();
}

// The rotary columns of each head of q, to those of q'.
__global__ void __launch_bounds__(kBlock)
    CopyRotaryKernel(Extent tokens, const Columns columns, int64_t rank,
                     const float* q, float* out) {
  const int64_t n = tokens.Get() * columns.num_heads * columns.rope;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t row = i / columns.rope, c = i % columns.rope;
    out[row * (rank + columns.rope) + rank + c] =
        q[row * (columns.nope + columns.rope) + columns.nope + c];
  }
}

// Of each head q_nope W_K beside the rotary columns: one product a head.
}  // namespace

cudaError_t RunLatentQuery(const KernelContext& ctx) {
  const Operand& q = ctx.in(0);
  const Operand& kv_b = ctx.in(1);
  Columns columns;
  columns.num_heads = ctx.Int("num_heads");
  columns.nope = ctx.Int("nope");
  columns.rope = ctx.Int("rope");
  columns.value = ctx.Int("value");
  const int64_t rank = kv_b.dim(1);
  float* const out = ctx.out(0).as<float>();
  if (q.dim(0) == 0) return cudaSuccess;
  if (columns.rope > 0) {
    CopyRotaryKernel<<<BlocksFor(q.dim(0) * columns.num_heads * columns.rope),
                       kBlock, 0, ctx.stream>>>(q.rows(), columns, rank,
                                                q.as<float>(), out);
    if (const cudaError_t error = cudaGetLastError(); error) return error;
  }
  GemmArgs args;
  args.m = q.dim(0);
  args.n = rank;
  args.k = columns.nope;
  args.a = q.data;
  args.lda = q.dim(1);
  args.stride_a = columns.nope + columns.rope;
  args.b = kv_b.data;
  args.ldb = rank;
  args.stride_b = (columns.nope + columns.value) * rank;
  args.c = out;
  args.ldc = ctx.out(0).dim(1);
  args.stride_c = rank + columns.rope;
  args.batch = columns.num_heads;
  return Gemm(ctx, args);
}

namespace {

// Of each head o' W_V^T.
}  // namespace

cudaError_t RunLatentOutput(const KernelContext& ctx) {
  const Operand& o = ctx.in(0);
  const Operand& kv_b = ctx.in(1);
  const int64_t nope = ctx.Int("nope"), value = ctx.Int("value");
  const int64_t rank = kv_b.dim(1);
  if (o.dim(0) == 0) return cudaSuccess;
  GemmArgs args;
  args.transpose_b = true;
  args.m = o.dim(0);
  args.n = value;
  args.k = rank;
  args.a = o.data;
  args.lda = o.dim(1);
  args.stride_a = rank;
  args.b = kv_b.as<float>() + nope * rank;
  args.ldb = rank;
  args.stride_b = (nope + value) * rank;
  args.c = ctx.out(0).as<float>();
  args.ldc = ctx.out(0).dim(1);
  args.stride_c = value;
  args.batch = ctx.Int("num_heads");
  return Gemm(ctx, args);
}

namespace {}  // namespace

void RegisterLatentAttentionKernels(KernelRegistry& kernels) {
  kernels.Register("LatentKeyValue", RunLatentKeyValue);
  kernels.Register("LatentKeyValueGrad", RunLatentKeyValueGrad);
  kernels.Register("LatentQuery", RunLatentQuery);
  kernels.Register("LatentOutput", RunLatentOutput);
}

}  // namespace strata::gpu
