// A piece of work is one head of one sequence: its keys transposed once, then
// blocks of queries by all of them.

#include "core/cpu/attend/full_attention.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/vector_math.h"
#include "core/ops/full_attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunFullAttention(const KernelContext& ctx) {
  const AttentionSizes sizes(ctx.attrs(), ctx.in(0), ctx.in(2));
  const int64_t t = ctx.in(0).dim(0);
  const T* const q = ctx.in(0).as<T>();                  // [t, ld_q]
  const T* const k = ctx.in(1).as<T>();                  // [t, ld_k]
  const T* const v = ctx.in(2).as<T>();                  // [t, ld_v]
  const int32_t* const start = ctx.in(3).as<int32_t>();  // [count + 1]
  T* const o = ctx.out(0).as<T>();                       // [t, ld_o]
  const int64_t count = ctx.in(3).dim(0) - 1;
  int64_t longest = 0;
  for (int64_t s = 0; s < count; ++s) {
    longest = std::max<int64_t>(longest, start[s + 1] - start[s]);
    if (start[s] >= 0 && start[s] <= start[s + 1]) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", s, " has rows ", start[s], " to ",
                     start[s + 1], "; want them in order"));
  }
  if (start[0] != 0 || start[count] != t) {
    return absl::InvalidArgumentError(
        absl::StrCat("seq_start runs from ", start[0], " to ", start[count],
                     "; want 0 to ", t, ", the rows of q"));
  }
  const int64_t k_size = TransposedSize(longest, sizes.key_dim);
  const int64_t worker_size = k_size + kAttentionBlock * PaddedKeys(longest);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * worker_size);
  ctx.pool.ParallelFor(count * sizes.num_heads, [&](int64_t index, int worker) {
    const int64_t head = index % sizes.num_heads;
    const int64_t kv_head = head / sizes.group;
    const int64_t begin = start[index / sizes.num_heads];
    const int64_t keys = start[index / sizes.num_heads + 1] - begin;
    T* const transposed_k = scratch + worker * worker_size;
    T* const score = transposed_k + k_size;
    TransposeKeys(keys, sizes.key_dim,
                  k + begin * sizes.ld_k + kv_head * sizes.key_dim, sizes.ld_k,
                  transposed_k);
    for (int64_t i = 0; i < keys; i += kAttentionBlock) {
      const int64_t rows = std::min(kAttentionBlock, keys - i);
      RowsByKeys(rows, keys, sizes.key_dim,
                 q + (begin + i) * sizes.ld_q + head * sizes.key_dim,
                 sizes.ld_q, transposed_k, score);
      for (int64_t r = 0; r < rows; ++r) {
        T* const row = score + r * PaddedKeys(keys);
        VectorMath<T>::Get().softmax(row, static_cast<T>(sizes.scale), keys,
                                     row);
      }
      SumOverKeys(
          rows, keys, sizes.value_dim, score,
          v + begin * sizes.ld_v + kv_head * sizes.value_dim, sizes.ld_v,
          o + (begin + i) * sizes.ld_o + head * sizes.value_dim, sizes.ld_o);
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterFullAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kFullAttention, DType::kF32, RunFullAttention<float>);
  kernels.Register(kFullAttention, DType::kF64, RunFullAttention<double>);
}

}  // namespace strata
