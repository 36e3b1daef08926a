// CUDA kernels: keys and values in fewer bits than F32, stored and attended to
// (core/ops/packed_cache.h); and rows of any cache copied.

#ifndef CUDA_OPS_CACHE_PACKED_CACHE_H_
#define CUDA_OPS_CACHE_PACKED_CACHE_H_

#include <cstdint>

#include "cuda/ops/cache/packed_format.h"  // IWYU pragma: export
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterPackedCacheKernels(KernelRegistry& kernels);
void RegisterPackedAttentionKernels(KernelRegistry& kernels);

// Rounds rows [t, n] of `num_heads` heads to the slots of a cache that `row`
// [t] says: PackedCacheWrite.
cudaError_t WritePacked(const KernelContext& ctx, const Operand& cache,
                        const Operand& rows, const Operand& row,
                        int64_t num_heads, const PackedRounding& rounding);

// PackedAttention, which a composite operator takes as a part; the same where
// earlier kernels write no keys but a step's own, as
// DecodeAttentionArgs::old_keys_stay has it; and what it attends with over
// latents in the tensor cores, as ReadCachedLatents() (cached_attention.h).
cudaError_t RunPackedAttention(const KernelContext& ctx);
cudaError_t RunPackedAttentionAhead(const KernelContext& ctx);
cudaError_t ReadPackedLatents(const KernelContext& ctx, LatentDecodeArgs& args);

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_CACHE_H_
