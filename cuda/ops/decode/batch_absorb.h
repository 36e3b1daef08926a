// What a batch's tokens do between the projections of latent attention and
// attention itself, in one launch: AbsorbQueries (latent_rows.h) for up to 64
// tokens, with the product in Hopper's tensor cores.
//
//   q [t, heads * (nope + rope)] F32
//     |
//     |  of each head: nope columns in BF16 by W_K^T [rank, nope],
//     |  rope columns turned
//     v
//   absorbed [t, heads * (rank + rope)] F32
//
//   kv [t, rank + rope]  --norm of the latent, turned rotary key-->  cache
//
// W_K^T and `gain` are loaded before earlier kernels have ended (ahead.cuh), so
// no earlier kernel of the program may write them. Sums are F32, over nope in
// order.

#ifndef CUDA_OPS_DECODE_BATCH_ABSORB_H_
#define CUDA_OPS_DECODE_BATCH_ABSORB_H_

#include "cuda/ops/decode/latent_rows.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether there is a kernel: 1 to 64 tokens; nope a multiple of 64 and at most
// 512, rank a multiple of 64, rope of 4 and at most 512; q aligned to 16 bytes;
// a Hopper GPU.
bool HasBatchAbsorb(const LatentRowsArgs& args);

// `w` is W_K^T [heads * rank, nope], aligned to 16 bytes. Only enqueues.
// Returns cudaErrorInvalidValue where there is no kernel.
cudaError_t BatchAbsorb(const LatentRowsArgs& args, const __nv_bfloat16* w,
                        cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_BATCH_ABSORB_H_
