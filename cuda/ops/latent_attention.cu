#include <cstdint>

#include "cuda/ops/bf16/pairs.cuh"
#include "cuda/ops/bf16/with_type.h"
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
template <typename KV, typename K, typename V>
__global__ void __launch_bounds__(kBlock)
    KeyValueKernel(Extent tokens, const Columns columns, const KV* kv,
                   const float* k_rope, K* k, V* v) {
  const int64_t n = tokens.Get() * columns.num_heads;
  for (int64_t row = FirstRow(); row < n; row += RowStride()) {
    const KV* const from = kv + row * (columns.nope + columns.value);
    const float* const rotary = k_rope + row / columns.num_heads * columns.rope;
    K* const key = k + row * (columns.nope + columns.rope);
    CopyColumns(static_cast<int>(columns.nope), from, key);
    CopyColumns(static_cast<int>(columns.rope), rotary, key + columns.nope);
    CopyColumns(static_cast<int>(columns.value), from + columns.nope,
                v + row * columns.value);
  }
}

cudaError_t RunLatentKeyValue(const KernelContext& ctx) {
  const Operand& kv = ctx.in(0);
  Columns columns;
  columns.num_heads = ctx.Int("num_heads");
  columns.nope = ctx.Int("nope");
  columns.value = ctx.Int("value");
  columns.rope = ctx.in(1).dim(1);
  WithType(kv, [&](auto* kv_type) {
    WithType(ctx.out(0), [&](auto* k_type) {
      WithType(ctx.out(1), [&](auto* v_type) {
        KeyValueKernel<<<BlocksForRows(kv.dim(0) * columns.num_heads), kBlock,
                         0, ctx.stream>>>(
            kv.rows(), columns, kv.as<ElementOf<decltype(kv_type)>>(),
            ctx.in(1).as<float>(), ctx.out(0).as<ElementOf<decltype(k_type)>>(),
            ctx.out(1).as<ElementOf<decltype(v_type)>>());
      });
    });
  });
  return cudaGetLastError();
}

template <typename D>
__device__ void ZeroColumns(int n, D* to) {
  for (int c = Lane(); c < n; c += kWarp) to[c] = static_cast<D>(0.f);
}

// A block a token, a warp a head. A gradient that is null counts as zero; heads
// are summed in order.
template <typename DK, typename DV, typename DKV>
__global__ void __launch_bounds__(kBlock)
    KeyValueGradKernel(Extent tokens, const Columns columns, const DK* dk,
                       const DV* dv, DKV* dkv, float* dk_rope) {
  const int64_t t = tokens.Get();
  const int64_t width = columns.nope + columns.value;
  const int64_t key_width = columns.nope + columns.rope;
  const int nope = static_cast<int>(columns.nope);
  const int value = static_cast<int>(columns.value);
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    for (int64_t h = threadIdx.x / kWarp; h < columns.num_heads;
         h += kWarpsPerBlock) {
      const int64_t row = i * columns.num_heads + h;
      DKV* const to = dkv + row * width;
      if (dk != nullptr) {
        CopyColumns(nope, dk + row * key_width, to);
      } else {
        ZeroColumns(nope, to);
      }
      if (dv != nullptr) {
        CopyColumns(value, dv + row * columns.value, to + nope);
      } else {
        ZeroColumns(value, to + nope);
      }
    }
    for (int64_t c = threadIdx.x; c < columns.rope; c += kBlock) {
      float sum = 0;
      for (int64_t h = 0; dk != nullptr && h < columns.num_heads; ++h) {
        sum += static_cast<float>(
            dk[(i * columns.num_heads + h) * key_width + columns.nope + c]);
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
  const Operand none;
  const Operand& dk = ctx.has(0) ? ctx.in(0) : none;
  const Operand& dv = ctx.has(1) ? ctx.in(1) : none;
  WithType(dk, [&](auto* dk_type) {
    WithType(dv, [&](auto* dv_type) {
      WithType(dkv, [&](auto* dkv_type) {
        KeyValueGradKernel<<<blocks, kBlock, 0, ctx.stream>>>(
            dkv.rows(), columns, dk.as<ElementOf<decltype(dk_type)>>(),
            dv.as<ElementOf<decltype(dv_type)>>(),
            dkv.as<ElementOf<decltype(dkv_type)>>(), dk_rope.as<float>());
      });
    });
  });
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
