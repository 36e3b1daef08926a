// Latent decode attention (latent_decode.h) of a few tokens together with the
// product by W_V that follows it, in one launch: a cluster of 16 blocks has 16
// heads of a token.
//
//   q [t, heads * 576] F32     cache [slots, 576] F32, BF16 or codes
//     |
//     |  a block has a sixteenth of the token's keys, and all 16 heads
//     v
//   o of a sixteenth [16, 512], largest scores, sums
//     |
//     |  in BF16 from shared memory to shared memory by the copy engine: each
//     |  block gets those of 16 blocks of one head
//     v
//   [16, 512] of a head  --W_V [value, 512] BF16-->  [16, value], joined by
//                                                    their shares:
//                                                    y [t, heads * value] F32
//
// Keys and W_V are loaded before earlier kernels have ended (ahead.cuh). The
// two kernels just before this one may write q, and of the cache what they add:
// the keys of the last tokens.bound positions that a token sees. They and what
// may run beside them write no other rows, nor W_V, nor what says where keys
// lie and how many tokens there are.

#ifndef CUDA_OPS_DECODE_LATENT_VALUES_H_
#define CUDA_OPS_DECODE_LATENT_VALUES_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct LatentValuesArgs {
  LatentDecodeArgs attend;  // Without results and room for pieces.
  PackedRows w;             // W_V [heads * value, 512], in BF16.
  int64_t value = 0;        // Rows of a head.
  float* y = nullptr;       // [t, heads * value]
};

// Whether there is a kernel, and it is likely the faster one: Hopper, a cache
// of 576 columns, heads in whole clusters, as many clusters as run at once;
// value a multiple of 16, at most 128; not too many keys.
bool HasLatentValues(const LatentValuesArgs& args);
cudaError_t LatentValues(const LatentValuesArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_LATENT_VALUES_H_
