// What a block of a product with everything in shared memory
// (sm90_quant_resident.cuh) does, step by step: x on its way, products, and
// sums to the block that joins them, and to y.

#ifndef CUDA_KERNELS_SM90_QUANT_RESIDENT_PARTS_CUH_
#define CUDA_KERNELS_SM90_QUANT_RESIDENT_PARTS_CUH_

#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_registers.cuh"
#include "cuda/kernels/sm90_quant_multiply.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

struct ResidentArgs {
  QuantProductArgs product;
  int splits = 1;
  int stages = 1;  // Of a block, at most.
};

// A block of kTiles warpgroups with 64 rows of w each, by kTokens of x. Shared
// memory holds, in this order, x, codes, scales and what the cluster's other
// blocks have for this one.
template <int kBits, int kTiles, int kTokens>
struct ResidentLayout {
  static constexpr int kThreads = kTiles * kWarpgroup;
  static constexpr int kRowsOfW = kTiles * kHalf;
  static constexpr int kBlockBytes = kTokens * kDepth * 2;  // Of x.
  static constexpr int kXBytes = kStageBlocks<kBits> * kBlockBytes;
  static constexpr int kCodesBytes = kRowsOfW * kCodeBytes;
  static constexpr int kScalesBytes = kRowsOfW * kGroupBytes;
  static constexpr int kSumsBytes = kTokens * kRowsOfW * 4;  // Of a block.
  // Of a multiprocessor, at most; wider ones have all of its shared memory.
  static constexpr int kAtOnce = kTokens == 64 ? 4 / kTiles : 1;
};

#if STRATA_SM90A

// F32 x of a tile on its way to shared memory, kAhead blocks of 64 columns at a
// time: a warp loads 32 columns of four rows, and lane l of eight the columns
// 4 l on. Rows are such that what half a warp stores meets in no bank.
template <typename Layout, bool kBf16>
class XOnItsWay {
  static constexpr int kThreads = Layout::kThreads;
  static constexpr int kLoads = Layout::kBlockBytes / 8 / kThreads;

 public:
  static constexpr int kAhead = 8 / kLoads;
  static_assert(kAhead % 2 == 0);

  __device__ __forceinline__ XOnItsWay(const QuantProductArgs& args,
                                       const RowTile& tile, int first_column,
                                       int blocks, char* to, uint64_t* there)
      : k_(args.w.k), blocks_(blocks), there_(there) {
    const int lane = static_cast<int>(threadIdx.x) % 32, l = lane % 8;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int piece = warp % 2;
    const int row =
        warp / 4 * 8 + warp / 2 % 2 * 2 + lane / 8 % 2 * 4 + lane / 16;
    rows_ = tile.num_rows - row;
    from_ = args.x + (tile.row + row) * k_ + first_column +
            piece * kPieceColumns + l * 4;
    const int chunk = piece * 4 + l / 2;
    to_ = to + row * kDepth * 2 + (chunk ^ row % 8) * 16 + l % 2 * 8;
  }

  // Asks for the first.
  __device__ __forceinline__ void Begin(const CUtensorMap*) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < blocks_) Load(i, i);
    }
    if (blocks_ <= kAhead) LetLaterBegin();
  }

  // Block `block`, which is in slot `slot`, to shared memory, which its barrier
  // is told; what comes kAhead blocks later is asked for.
  __device__ __forceinline__ void Bring(int block, int slot) {
    Store(block, slot);
    FenceSharedStores();
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(&there_[block]);
    if (block + kAhead >= blocks_) return;
    Load(block + kAhead, slot);
    if (block + kAhead + 1 == blocks_) LetLaterBegin();
  }

 private:
  static constexpr int kRowsOn = kThreads / 16;  // Of all warps.

  // Block `block` % kAhead being `slot`, known when compiled.
  __device__ __forceinline__ void Load(int block, int slot) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRowsOn >= rows_) continue;
      v_[slot][i] = __ldg(reinterpret_cast<const float4*>(
          from_ + block * kDepth + i * kRowsOn * k_));
    }
  }

  __device__ __forceinline__ void Store(int block, int slot) const {
    char* const to = to_ + block * Layout::kBlockBytes;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRowsOn >= rows_) continue;
      const float4& v = v_[slot][i];
      *reinterpret_cast<uint2*>(to + i * kRowsOn * kDepth * 2) = {
          PairOf(__floats2bfloat162_rn(v.x, v.y)),
          PairOf(__floats2bfloat162_rn(v.z, v.w))};
    }
  }

  const int k_, blocks_;
  int rows_;
  const float* from_;
  char* to_;
  uint64_t* const there_;
  float4 v_[kAhead][kLoads];
};

