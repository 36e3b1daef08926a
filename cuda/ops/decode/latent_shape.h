// Columns of latents that kernels of decoding are made for.

#ifndef CUDA_OPS_DECODE_LATENT_SHAPE_H_
#define CUDA_OPS_DECODE_LATENT_SHAPE_H_

namespace strata::gpu {

constexpr int kLatentRank = 512;   // DeepSeek-V2's and V3's.
constexpr int kLatentWidth = 576;  // With 64 rotary columns.

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_LATENT_SHAPE_H_
