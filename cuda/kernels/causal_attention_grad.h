// Gradients of causal attention (causal_attention.h), in BF16 with F32 sums, in
// Hopper's tensor cores:
//
//   p  = exp(scale q k^T - lse)      ds = scale p (dout v^T - delta)
//   dq = ds k      dk = ds^T q      dv = p^T dout
//
// Scores are made twice, once for dq and once for dk and dv, so that each
// result is a sum in a fixed order, without atomics.

#ifndef CUDA_KERNELS_CAUSAL_ATTENTION_GRAD_H_
#define CUDA_KERNELS_CAUSAL_ATTENTION_GRAD_H_

#include <cstdint>

#include "cuda/kernels/causal_attention.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Rows of q, k, v and dout from the last token to the bound must be finite.
struct CausalAttentionGradArgs : CausalAttentionShape {
  const __nv_bfloat16* dout = nullptr;  // [t, heads * value_dim]
  const float* lse = nullptr;           // [t, heads]
  const float* delta = nullptr;         // [t, heads], dot(dout, o)
  float* stats = nullptr;   // Scratch: AttentionStatsFloats(), 16-byte aligned.
  void* dq = nullptr;       // [t, heads * key_dim]
  void* dk = nullptr;       // [t, kv_heads * key_dim]
  void* dv = nullptr;       // [t, kv_heads * value_dim]
  bool bf16_grads = false;  // These three; else F32.
};

// Whether heads of these sizes have a kernel: multiples of 8, up to 192 columns
// of a key and 128 of a value.
bool HasCausalAttentionGrad(int64_t key_dim, int64_t value_dim);

int64_t AttentionStatsFloats(int64_t tokens, int64_t num_heads);

// Only enqueues. Returns cudaErrorNotSupported where the GPU is no Hopper, and
// cudaErrorInvalidValue for other sizes.
cudaError_t CausalAttentionGrad(const CausalAttentionGradArgs& args,
                                cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_CAUSAL_ATTENTION_GRAD_H_
