// How tiles of 32 keys and values in codes (packed_products.cuh) come to shared
// memory, of one warp: each is asked for by the warp and waited for by it.
//
//   LaneCopies   asynchronous copies of 4 or 8 bytes, four lanes a key: of any
//                rows, at any keys
//   BoxCopies    the copy engine's boxes, of Hopper: of rows that are multiples
//                of 16 bytes, and of keys that lie in whole boxes (BoxRows)
//
// What a tile's place is, is found in two steps (RowsOfToken): Find() reads the
// table, PlaceOf() says where that is.

#ifndef CUDA_OPS_CACHE_PACKED_COPIES_CUH_
#define CUDA_OPS_CACHE_PACKED_COPIES_CUH_

#include <cstdint>

#include "cuda.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/cache/packed_products.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_pieces.cuh"
#include "cuda_runtime_api.h"

namespace strata::gpu {

enum PackedPart { kOfKeys, kOfValues };

// Both of keys and of values that are asked for in turn, kDeep tiles of each
// ahead.
template <typename Tile, int kDeep>
class LaneCopies {
 public:
  struct Maps {};  // That a launch brings.
  using Place = int64_t;
  static constexpr bool kHopper = false;   // Code for nothing else.
  static constexpr int kBarrierBytes = 0;  // In shared memory, of a warp.
  // Whether what a tile has behind its last key is keys too.
  static constexpr bool kAllAreKeys = true;
  // Of a head in its place in a tile.
  static __device__ __forceinline__ int Shift() { return 0; }

  __device__ __forceinline__ LaneCopies(const decode::Args& args, const Maps&,
                                        const RowsOfToken& rows, int kv_head,
                                        int end, uint64_t*)
      : args_(args),
        rows_(rows),
        of_head_(kv_head * args.head_bytes),
        end_(end) {}

  // Of the tile that begins with `key`, which is not behind the last.
  __device__ __forceinline__ int32_t Find(int key) const {
    return rows_.BlockOf(MyKey(key));
  }
  __device__ __forceinline__ Place PlaceOf(int32_t found, int key) const {
    return rows_.In(found, MyKey(key), args_.fault) * args_.row_bytes;
  }
  // `there`: whether there is such a tile; all tiles are counted.
  template <PackedPart kPart>
  __device__ __forceinline__ void Ask(bool there, uint8_t* tile, int, int,
                                      Place place) const {
    constexpr int kUnit = Tile::kKeyBytes % 8 == 0 ? 8 : 4;
    constexpr int kUnits = Tile::kKeyBytes / kUnit;
    static_assert(Tile::kKeyBytes % kUnit == 0, "heads begin where units do");
    if (there) {
      const int g = Lane() / 4, t = Lane() % 4;
      const auto* const cache =
          static_cast<const uint8_t*>(kPart == kOfKeys ? args_.k : args_.v) +
          of_head_ + t * kUnit;
#pragma unroll
      for (int first = 0; first < kTileKeys; first += 8) {
        const uint8_t* const from =
            cache + __shfl_sync(kWholeWarp, place, first + g);
        uint8_t* const to = tile + (first + g) * Tile::kPitch + t * kUnit;
#pragma unroll
        for (int u = 0; u < kUnits; u += 4) {
          if (u + 4 > kUnits && u + t >= kUnits) continue;
          CopyAsync<kUnit>(to + u * kUnit, from + u * kUnit);
        }
      }
    }
    EndCopies();
  }
  template <PackedPart kPart>
  __device__ __forceinline__ void WaitFor(int, uint32_t) const {
    WaitForCopies<2 * kDeep - 1>();
    __syncwarp();
  }

 private:
  // A lane looks up a key.
  __device__ __forceinline__ int MyKey(int key) const {
    return min(key + Lane(), end_ - 1);
  }

