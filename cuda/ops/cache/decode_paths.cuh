// What operators of attention over caches share: where keys lie, and the
// kernels of decoding that stand beside the plain one (cached_rows.cuh), as
// operators take them: with scratch, of the same args.

#ifndef CUDA_OPS_CACHE_DECODE_PATHS_CUH_
#define CUDA_OPS_CACHE_DECODE_PATHS_CUH_

#include <cstdint>

#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// Where keys lie, of an operator's inputs: in rows, or in the blocks of a
// table.
inline CachePlaces RowPlaces(const Operand& first_row, const Operand& position,
                             int64_t slots) {
  CachePlaces places;
  places.first_row = first_row.as<int32_t>();
  places.position = position.as<int32_t>();
  places.slots = slots;
  return places;
}
inline CachePlaces BlockPlaces(const Operand& table, int64_t block_size,
                               const Operand& sequence, const Operand& position,
                               int64_t slots) {
  CachePlaces places;
  places.table = table.as<int32_t>();
  places.table_rows = table.dim(0);
  places.max_blocks = table.dim(1);
  places.block_size = block_size;
  places.sequence = sequence.as<int32_t>();
  places.position = position.as<int32_t>();
  places.slots = slots;
  return places;
}

// Attention over keys and values of one width, without room for pieces; and
// room for them, of which false says that there is none.
template <typename Args>
DecodeAttentionArgs DecodeHeads(const KernelContext& ctx, const Args& cached,
                                int64_t num_kv_heads) {
  DecodeAttentionArgs args;
  args.tokens = cached.tokens;
  args.num_heads = cached.num_heads;
  args.num_kv_heads = static_cast<int>(num_kv_heads);
  args.dim = cached.sizes.key_dim;
  args.scale = cached.sizes.scale;
  args.window = cached.window;
  args.max_keys = MaxKeys(cached.places);
  args.q = cached.q;
  args.k = cached.k.data;
  args.v = cached.v.data;
  args.places = cached.places;
  args.o = ctx.out(0).as<float>();
  args.fault = cached.fault;
  return args;
}
inline bool TakePieces(const KernelContext& ctx, DecodeAttentionArgs& args) {
  const int64_t pieces = DecodePieces(args);
  args.partial = ctx.Take<float>(pieces * args.dim);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  args.ended = ctx.Keep<int32_t>("ended", DecodeCounters(args));
  return args.partial != nullptr && args.max != nullptr &&
         args.sum != nullptr && args.ended != nullptr;
}

// `args` of latents in the tensor cores, with room for pieces; where results go
// is left open.
template <typename Args>
cudaError_t ReadLatents(const KernelContext& ctx, const Args& cached,
                        const void* cache, LatentDecodeArgs& args) {
  args.tokens = cached.tokens;
  args.num_heads = cached.num_heads;
  args.scale = cached.sizes.scale;
  args.window = cached.window;
  args.max_keys = MaxKeys(cached.places);
  args.q = cached.q;
  args.cache = cache;
  args.places = cached.places;
  args.fault = cached.fault;
  if (LatentSplits(args) == 1) return cudaSuccess;
  const int64_t pieces = LatentPieces(args);
  args.partial = ctx.Take<float>(pieces * kLatentRank);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  return args.partial != nullptr && args.max != nullptr && args.sum != nullptr
             ? cudaSuccess
             : cudaErrorMemoryAllocation;
}

// Output 0 = attention over latents in the tensor cores.
template <typename Args>
cudaError_t RunLatents(const KernelContext& ctx, const Args& cached,
                       const void* cache, PackedFormat format) {
  LatentDecodeArgs args;
  args.format = format;
  if (const cudaError_t e = ReadLatents(ctx, cached, cache, args); e) return e;
  args.o = ctx.out(0).as<float>();
  return LatentDecode(args, ctx.stream);
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_DECODE_PATHS_CUH_
