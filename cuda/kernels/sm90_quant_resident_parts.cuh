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

constexpr int kResidentTokens = 64;                 // Rows of x of a tile.
constexpr int kResidentSums = kResidentTokens / 2;  // Of a thread.
constexpr int kResidentBlockBytes = kResidentTokens * kDepth * 2;

struct ResidentArgs {
  QuantProductArgs product;
  int splits = 1;
  int stages = 1;  // Of a block, at most.
};

// A block of kTiles warpgroups with 64 rows of w each. Shared memory holds, in
// this order, x, codes, scales and what the cluster's blocks have for this one.
template <int kBits, int kTiles>
struct ResidentLayout {
  static constexpr int kThreads = kTiles * kWarpgroup;
  static constexpr int kRowsOfW = kTiles * kHalf;
  static constexpr int kXBytes =
      kStageBlocks<kBits> * kResidentTokens * kDepth * 2;
  static constexpr int kCodesBytes = kRowsOfW * kCodeBytes;
  static constexpr int kScalesBytes = kRowsOfW * kGroupBytes;
  static constexpr int kSumsBytes = kResidentTokens * kRowsOfW * 4;
};

#if STRATA_SM90A

// x of a tile on its way to shared memory, kAhead blocks of 64 columns at a
// time: a warp loads 32 columns of four rows, and lane l of eight the columns
// 4 l on, which are step l % 2 of slots 2 (l / 2) and on (packed_chunk.cuh).
// Rows are such that what is stored meets in no bank.
template <int kThreads>
class XOnItsWay {
  static constexpr int kLoads = kResidentTokens * kDepth / 4 / kThreads;

 public:
  static constexpr int kAhead = 8 / kLoads;
  static_assert(kAhead % 2 == 0);

  __device__ __forceinline__ XOnItsWay(const QuantProductArgs& args,
                                       const RowTile& tile, int first_column,
                                       char* to)
      : args_(args), k_(args.w.k) {
    const int lane = static_cast<int>(threadIdx.x) % 32, l = lane % 8;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int piece = warp % 2;
    const int row =
        warp / 4 * 8 + warp / 2 % 2 * 2 + lane / 8 % 2 + lane / 16 * 4;
    rows_ = tile.num_rows - row;
    from_ =
        (tile.row + row) * k_ + first_column + piece * kPieceColumns + l * 4;
    const int chunk = piece * 4 + l % 2 * 2;
    to_ = to + row * kDepth * 2 + l / 2 * 4;
    first_ = (chunk ^ row % 8) * 16;
  }

  // Block `block` % kAhead being `slot`, known when compiled.
  __device__ __forceinline__ void Load(int block, int slot) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRowsOn >= rows_) continue;
      v_[slot][i] = LoadFour(args_, from_ + block * kDepth + i * kRowsOn * k_);
    }
  }

  __device__ __forceinline__ void Store(int block, int slot) const {
    char* const to = to_ + block * kResidentTokens * kDepth * 2;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRowsOn >= rows_) continue;
      char* const at = to + i * kRowsOn * kDepth * 2;
      const float4& v = v_[slot][i];
      *reinterpret_cast<uint32_t*>(at + first_) =
          PairOf(__floats2bfloat162_rn(v.x, v.z));
      *reinterpret_cast<uint32_t*>(at + (first_ ^ 16)) =
          PairOf(__floats2bfloat162_rn(v.y, v.w));
    }
  }

 private:
  static constexpr int kRowsOn = kThreads / 16;  // Of all warps.
  const QuantProductArgs& args_;
  const int k_;
  int rows_, first_;
  int64_t from_;
  char* to_;
  float4 v_[kAhead][kLoads];
};

// The products of a warpgroup's 64 rows of w.
template <int kBits, int kTiles, WeightsOf kKind>
class ResidentMultiplier {
  using Packed = PackedFragment<kBits, kKind>;
  using Layout = ResidentLayout<kBits, kTiles>;

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
    swizzle_ = (thread % 4 / 2 ^ row_ % 8) * 16;
    code_ = code + row_ * kCodeBytes + thread % 2 * 8;
    scale_ = scale + row_ * kGroupBytes;
  }

  // The first row of w of a thread's sums; the other is eight below.
  __device__ __forceinline__ int row() const { return row_; }

  // Codes and scales of a block to registers, as they are.
  __device__ __forceinline__ void Load(int block) {
    constexpr int kRowsOn = 8, kOfStage = kStageBlocks<kBits>;
    const int stage = block / kOfStage;
    const uint8_t* const code = code_ + stage * Layout::kCodesBytes;
#pragma unroll
    for (int i = 0; i < kBits / 4; ++i) {
      const uint8_t* const at =
          code + (swizzle_ ^ (block % kOfStage * (kBits / 4) + i) * 32);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        packed_.code[half][i] =
            *reinterpret_cast<const uint2*>(at + half * kRowsOn * kCodeBytes);
      }
    }
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
  __device__ __forceinline__ void Begin(int block, int half,
                                        float (&total)[kResidentSums]) {
    const uint64_t b = Advance(x_, block * kResidentBlockBytes);
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
