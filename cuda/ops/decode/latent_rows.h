// What a token does between the projections of latent attention and attention
// itself (core/ops/fused_latent.h), for any number of tokens:
//
//   q  [t, heads * (nope + rope)]
//     --TurnQueries-->   its rotary columns turned
//   kv [t, rank + rope]
//     --StoreLatents-->  norm of the latent, turned rotary key: into the cache
//
// and, for up to eight tokens, in one launch with LatentQuery's product:
//
//   q, kv  --AbsorbQueries-->  q' [t, heads * (rank + rope)], cache
//
// AbsorbQueries reads W_K, `gain`, `row`, cos, sin and the tokens' count before
// the kernel ahead of it has ended, which so writes none of them, and lets the
// one behind it begin before that too (ahead.cuh).

#ifndef CUDA_OPS_DECODE_LATENT_ROWS_H_
#define CUDA_OPS_DECODE_LATENT_ROWS_H_

#include <cstdint>

#include "cuda/ops/cache/packed_format.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct LatentRowsArgs {
  Extent tokens;
  int num_heads = 1, nope = 0, rope = 0, rank = 0;
  bool interleaved = false;
  const float* cos = nullptr;  // [t, rope / 2], and of sin
  const float* sin = nullptr;
  float* q = nullptr;
  const float* kv = nullptr;
  const float* bias = nullptr;  // [rank + rope] of kv, or null.
  const float* gain = nullptr;  // [rank]
  float eps = 0;
  void* cache = nullptr;  // [slots, pitch], rows of rank + rope columns.
  // F32, or rounded, with zeros behind.
  PackedRounding stored = {PackedFormat::kF32, false};
  int64_t slots = 0, pitch = 0;  // In numbers, of a cache in codes in bytes.
  const int32_t* row = nullptr;  // [t], where in the cache; null: token i at i.
  FaultSink fault;               // kCacheRow, if there is no such row.
  // Of AbsorbQueries and BatchAbsorb (batch_absorb.h).
  float* absorbed = nullptr;
  // Of AbsorbQueries alone.
  const __nv_bfloat16* w_k = nullptr;  // [heads * nope, rank]
};

cudaError_t TurnQueries(const LatentRowsArgs& args, cudaStream_t stream);
// To no cache in codes.
cudaError_t StoreLatents(const LatentRowsArgs& args, cudaStream_t stream);

// Whether rows can be stored as AbsorbQueries and BatchAbsorb do it: codes of
// groups that are of the latent or rotary, at most 256 of them.
bool StoresLatents(const LatentRowsArgs& args);

// Whether there is a kernel: up to eight tokens; nope 32, 64, 96 or 128, rank a
// multiple of 64, rope of 2 and at most 64.
bool HasAbsorbQueries(const LatentRowsArgs& args);
cudaError_t AbsorbQueries(const LatentRowsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_LATENT_ROWS_H_
