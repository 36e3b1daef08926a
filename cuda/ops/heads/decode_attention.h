// Attention of single tokens over caches of keys and values, split over the
// keys: what a step of decoding does for each sequence.
//
//   q [t, heads * dim] F32    k, v [slots, kv_heads * dim] F32 or BF16
//     |
//     |  pieces of a token's keys: a block each, their results unfinished
//     v
//   partial [t, heads, splits, dim], max and sum [t, heads, splits]
//     |
//     |  joined by the block that is the last one of a token's KV head to end
//     v
//   o [t, heads * dim] F32
//
// Token i sees keys 0 .. position[i] of its sequence, with a window the last
// `window` of them. Bound by reading each key and value that is seen once; for
// few tokens by what a launch waits for (docs/performance_kernels.md). Arrays
// of floats and of keys and values start at multiples of 16 bytes.

#ifndef CUDA_OPS_HEADS_DECODE_ATTENTION_H_
#define CUDA_OPS_HEADS_DECODE_ATTENTION_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Where key j of token i lies in the cache: row first_row[i] + j, or with a
// table row j % block_size of block table[sequence[i], j / block_size].
struct CachePlaces {
  const int32_t* position = nullptr;   // [t]
  int64_t slots = 0;                   // Rows of the caches.
  const int32_t* first_row = nullptr;  // [t], if there is no table.
  const int32_t* table = nullptr;      // [table_rows, max_blocks]
  int64_t table_rows = 0, max_blocks = 0, block_size = 1;
  const int32_t* sequence = nullptr;  // [t]
};

// That a token may see.
inline int64_t MaxKeys(const CachePlaces& places) {
  return places.table != nullptr ? places.max_blocks * places.block_size
                                 : places.slots;
}

struct DecodeAttentionArgs {
  Extent tokens;
  int num_heads = 1, num_kv_heads = 1, dim = 0;
  int kv_heads_of_block = 1;  // More: PackedDecodeInBytes() alone.
  float scale = 1;
  int64_t window = 0;    // 0: none.
  int64_t max_keys = 0;  // That a token may see.
  const float* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  bool bf16_cache = false;
  CachePlaces places;
  // Earlier kernels that may still run write no rows of the caches but those of
  // the last tokens.bound keys that a token sees, nor what says where keys lie
  // and how many tokens there are: then pieces of other keys are loaded before
  // they have ended (ahead.cuh).
  bool old_keys_stay = false;
  float* partial = nullptr;  // DecodePieces() * dim floats.
  float* max = nullptr;      // DecodePieces() floats.
  float* sum = nullptr;      // The same.
  // DecodeCounters() zeros, which are zeros again when the launch has ended;
  // launches that share them, or pieces, follow one another.
  int32_t* ended = nullptr;
  float* o = nullptr;
  FaultSink fault;  // kCacheRow, where keys are not in the cache.
};

// Whether such heads have a kernel: rows of 128, 256 or 512 bytes, at most
// eight query heads a KV head.
bool HasDecodeAttention(const DecodeAttentionArgs& args);

// Pieces [t, heads, splits] that the args, without pointers, are cut into.
int64_t DecodePieces(const DecodeAttentionArgs& args);

// Counters [t, kv_heads] that they are joined by.
int64_t DecodeCounters(const DecodeAttentionArgs& args);

// Only enqueues; cudaErrorInvalidValue for other heads.
cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_HEADS_DECODE_ATTENTION_H_
