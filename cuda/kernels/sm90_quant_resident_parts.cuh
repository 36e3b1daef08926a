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
#include "cuda/kernels/resident_plan.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_registers.cuh"
#include "cuda/kernels/sm90_quant_load.cuh"
#include "cuda/kernels/sm90_quant_multiply.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

struct ResidentArgs {
  QuantProductArgs product;
  ResidentMore more;
  int first_tiles = 0;  // Of rows of w; those behind are the second weight's.
  int splits = 1;
  // Places in shared memory: of stages of codes, and of blocks of x.
  int stages = 1, blocks = 1;
};

// A block of kTiles warpgroups with 64 rows of w each, by kRowsOfX of x. Shared
// memory holds, in this order, x, codes, scales and what the cluster's other
// blocks have for this one.
template <int kBits, int kTiles, int kRowsOfX>
struct ResidentLayout {
  static constexpr int kThreads = kTiles * kWarpgroup;  // Those that multiply.
  static constexpr int kTokens = kRowsOfX;
  static constexpr int kRowsOfW = kTiles * kHalf;
  static constexpr int kBlockBytes = kTokens * kDepth * 2;  // Of x.
  static constexpr int kCodesBytes = kRowsOfW * kCodeBytes;
  static constexpr int kScalesBytes = kRowsOfW * kGroupBytes;
  static constexpr int kSumsBytes = kTokens * kRowsOfW * 4;  // Of a block.
  // Of a multiprocessor, at most; wider ones have all of its shared memory.
  static constexpr int kAtOnce = kTokens <= 64 ? 4 / kTiles : 1;
};

#if STRATA_SM90A

// What says that a place's bytes are there, and have been read.
struct ResidentBarriers {
  uint64_t codes_there[kMaxResidentStages], codes_read[kMaxResidentStages];
  uint64_t x_there[kMaxResidentBlocks], x_read[kMaxResidentBlocks];
  uint64_t joined;
};

// A place of as many as there are, which are used in turn.
struct Turn {
  int at = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Next(int places) {
    if (++at < places) return;
    at = 0;
    phase ^= 1;
  }
};

// What a block has of a product: of which of two, stages and rows of w.
template <int kBits, typename Layout>
struct ResidentShare {
  bool is_second;
  int split, first_stage, stages, blocks, first_row;
  __device__ __forceinline__ explicit ResidentShare(const ResidentArgs& args) {
    const int all = args.product.w.code_bytes / kCodeBytes;
    split = static_cast<int>(blockIdx.x);
    first_stage = all * split / args.splits;
    stages = all * (split + 1) / args.splits - first_stage;
    blocks = stages * kStageBlocks<kBits>;
    const int tile = static_cast<int>(blockIdx.y);
    is_second = tile >= args.first_tiles;
    first_row = (is_second ? tile - args.first_tiles : tile) * Layout::kRowsOfW;
  }
};

// The copy engine's part, by one thread: codes and x, as places are read.
template <int kBits, typename Layout>
class ResidentCopies {
 public:
  __device__ __forceinline__ ResidentCopies(
      const ResidentArgs& args, const ResidentShare<kBits, Layout>& share,
      CodeMaps maps, char* x, uint8_t* code, uint8_t* scale,
      ResidentBarriers& barriers)
      : args_(args),
        share_(share),
        maps_(maps),
        x_(x),
        code_(code),
        scale_(scale),
        barriers_(barriers) {}

  // Codes of the first stages, which have room.
  __device__ __forceinline__ void Begin() {
    const int first = min(share_.stages, args_.stages);
    while (asked_ < first) AskForCodes();
  }

  // All x in BF16, and further codes; of a ring as places are read.
  template <bool kRing>
  __device__ __forceinline__ void Bring(const RowTile& tile,
                                        const CUtensorMap* map) {
    constexpr int kOfStage = kStageBlocks<kBits>;
    const int row = static_cast<int>(tile.row);
    Turn place;
    for (int b = 0; b < share_.blocks; ++b, place.Next(args_.blocks)) {
      if constexpr (kRing) {
        if (b / kOfStage == asked_) AskForCodes();
        Wait(&barriers_.x_read[place.at], place.phase ^ 1);
      }
      uint64_t* const there = &barriers_.x_there[place.at];
      ArriveExpecting(there, Layout::kBlockBytes);
      LoadBox(map, x_ + place.at * Layout::kBlockBytes, there,
              (share_.first_stage * kOfStage + b) * kDepth, row, 0);
    }
  }

 private:
  __device__ __forceinline__ void AskForCodes() {
    const PackedRows& w = args_.product.w;
    const int stage = share_.first_stage + asked_++, at = place_.at;
    uint64_t* const there = &barriers_.codes_there[at];
    Wait(&barriers_.codes_read[at], place_.phase ^ 1);
    ArriveExpecting(there, Layout::kCodesBytes + Layout::kScalesBytes);
    LoadBox(maps_.code, code_ + at * Layout::kCodesBytes, there,
            stage * kCodeBytes, share_.first_row, 0);
    LoadBox(maps_.group, scale_ + at * Layout::kScalesBytes, there,
            PlaceOfGroups<kBits>(w, stage).scale, share_.first_row, 0);
    place_.Next(args_.stages);
  }

  const ResidentArgs& args_;
  const ResidentShare<kBits, Layout>& share_;
  const CodeMaps maps_;
  char* const x_;
  uint8_t *const code_, *const scale_;
  ResidentBarriers& barriers_;
  Turn place_;
  int asked_ = 0;  // Stages.
};

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
  __device__ __forceinline__ void Begin() {
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
      v_[slot][i] = *reinterpret_cast<const float4*>(from_ + block * kDepth +
                                                     i * kRowsOn * k_);
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

// x in BF16: by the copy engine.
template <typename Layout>
class XOnItsWay<Layout, true> {
 public:
  static constexpr int kAhead =
      4;  // Blocks of a loop, which are no loads here.

  __device__ __forceinline__ XOnItsWay(const QuantProductArgs&, const RowTile&,
                                       int, int, char*, uint64_t*) {}
  __device__ __forceinline__ void Begin() const { LetLaterBegin(); }
  __device__ __forceinline__ void Bring(int, int) const {}
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

  // Codes and scales of a block to registers, as they are: block `of_stage` of
  // the stage in place `stage`.
  __device__ __forceinline__ void Load(int block, int of_stage, int stage) {
    constexpr int kRowsOn = 8;
    packed_.LoadCodes(code_ + stage * Layout::kCodesBytes, of_stage, swizzle_);
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

  // Begins the products of the block of x in place `place`.
  template <int n>
  __device__ __forceinline__ void Begin(int place, int half,
                                        float (&total)[n]) {
    const uint64_t b = Advance(x_, place * Layout::kBlockBytes);
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
