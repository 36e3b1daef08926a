#include <cstdint>

#include "cuda.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/cache/packed_copies.cuh"
#include "cuda/ops/cache/packed_decode.h"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_loop.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_kernel.cuh"

namespace strata::gpu {
namespace {

// Of which each has several KV heads: about as many as there are processors; of
// heads that have no more columns together than one may have, half as many.
constexpr int64_t FewestBlocks(int columns) { return columns > 128 ? 120 : 60; }

int64_t RowBytes(const DecodeAttentionArgs& args, PackedFormat format) {
  return int64_t{args.num_kv_heads} * (args.dim / kPackedGroup) *
         PackedGroupBytes(format);
}

bool InBoxes(const DecodeAttentionArgs& args, PackedFormat format) {
  return BoxRows(args.places, args.window) > 0 &&
         RowBytes(args, format) % 16 == 0 && IsHopper();
}

// Blocks of several KV heads: as many as some 300 bytes of a key in INT8.
bool HasBlocksOf(int heads, const DecodeAttentionArgs& args,
                 PackedFormat format) {
  return heads * args.dim <= 256 && args.num_kv_heads % heads == 0 &&
         args.num_heads / args.num_kv_heads <= 4 && InBoxes(args, format);
}

template <PackedFormat format, int dim, int kv_heads, int products>
cudaError_t LaunchBoxes(const DecodeAttentionArgs& args, cudaStream_t stream) {
  using Loop = PackedLoop<format, dim, kv_heads, products, BoxCopies>;
  typename Loop::Maps maps;
  const int box_rows = BoxRows(args.places, args.window);
  while (1 << maps.box_shift > box_rows) --maps.box_shift;
  const auto make = [&](const void* cache, CUtensorMap* map) {
    return Loop::Copies::MakeMap(cache, args.places.slots,
                                 RowBytes(args, format), box_rows, map);
  };
  if (const cudaError_t e = make(args.k, &maps.keys); e) return e;
  if (const cudaError_t e = make(args.v, &maps.values); e) return e;
  return decode::Launch<Loop>(args, stream, maps);
}

template <PackedFormat format, int dim, int products>
cudaError_t LaunchOne(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if (InBoxes(args, format)) {
    return LaunchBoxes<format, dim, 1, products>(args, stream);
  }
  return decode::Launch<PackedLoop<format, dim, 1, products, LaneCopies>>(
      args, stream);
}

template <PackedFormat format, int dim>
cudaError_t LaunchHeads(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if constexpr (dim == 64) {
    if (args.kv_heads_of_block == 4) {
      return LaunchBoxes<format, dim, 4, 1>(args, stream);
    }
  }
  if constexpr (dim <= 128) {
    if (args.kv_heads_of_block == 2) {
      return LaunchBoxes<format, dim, 2, 1>(args, stream);
    }
  }
  return args.num_heads / args.num_kv_heads <= 4
             ? LaunchOne<format, dim, 1>(args, stream)
             : LaunchOne<format, dim, 2>(args, stream);
}

template <PackedFormat format>
cudaError_t LaunchWidth(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if (args.dim == 64) return LaunchHeads<format, 64>(args, stream);
  return args.dim == 128 ? LaunchHeads<format, 128>(args, stream)
                         : LaunchHeads<format, 256>(args, stream);
}

}  // namespace

int PackedHeadsOfBlock(const DecodeAttentionArgs& args, PackedFormat format) {
  for (int heads = 4; heads > 1; heads /= 2) {
    if (HasBlocksOf(heads, args, format) &&
        args.tokens.bound * args.num_kv_heads / heads >=
            FewestBlocks(heads * args.dim)) {
      return heads;
    }
  }
  return 1;
}

cudaError_t PackedDecodeInBytes(const DecodeAttentionArgs& args,
                                PackedFormat format, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasPackedDecode(args) || format == PackedFormat::kBf16 ||
      (args.kv_heads_of_block != 1 &&
       !HasBlocksOf(args.kv_heads_of_block, args, format))) {
    return cudaErrorInvalidValue;
  }
  return format == PackedFormat::kInt8
             ? LaunchWidth<PackedFormat::kInt8>(args, stream)
             : LaunchWidth<PackedFormat::kInt4>(args, stream);
}

}  // namespace strata::gpu
