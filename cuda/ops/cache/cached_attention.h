// CUDA kernels: attention over caches, in rows and in blocks.

#ifndef CUDA_OPS_CACHE_CACHED_ATTENTION_H_
#define CUDA_OPS_CACHE_CACHED_ATTENTION_H_

#include "cuda/ops/decode/latent_decode.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterCachedAttentionKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunCachedAttention(const KernelContext& ctx);
cudaError_t RunPagedAttention(const KernelContext& ctx);
// The same where earlier kernels write no keys but a step's own, as
// DecodeAttentionArgs::old_keys_stay has it.
cudaError_t RunCachedAttentionAhead(const KernelContext& ctx);
cudaError_t RunPagedAttentionAhead(const KernelContext& ctx);
cudaError_t RunCachedLatentAttention(const KernelContext& ctx);
cudaError_t RunPagedLatentAttention(const KernelContext& ctx);

// What the last two attend with in the tensor cores, with scratch for pieces;
// where results go is left open.
cudaError_t ReadCachedLatents(const KernelContext& ctx, LatentDecodeArgs& args);
cudaError_t ReadPagedLatents(const KernelContext& ctx, LatentDecodeArgs& args);

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_CACHED_ATTENTION_H_
