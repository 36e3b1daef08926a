// What a token does between the projections of attention and attention itself
// (core/ops/fused_attention.h), for any number of tokens, in one launch:
//
//   q [t, heads * dim]         --bias, norm of heads, rotary columns--> q'
//   k [t, kv_heads * dim]      --the same--> its row of the cache
//   v [t, kv_heads * value]    --bias--> its row of the cache
//
// Caches are floats, or packed rows, to which heads are rounded.
// It begins before the kernel ahead has ended (ahead.cuh), and lets the one
// behind it begin.

#ifndef CUDA_OPS_DECODE_HEAD_ROWS_H_
#define CUDA_OPS_DECODE_HEAD_ROWS_H_

#include <cstdint>

#include "cuda/ops/cache/packed_format.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Rows of one projection.
struct HeadRows {
  const float* x = nullptr;  // [t, heads * dim]
  int heads = 0, dim = 0;
  const float* bias = nullptr;  // [heads * dim], or null.
  const float* gain = nullptr;  // [dim]: heads are normalised; or null.
  bool turns = false;
  float* y = nullptr;         // [rows, heads * dim]; or null, and
  uint8_t* packed = nullptr;  // [rows, heads of `rounding`'s format]
};

struct StoreHeadsArgs {
  Extent tokens;
  HeadRows part[3];  // Queries, keys and values.
  float eps = 0;     // Of the norm of heads.
  // Of the last 2 * half columns of a head, [t, half].
  const float* cos = nullptr;
  const float* sin = nullptr;
  int half = 0;
  bool interleaved = false;
  // Where keys and values go: rows of the caches, of which there are `slots`.
  const int32_t* row = nullptr;
  int64_t slots = 0;
  PackedRounding rounding;  // Of packed caches.
  FaultSink fault;          // kCacheRow, if there is no such row.
};

// Only enqueues.
cudaError_t StoreHeads(const StoreHeadsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_HEAD_ROWS_H_
