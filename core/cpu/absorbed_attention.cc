#include "core/cpu/absorbed_attention.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/ops/absorbed_attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Up to so many tokens a product reads kv_b once from memory and is bound by
// that, so each token is a sum of rows or some dots; a token then rounds the
// same whatever comes with it.
constexpr int64_t kMaxFewTokens = 8;

// One piece of work is one head: q_nope W_K beside the rotary part.
template <typename T>
absl::Status RunLatentQuery(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), ld_q = ctx.in(0).dim(1);
  const int64_t rank = ctx.in(1).dim(1), ld_out = ctx.out(0).dim(1);
  const int64_t num_heads = ctx.attrs().Int("num_heads");
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t rope = ctx.attrs().Int("rope");
  const int64_t value = ctx.attrs().Int("value");
  const T* const q = ctx.in(0).as<T>();     // [t, heads * (nope + rope)]
  const T* const kv_b = ctx.in(1).as<T>();  // [heads * (nope + value), rank]
  T* const out = ctx.out(0).as<T>();        // [t, heads * (rank + rope)]
  ctx.pool.ParallelFor(num_heads, [&](int64_t head) {
    const T* const from = q + head * (nope + rope);
    const T* const w = kv_b + head * (nope + value) * rank;
    T* const to = out + head * (rank + rope);
    for (int64_t i = 0; i < t; ++i) {
      std::copy_n(from + i * ld_q + nope, rope, to + i * ld_out + rank);
    }
    if (t > kMaxFewTokens) {
      GemmArgs<T> g;
      g.m = t;
      g.n = rank;
      g.k = nope;
      g.a = from;
      g.lda = ld_q;
      g.b = w;
      g.ldb = rank;
      g.c = to;
      g.ldc = ld_out;
      Gemm(g);
      return;
    }
    for (int64_t i = 0; i < t; ++i) std::fill_n(to + i * ld_out, rank, T{0});
    for (int64_t j = 0; j < nope; ++j) {
      for (int64_t i = 0; i < t; ++i) {
        vec.axpy(from[i * ld_q + j], w + j * rank, rank, to + i * ld_out);
      }
    }
  });
  return absl::OkStatus();
}

// One piece of work is one head: o' W_V^T.
template <typename T>
absl::Status RunLatentOutput(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), ld_o = ctx.in(0).dim(1);
  const int64_t rank = ctx.in(1).dim(1), ld_out = ctx.out(0).dim(1);
  const int64_t num_heads = ctx.attrs().Int("num_heads");
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t value = ctx.attrs().Int("value");
  const T* const o = ctx.in(0).as<T>();     // [t, heads * rank]
  const T* const kv_b = ctx.in(1).as<T>();  // [heads * (nope + value), rank]
  T* const out = ctx.out(0).as<T>();        // [t, heads * value]
  ctx.pool.ParallelFor(num_heads, [&](int64_t head) {
    const T* const from = o + head * rank;
    const T* const w = kv_b + (head * (nope + value) + nope) * rank;
    T* const to = out + head * value;
    if (t > kMaxFewTokens) {
      GemmArgs<T> g;
      g.transpose_b = true;
      g.m = t;
      g.n = value;
      g.k = rank;
      g.a = from;
      g.lda = ld_o;
      g.b = w;
      g.ldb = rank;
      g.c = to;
      g.ldc = ld_out;
      Gemm(g);
      return;
    }
    for (int64_t j = 0; j < value; ++j) {
      for (int64_t i = 0; i < t; ++i) {
        to[i * ld_out + j] = vec.dot(from + i * ld_o, w + j * rank, rank);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterAbsorbedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kLatentQuery, DType::kF32, RunLatentQuery<float>);
  kernels.Register(kLatentQuery, DType::kF64, RunLatentQuery<double>);
  kernels.Register(kLatentOutput, DType::kF32, RunLatentOutput<float>);
  kernels.Register(kLatentOutput, DType::kF64, RunLatentOutput<double>);
}

}  // namespace strata
