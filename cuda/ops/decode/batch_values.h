// Pieces of latent decode attention (latent_decode.h) of a batch joined and
// multiplied by W_V, in one launch:
//
//   partial [t, heads, splits, 512], max and sum [t, heads, splits]   F32
//     |
//     |  by their shares of the sum, as join_pieces.h has it; rounded to BF16
//     v
//   [t, heads, 512]  --W_V [heads * value, 512] BF16-->  y [t, heads * value]
//                                                        BF16
//
// Latency bounds it. A head is a cluster of eight blocks, each with all tokens,
// all rows of W_V and 64 of the 512 columns that are summed over: with 16 heads
// a block a multiprocessor, and every piece is read by one block, 32 KB each,
// which are asked for at once. Clusters of four blocks with 64 rows of W_V and
// 128 columns would be as many blocks and send half of the sums, 4 KB a block
// less for 16 tokens, 16 KB for 64, but each piece would be read twice, 32 KB a
// block more. Sums are pushed to the block that stores them, so that the only
// barrier of the cluster is before the wait for earlier kernels.
//
// W_V is loaded before earlier kernels have ended (ahead.cuh), so no earlier
// kernel of the program may write it. The order of sums is fixed; what is
// multiplied is bit for bit what JoinPieces() stores.

#ifndef CUDA_OPS_DECODE_BATCH_VALUES_H_
#define CUDA_OPS_DECODE_BATCH_VALUES_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct BatchValuesArgs {
  Extent tokens;
  int num_heads = 1, splits = 1;
  int value = 0;                   // Rows of W_V of a head.
  const float* partial = nullptr;  // These as LatentDecode() leaves them.
  const float* max = nullptr;
  const float* sum = nullptr;
  const __nv_bfloat16* w = nullptr;
  __nv_bfloat16* y = nullptr;
};

// Whether there is a kernel, and it is likely the faster one: 1 to 64 tokens;
// several pieces, up to 16 of a token, 8 beyond 16 tokens, 4 beyond 32, which
// are as many as attention of more than 8 tokens has; 64 or 128 values a head;
// as many heads as have clusters that run at once; a Hopper GPU.
bool HasBatchValues(const BatchValuesArgs& args);

// Only enqueues. Returns cudaErrorInvalidValue where there is no kernel.
cudaError_t BatchValues(const BatchValuesArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_BATCH_VALUES_H_
