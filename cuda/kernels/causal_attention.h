// Causal attention over packed sequences, in BF16 with F32 sums, in Hopper's
// tensor cores: o = softmax(scale q k^T) v of each head, where a token sees the
// tokens of its sequence up to itself (with a window, the last `window`).
//
//   q [t, heads * key_dim]   k [t, kv_heads * key_dim]   v [t, kv_heads *
//   value_dim]     |
//     |  online softmax: scores are never in memory
//     v
//   o [t, heads * value_dim]   lse [t, heads]: log(sum(exp(scale q k^T)))
//
// Query head h attends with KV head h / (heads / kv_heads). Sequence s has the
// tokens seq_start[s] .. seq_start[s + 1] - 1. Rows of v from the last token to
// the bound must be finite: they are multiplied by zero.

#ifndef CUDA_KERNELS_CAUSAL_ATTENTION_H_
#define CUDA_KERNELS_CAUSAL_ATTENTION_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// What both directions take.
struct CausalAttentionShape {
  Extent tokens;
  int num_heads = 1, num_kv_heads = 1;
  int key_dim = 0, value_dim = 0;
  float scale = 1;
  int window = 0;                      // 0: none.
  const int32_t* seq_start = nullptr;  // [num_sequences + 1], from 0 to t
  int num_sequences = 0;
  const __nv_bfloat16* q = nullptr;
  const __nv_bfloat16* k = nullptr;
  const __nv_bfloat16* v = nullptr;
};

struct CausalAttentionArgs : CausalAttentionShape {
  void* o = nullptr;  // F32 or BF16
  bool bf16_o = false;
  float* lse = nullptr;
};

// Whether heads of these sizes have a kernel: multiples of 8, values up to 128
// columns, keys up to 128, or up to 192 beside values of more than 64.
bool HasCausalAttention(int64_t key_dim, int64_t value_dim);

// Only enqueues. Returns cudaErrorNotSupported where the GPU is no Hopper, and
// cudaErrorInvalidValue for other sizes.
cudaError_t CausalAttention(const CausalAttentionArgs& args,
                            cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_CAUSAL_ATTENTION_H_