  const decode::Args& args_;
  const RowsOfToken& rows_;
  int64_t of_head_;
  int end_;
};

// Keys of a box of a tile: all that lie together; 0: they are not to be had in
// boxes. A piece begins with a block's first key if there is no window.
inline int BoxRows(const CachePlaces& places, int64_t window) {
  if (places.table == nullptr || places.block_size % kTileKeys == 0) {
    return places.table == nullptr || window == 0 ? kTileKeys : 0;
  }
  const bool whole = places.block_size == 8 || places.block_size == 16;
  return whole && window == 0 ? static_cast<int>(places.block_size) : 0;
}

template <typename Tile, int kDeep>
class BoxCopies {
 public:
  struct Maps {
    CUtensorMap keys, values;
    int box_shift = 5;  // A box has 1 << box_shift keys.
  };
  using Place = int;
  static constexpr bool kHopper = true;
  static constexpr int kBarrierBytes = 2 * kDeep * 8;
  static constexpr bool kAllAreKeys = false;
  static_assert(Tile::kKeyBytes % 16 == 0 ||
                Tile::kPitch - Tile::kKeyBytes >=
                    (Tile::kKeyBytes % 8 == 0 ? 8 : 12));
  // Boxes have at most 256 elements in a row.
  static constexpr int kElement = Tile::kKeyBytes % 8 == 0 ? 8 : 1;

  // Of a cache of so many rows.
  static cudaError_t MakeMap(const void* cache, int64_t slots,
                             int64_t row_bytes, int box_rows,
                             CUtensorMap* map) {
    BoxedBytes bytes;
    bytes.data = cache;
    bytes.rows = slots;
    bytes.row_bytes = row_bytes;
    bytes.box_rows = box_rows;
    bytes.box_bytes = Tile::kPitch;
    bytes.element_bytes = kElement;
    bytes.l2_bytes = 128;
    return MakeByteMap(bytes, map);
  }

#if STRATA_SM90A
  __device__ __forceinline__ BoxCopies(const decode::Args& args,
                                       const Maps& maps,
                                       const RowsOfToken& rows, int kv_head,
                                       int end, uint64_t* barriers)
      : args_(args),
        maps_(maps),
        rows_(rows),
        begin_(kv_head * Tile::kKeyBytes),
        end_(end),
        barriers_(barriers) {
    if (Lane() == 0) {
      for (int i = 0; i < 2 * kDeep; ++i) InitBarrier(barriers + i, 1);
      FenceBarrierInit();
    }
    __syncwarp();
  }

  // A box begins at a multiple of 16 bytes, or is an illegal instruction; a
  // pitch has room for those before a head.
  __device__ __forceinline__ int Shift() const { return begin_ % 16; }

  // A lane has a box, as far as there are any.
  __device__ __forceinline__ int32_t Find(int key) const {
    const int mine = MyKey(key);
    return Lane() < Boxes(key) ? rows_.BlockOf(mine) : 0;
  }
  __device__ __forceinline__ Place PlaceOf(int32_t found, int key) const {
    const int mine = MyKey(key);
    return Lane() < Boxes(key)
               ? static_cast<int>(rows_.In(found, mine, args_.fault))
               : 0;
  }
  template <PackedPart kPart>
  __device__ __forceinline__ void Ask(bool there, uint8_t* tile, int stage,
                                      int key, Place row) const {
    if (!there) return;
    const int boxes = Boxes(key), bytes = Tile::kPitch << maps_.box_shift;
    uint64_t* const barrier = barriers_ + 2 * stage + kPart;
    if (Lane() == 0) ArriveExpecting(barrier, boxes * bytes);
    __syncwarp();
    if (Lane() >= boxes) return;
    LoadBox(kPart == kOfKeys ? &maps_.keys : &maps_.values,
            tile + Lane() * bytes, barrier, (begin_ - Shift()) / kElement, row,
            0);
  }
  template <PackedPart kPart>
  __device__ __forceinline__ void WaitFor(int stage, uint32_t phase) const {
    Wait(barriers_ + 2 * stage + kPart, phase);
  }

 private:
  __device__ __forceinline__ int MyKey(int key) const {
    return key + (Lane() << maps_.box_shift);
  }
  // Of a tile, with any key before the end.
  __device__ __forceinline__ int Boxes(int key) const {
    const int keys = min(kTileKeys, end_ - key);
    return (keys + (1 << maps_.box_shift) - 1) >> maps_.box_shift;
  }

  const decode::Args& args_;
  const Maps& maps_;
  const RowsOfToken& rows_;
  int begin_, end_;
  uint64_t* barriers_;  // [kDeep, 2]
#endif
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_COPIES_CUH_
