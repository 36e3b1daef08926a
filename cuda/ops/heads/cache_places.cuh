// Where the keys of a token lie in a cache, on the device.

#ifndef CUDA_OPS_HEADS_CACHE_PLACES_CUH_
#define CUDA_OPS_HEADS_CACHE_PLACES_CUH_

#include <cstdint>

#include "cuda/ops/heads/decode_attention.h"

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

// The rows of one token, with what all of its keys share read once. Rows that
// lie together are one block of rows of their own, which any key is in.
struct RowsOfToken {
  const int32_t* table = nullptr;  // [max_blocks], or the first row.
  int block_size = 1;
  int shift = 31;  // Of a block size that is a power of 2: a division saved.
  int64_t slots = 0, token = 0;

  __device__ RowsOfToken(const Places& places, int64_t token)
      : slots(places.slots), token(token) {
    if (places.table == nullptr) {
      table = places.first_row + token;
      return;
    }
    table = places.table + places.sequence[token] * places.max_blocks;
    block_size = static_cast<int>(places.block_size);
    const bool power = (block_size & (block_size - 1)) == 0;
    shift = power ? __ffs(block_size) - 1 : -1;
  }

  // The row of a key in two steps, so that there is other work while the table
  // is read: what it says, and which row that means.
  __device__ __forceinline__ int32_t BlockOf(int key) const {
    return table[IndexOf(key)];
  }
  __device__ __forceinline__ int64_t In(int64_t block, int key,
                                        const FaultSink& fault) const {
    if (block >= 0 && (block + 1) * block_size <= slots) {
      return block * block_size + (key - IndexOf(key) * block_size);
    }
    fault.Report(FaultKind::kCacheRow, token, block * block_size, slots);
    return 0;
  }

 private:
  __device__ __forceinline__ int IndexOf(int key) const {
    return shift >= 0 ? key >> shift : key / block_size;
  }
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_HEADS_CACHE_PLACES_CUH_
