// Attention of single tokens over a cache of latents in Hopper's tensor cores,
// split over the keys: what a step of decoding does in each layer with latent
// attention in absorbed form (core/ops/absorbed_attention.h).
//
//   q [t, heads * 576] F32 or BF16, cache [slots, 576] F32, BF16 or in codes
//     |
//     |  pieces of a token's keys, 64 heads of it to a block; operands are
//     |  rounded to BF16, sums are F32
//     v
//   partial [t, heads, splits, 512], max and sum [t, heads, splits]
//     |
//     |  joined, where there are several
//     v
//   o [t, heads * 512] F32 or BF16
//
// A key's first 512 columns are its value. Token i sees keys 0 .. position[i]
// of its sequence, with a window the last `window` of them. 128 heads do 242
// operations for each byte of a BF16 cache, so both bound it; 16 heads are
// bound by bytes.

#ifndef CUDA_OPS_DECODE_LATENT_DECODE_H_
#define CUDA_OPS_DECODE_LATENT_DECODE_H_

#include <cstdint>

#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/latent_shape.h"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct LatentDecodeArgs {
  Extent tokens;
  int num_heads = 1;
  float scale = 1;
  int64_t window = 0;    // 0: none.
  int64_t max_keys = 0;  // That a token may see.
  const float* q = nullptr;
  // In place of q, with a BF16 cache: nothing is left to round, so that the
  // copy engine brings them while the last token's results are stored.
  const __nv_bfloat16* bf16_q = nullptr;
  const void* cache = nullptr;
  PackedFormat format = PackedFormat::kF32;  // Of the cache.
  CachePlaces places;
  // With one piece: the first unused, the others too.
  float* partial = nullptr;  // LatentPieces() * 512 floats.
  float* max = nullptr;      // LatentPieces() floats.
  float* sum = nullptr;      // The same.
  float* o = nullptr;
  __nv_bfloat16* rounded = nullptr;  // In place of o.
  bool join = true;  // False: several pieces are left for others to join.
  // Earlier kernels that may still run write no rows of the cache but those of
  // the last tokens.bound keys that a token sees, nor what says where keys lie
  // and how many tokens there are: then other keys, those of a piece's first
  // tiles, are loaded before they have ended (ahead.cuh).
  bool old_keys_stay = false;
  FaultSink fault;  // kCacheRow, where keys are not in the cache.
};

// Whether latents of `rank` and `width` columns have it on this GPU.
bool HasLatentDecode(int64_t rank, int64_t width);

// Pieces that a token's keys are cut into, and those of all tokens and heads.
int LatentSplits(const LatentDecodeArgs& args);
int64_t LatentPieces(const LatentDecodeArgs& args);

// Only enqueues.
cudaError_t LatentDecode(const LatentDecodeArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_LATENT_DECODE_H_
