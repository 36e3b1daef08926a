// CUDA kernels: keys and values in fewer bits than F32, stored and attended to
// (core/ops/packed_cache.h); and rows of any cache copied.

#ifndef CUDA_OPS_CACHE_PACKED_CACHE_H_
#define CUDA_OPS_CACHE_PACKED_CACHE_H_

#include "cuda/ops/decode/latent_decode.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// As attributes say it: strata::CacheFormat, whose header .cu files cannot
// have.
enum class PackedFormat : int { kBf16 = 1, kInt8 = 2, kInt4 = 3 };

constexpr int kPackedGroup = 32;  // Columns that share a scale.

// Codes of a group, and those with its scale.
constexpr int PackedCodeBytes(PackedFormat format) {
  return format == PackedFormat::kBf16   ? 2 * kPackedGroup
         : format == PackedFormat::kInt8 ? kPackedGroup
                                         : kPackedGroup / 2;
}
constexpr int PackedGroupBytes(PackedFormat format) {
  return PackedCodeBytes(format) + (format == PackedFormat::kBf16 ? 0 : 2);
}

void RegisterPackedCacheKernels(KernelRegistry& kernels);
void RegisterPackedAttentionKernels(KernelRegistry& kernels);

// PackedAttention, which a composite operator takes as a part; and what it
// attends with over latents in BF16 in the tensor cores, as ReadCachedLatents()
// (cached_attention.h).
cudaError_t RunPackedAttention(const KernelContext& ctx);
cudaError_t ReadPackedLatents(const KernelContext& ctx, LatentDecodeArgs& args);

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_CACHE_H_
