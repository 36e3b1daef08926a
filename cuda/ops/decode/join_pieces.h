// What attention over pieces of a token's keys has come to, joined: the second
// half of latent decode attention.
//
//   partial [t, heads, splits, dim], max and sum [t, heads, splits]
//     |
//     |  by their shares of the sum
//     v
//   o [t, heads, dim] F32, or rounded to BF16

#ifndef CUDA_OPS_DECODE_JOIN_PIECES_H_
#define CUDA_OPS_DECODE_JOIN_PIECES_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int64_t kMaxPieces = 64;

struct JoinArgs {
  Extent tokens;
  int num_heads = 1, splits = 1;   // At most kMaxPieces.
  int dim = 0;                     // A multiple of 4.
  const float* partial = nullptr;  // Not yet divided by their sums.
  const float* max = nullptr;      // Largest scores, for powers of 2.
  const float* sum = nullptr;      // Of powers of 2 of scores less `max`.
  float* o = nullptr;
  __nv_bfloat16* rounded = nullptr;  // In place of o.
};

// Only enqueues.
cudaError_t JoinPieces(const JoinArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_JOIN_PIECES_H_
