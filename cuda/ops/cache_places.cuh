// Where the keys of a token lie in a cache, on the device.

#ifndef CUDA_OPS_CACHE_PLACES_CUH_
#define CUDA_OPS_CACHE_PLACES_CUH_

#include <cstdint>

#include "cuda/ops/decode_attention.h"

namespace strata::gpu {

struct Places : CachePlaces {
  // Keys that the token sees, before any window; 0 where they are not all in
  // the cache.
  __device__ int64_t NumKeys(int64_t token, const FaultSink& fault) const {
    const int64_t last = position[token];
    if (table != nullptr) {
      const int64_t s = sequence[token], limit = max_blocks * block_size;
      if (s >= 0 && s < table_rows && last >= 0 && last < limit) {
        return last + 1;
      }
      fault.Report(FaultKind::kCacheRow, token, last, limit);
      return 0;
    }
    const int64_t first = first_row[token];
    if (first >= 0 && last >= 0 && first + last < slots) return last + 1;
    fault.Report(FaultKind::kCacheRow, token, first + last, slots);
    return 0;
  }
  __device__ __forceinline__ int64_t RowOf(int64_t token, int key,
                                           const FaultSink& fault) const {
    if (table == nullptr) return first_row[token] + key;
    const int size = static_cast<int>(block_size), b = key / size;
    const int64_t block = table[sequence[token] * max_blocks + b];
    if (block >= 0 && (block + 1) * block_size <= slots) {
      return block * block_size + (key - b * size);
    }
    fault.Report(FaultKind::kCacheRow, token, block * block_size, slots);
    return 0;
  }
};

// The rows of one token, with what all of its keys share read once.
struct RowsOfToken {
  const int32_t* table = nullptr;  // [max_blocks], null: rows lie together.
  int64_t first = 0;               // Of them.
  int block_size = 1;
  int shift = -1;  // Of a block size that is a power of 2: a division saved.
  int64_t slots = 0, token = 0;

  __device__ RowsOfToken(const Places& places, int64_t token)
      : block_size(static_cast<int>(places.block_size)),
        slots(places.slots),
        token(token) {
    if (places.table == nullptr) {
      first = places.first_row[token];
      return;
    }
    table = places.table + places.sequence[token] * places.max_blocks;
    if ((block_size & (block_size - 1)) == 0) shift = __ffs(block_size) - 1;
  }
  __device__ __forceinline__ int64_t Of(int key, const FaultSink& fault) const {
    if (table == nullptr) return first + key;
    const int b = shift >= 0 ? key >> shift : key / block_size;
    const int64_t block = table[b];
    if (block >= 0 && (block + 1) * block_size <= slots) {
      return block * block_size + (key - b * block_size);
    }
    fault.Report(FaultKind::kCacheRow, token, block * block_size, slots);
    return 0;
  }
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PLACES_CUH_
