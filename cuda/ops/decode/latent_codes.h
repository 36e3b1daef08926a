// Latent decode attention (latent_decode.h) over a cache in codes.

#ifndef CUDA_OPS_DECODE_LATENT_CODES_H_
#define CUDA_OPS_DECODE_LATENT_CODES_H_

#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda_runtime_api.h"

namespace strata::gpu::latent {

// Of `args` without a map, as LatentDecode() has them. Only enqueues.
cudaError_t LaunchCodes(const Args& args, PackedFormat format,
                        cudaStream_t stream);

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_CODES_H_
