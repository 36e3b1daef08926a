// What the blocks of a product with quantised weights in Hopper's wider
// products (sm90_quant_product.cuh) have in common: how a tile lies in shared
// memory, and which tiles a block has.

#ifndef CUDA_KERNELS_SM90_QUANT_TILE_CUH_
#define CUDA_KERNELS_SM90_QUANT_TILE_CUH_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kTileColumns = 128;  // Of y: rows of w.
constexpr int kHalf = 64;          // Rows of w of a warpgroup that multiplies.
constexpr int kDepth = 64;         // Columns of a block of x.
constexpr int kCodeBytes = 128;    // Of a row of w, of a stage of codes.
constexpr int kGroupBytes = 16;    // Of a row's scales, and of its zeros.
constexpr int kProducerWarps = 4;  // Of which the last loads x.
// Sums in shared memory begin 4 banks apart.
constexpr int kSumPitch = kTileColumns + 4;
// Barrier of the block: of all warpgroups that multiply.
constexpr int kAllSums = 1;

// Of rows: symmetric in groups of 64 and more, or of 32, or any.
enum class WeightsOf { kWide, kNarrow, kAny };

// The order of the columns of x that products sum over: that of the slots of a
// thread's words of codes (packed_chunk.cuh), for which x was put in order, or
// as they lie. Then a thread has two codes of each eight columns, which is what
// a product takes from 16 bytes of x: loads of two bytes in place of eight.
enum class ColumnsOf { kSlots, kMemory };

// A stage of codes is that many blocks of x.
template <int kBits>
constexpr int kStageBlocks = kCodeBytes * 8 / kBits / kDepth;

template <int kTokens>
struct Tile {
  // For few tokens weights are exact integers, and scales applied to sums.
  static constexpr bool kExact = kTokens <= 16;
  // Pairs of warpgroups that multiply, each pair every kGroups-th block: one
  // alone would have the tensor cores wait for what it unpacks.
  static constexpr int kGroups = kTokens <= 64 ? 2 : 1;
  static constexpr int kMultipliers = 2 * kGroups;
  static constexpr int kThreads = (1 + kMultipliers) * kWarpgroup;
  static constexpr int kCodeStages = kTokens == 256   ? 3
                                     : kTokens == 128 ? 4
                                     : kTokens == 64  ? 5
                                                      : 8;
  static constexpr int kXStages = kTokens == 256   ? 5
                                  : kTokens == 128 ? 8
                                  : kTokens == 64  ? 9
                                                   : 24;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kMultiplierRegisters = kGroups == 2 ? 104 : 224;
};

template <int kTokens>
struct Shared {
  using T = Tile<kTokens>;
  // Sums go where stages were, or, of two groups, beside them: blocks have the
  // next tile on its way when groups join theirs.
  static constexpr bool kSumsBeside = T::kGroups > 1;
  union {
    struct {
      __nv_bfloat16 x[T::kXStages][kTokens * kDepth];
      uint8_t code[T::kCodeStages][kTileColumns * kCodeBytes];
    };
    float sum_over[kSumsBeside ? 1 : kTokens][kSumPitch];
  };
  uint8_t scale[T::kCodeStages][kTileColumns * kGroupBytes];
  uint8_t zero[T::kCodeStages][kTileColumns * kGroupBytes];
  float sum_beside[kSumsBeside ? kTokens : 1][kSumPitch];
  uint64_t code_full[T::kCodeStages], code_empty[T::kCodeStages];
  uint64_t x_full[T::kXStages], x_empty[T::kXStages];

  __device__ __forceinline__ float* sum(int token) {
    return kSumsBeside ? sum_beside[token] : sum_over[token];
  }
};
template <int kTokens>
constexpr size_t kSharedBytes = sizeof(Shared<kTokens>) + kSwizzleBytes;
static_assert(kSharedBytes<256> <= 227 * 1024);
static_assert(kSharedBytes<128> <= 227 * 1024);
static_assert(kSharedBytes<64> <= 227 * 1024);
static_assert(kSharedBytes<16> <= 227 * 1024);

// A cluster has a tile of tokens, of `pairs` neighbouring tiles of columns,
// which share x, and its blocks have shares of what is summed over.
struct ManyRowsArgs {
  QuantProductArgs product;
  bool copied = false;  // Codes come by the copy engine.
  // x is rounded by the blocks that read it, before their products.
  bool rounds = false;
  int splits = 1, pairs = 1;
  int token_tiles = 1;   // At the bound.
  int column_units = 1;  // Of `pairs` tiles each.
};

// Tiles of a block, one after the other.
template <int kTokens>
class Units {
 public:
  static constexpr int kBand = 4;
  RowTile tile;
  int column = 0;     // The first of y,
  int64_t w_row = 0;  // and where its row of w lies.

  __device__ __forceinline__ explicit Units(const ManyRowsArgs& args)
      : args_(args),
        rows_(Uniform(static_cast<int>(args.product.rows.Get()))),
        next_(static_cast<int>(blockIdx.y)) {}

  // By whole warps.
  __device__ __forceinline__ bool Next() {
    const QuantProductArgs& p = args_.product;
    while (next_ < args_.token_tiles * args_.column_units) {
      int token_tile, unit;
      if (p.num_experts > 0) {
        // Experts' weights are few: all columns of their rows, then the next.
        token_tile = next_ / args_.column_units;
        unit = next_ % args_.column_units;
      } else {
        // Bands of so many tiles that both operands' part stays in L2.
        const int band = next_ / (kBand * args_.column_units);
        const int width = min(kBand, args_.token_tiles - band * kBand);
        const int of_band = next_ - band * kBand * args_.column_units;
        token_tile = band * kBand + of_band % width;
        unit = of_band / width;
      }
      next_ += static_cast<int>(gridDim.y);
      const bool found =
          TileOfRows<kTokens>(p.offset, p.num_experts, rows_, token_tile, tile);
      if (Uniform(found)) {
        tile.expert = Uniform(tile.expert);
        tile.row = Uniform(static_cast<int>(tile.row));
        tile.num_rows = Uniform(tile.num_rows);
        column =
            (unit * args_.pairs + static_cast<int>(blockIdx.x) % args_.pairs) *
            kTileColumns;
        w_row = tile.expert * p.w.n + column;
        return true;
      }
      if (p.num_experts > 0) return false;  // Nor are there further ones.
    }
    return false;
  }

 private:
  const ManyRowsArgs& args_;
  const int64_t rows_;
  int next_;
};

// Of what is summed over: stages of codes and blocks of x of a block of
// threads.
template <int kBits>
struct Range {
  int begin, end, first_block, blocks;

  __device__ __forceinline__ explicit Range(const ManyRowsArgs& args) {
    const int all = (args.product.w.k + kDepth - 1) / kDepth;
    const int stages = (all + kStageBlocks<kBits> - 1) / kStageBlocks<kBits>;
    const int split = static_cast<int>(blockIdx.x) / args.pairs;
    begin = stages * split / args.splits;
    end = stages * (split + 1) / args.splits;
    first_block = begin * kStageBlocks<kBits>;
    blocks = max(0, min(end * kStageBlocks<kBits>, all) - first_block);
  }
};

// The first group of a stage of codes, whose 16 bytes of scales come with it.
template <int kBits>
__device__ __forceinline__ int FirstGroup(const PackedRows& w, int stage) {
  return min((stage * kStageBlocks<kBits> * kDepth) >> w.group_shift,
             w.num_groups - 1);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_TILE_CUH_