// x in BF16: all of it by the copy engine.
template <typename Layout>
class XOnItsWay<Layout, true> {
 public:
  static constexpr int kAhead = 2;  // As fragments take turns.

  __device__ __forceinline__ XOnItsWay(const QuantProductArgs&,
                                       const RowTile& tile, int first_column,
                                       int blocks, char* to, uint64_t* there)
      : row_(static_cast<int>(tile.row)),
        first_column_(first_column),
        blocks_(blocks),
        to_(to),
        there_(there) {}

  __device__ __forceinline__ void Begin(const CUtensorMap* map) const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < blocks_; ++i) {
        ArriveExpecting(&there_[i], Layout::kBlockBytes);
        LoadBox(map, to_ + i * Layout::kBlockBytes, &there_[i],
                first_column_ + i * kDepth, row_, 0);
      }
    }
    __syncwarp();
    LetLaterBegin();
  }
  __device__ __forceinline__ void Bring(int, int) const {}

 private:
  const int row_, first_column_, blocks_;
  char* const to_;
  uint64_t* const there_;
};

// The products of a warpgroup's 64 rows of w.
template <int kBits, WeightsOf kKind, typename Layout>
class ResidentMultiplier {
  using Packed = PackedFragment<kBits, kKind, ColumnsOf::kMemory>;

 public:
  __device__ __forceinline__ ResidentMultiplier(const PackedRows& w,
                                                int first_stage, const char* x,
                                                const uint8_t* code,
                                                const uint8_t* scale)
      : shift_(w.group_shift),
        first_column_(first_stage * kStageBlocks<kBits> * kDepth),
        x_(Describe(x)) {
    const int thread = static_cast<int>(threadIdx.x);
    row_ = thread / 32 * 16 + thread % 32 / 4;
    const CodePlace<ColumnsOf::kMemory> codes(row_);
    swizzle_ = codes.swizzle;
    code_ = code + codes.first;
    scale_ = scale + row_ * kGroupBytes;
  }

  // The first row of w of a thread's sums; the other is eight below.
  __device__ __forceinline__ int row() const { return row_; }

  // Codes and scales of a block to registers, as they are.
  __device__ __forceinline__ void Load(int block) {
    constexpr int kRowsOn = 8, kOfStage = kStageBlocks<kBits>;
    const int stage = block / kOfStage;
    packed_.LoadCodes(code_ + stage * Layout::kCodesBytes, block % kOfStage,
                      swizzle_);
#pragma unroll
    for (int p = 0; p < Packed::kScales; ++p) {
      const int column = first_column_ + block * kDepth + p * kPieceColumns;
      const uint8_t* const at = scale_ + stage * Layout::kScalesBytes +
                                (column >> shift_) * 2 % kGroupBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        packed_.scale[p][half] = *reinterpret_cast<const uint16_t*>(
            at + half * kRowsOn * kGroupBytes);
        packed_.zero[p][half] = 1u << (kBits - 1);
      }
    }
  }

  // Those to numbers, in one of two places: the other's may be multiplied.
  __device__ __forceinline__ void Unpack(int half) {
    packed_.template Unpack<false>(fragment_[half]);
  }

  // Begins the products of a block.
  template <int n>
  __device__ __forceinline__ void Begin(int block, int half,
                                        float (&total)[n]) {
    const uint64_t b = Advance(x_, block * Layout::kBlockBytes);
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kDepth / 16; ++q) {
      Multiply<kInner>(total, fragment_[half].a[q],
                       Advance(b, q * kStep16<kInner>), 1);
    }
    EndProducts();
  }

 private:
  const int shift_, first_column_;
  const uint64_t x_;
  int row_, swizzle_;
  const uint8_t *code_, *scale_;
  Packed packed_;
  Fragment<Packed::kScales> fragment_[2];
};

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_RESIDENT_PARTS_CUH_
