// Decode attention (cuda/ops/heads/decode_attention.h) over keys and values in
// INT8 or INT4: bound by reading each once, 34 or 18 bytes for 32 columns.

#ifndef CUDA_OPS_CACHE_PACKED_DECODE_H_
#define CUDA_OPS_CACHE_PACKED_DECODE_H_

#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether such heads have a kernel: of 64, 128 or 256 columns, at most eight
// query heads a KV head.
bool HasPackedDecode(const DecodeAttentionArgs& args);

// As DecodeAttention(), of k and v [slots, kv_heads * CacheHeadBytes] that
// start at multiples of eight bytes; bf16_cache does not count. Only enqueues;
// cudaErrorInvalidValue for other heads and for BF16.
cudaError_t PackedDecode(const DecodeAttentionArgs& args, PackedFormat format,
                         cudaStream_t stream);

// The same by the tensor cores (packed_loop.cuh), whose operands are bytes: q
// and weights are rounded by 2^-17 of the largest of a head, and of a group of
// 32 keys' values.
//
// PackedHeadsOfBlock() is what args.kv_heads_of_block had best be, which
// DecodePieces() depends on: that, or one.
int PackedHeadsOfBlock(const DecodeAttentionArgs& args, PackedFormat format);
cudaError_t PackedDecodeInBytes(const DecodeAttentionArgs& args,
                                PackedFormat format, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_DECODE_H_
