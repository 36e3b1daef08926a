// The tile of few_rows_tile.cuh of packed rows (core/quant/packed_rows.h),
// symmetric and in groups of 1 << kGroupShift columns: codes less their zero
// are exact in BF16, so that integer products are summed in F32 and scaled
// behind each group.

#ifndef CUDA_OPS_DECODE_PACKED_TILE_CUH_
#define CUDA_OPS_DECODE_PACKED_TILE_CUH_

#include <cstdint>

#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

static_assert(kUnitBytes == kChunkBytes && kStepColumns == kPieceColumns);

// Where rows lie: in memory, to be read once; or in shared memory.
struct InMemory {
  static __device__ __forceinline__ uint2 Codes(const uint8_t* at) {
    return LoadEightBytes(at);
  }
  template <typename T>
  static __device__ __forceinline__ T Scales(const uint8_t* at) {
    return __ldg(reinterpret_cast<const T*>(at));
  }
};
struct InShared {
  static __device__ __forceinline__ uint2 Codes(const uint8_t* at) {
    return *reinterpret_cast<const uint2*>(at);
  }
  template <typename T>
  static __device__ __forceinline__ T Scales(const uint8_t* at) {
    return *reinterpret_cast<const T*>(at);
  }
};

template <int kBits, int kGroupShift, typename From = InMemory>
struct PackedTile {
  // Of copies of such rows.
  using Staged = PackedTile<kBits, kGroupShift, InShared>;
  static constexpr int kColumns = kChunkColumns<kBits>;
  static constexpr int kSteps = kChunkPieces<kBits>;
  // Scales of a unit, at most a group's; two of a word.
  static constexpr int kScales =
      kColumns >> kGroupShift > 1 ? kColumns >> kGroupShift : 1;
  static constexpr int kScaleWords = (kScales + 1) / 2;
  static constexpr int kStepsOfGroup = kSteps / kScales;

  struct Row {
    uint2 low, high;  // Of the unit's first 32 bytes, and of the others.
    uint32_t scale[kScaleWords];

    __device__ __forceinline__ void Load(const uint8_t* row, int code_bytes,
                                         int unit) {
      const uint8_t* const codes = row + unit * kUnitBytes + Lane() % 4 * 8;
      low = From::Codes(codes);
      high = From::Codes(codes + 32);
      const uint8_t* const scales =
          row + code_bytes + 2 * (unit * kColumns >> kGroupShift);
      if constexpr (kScales == 4) {
        const auto v = From::template Scales<uint2>(scales);
        scale[0] = v.x;
        scale[1] = v.y;
      } else if constexpr (kScales == 2) {
        scale[0] = From::template Scales<uint32_t>(scales);
      } else {
        scale[0] = From::template Scales<uint16_t>(scales);
      }
    }
    __device__ __forceinline__ uint32_t Word(int index) const {
      return index == 0   ? low.x
             : index == 1 ? low.y
             : index == 2 ? high.x
                          : high.y;
    }
    __device__ __forceinline__ float Scale(int group) const {
      const uint32_t pair = scale[group / 2];
      return __uint_as_float(group % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    // The pairs of step p: a thread's slots of half `which` of 16 columns j.
    __device__ __forceinline__ uint32_t Pair(int p, int j, int which) const {
      const Zero<kBits> zero(kBits == 4 ? 8 : 128);
      const uint32_t word = Word(WordOf<kBits>(p, j));
      return IsHigh<kBits>(p) ? zero.template Integers<true>(word, which)
                              : zero.template Integers<false>(word, which);
    }
  };
  struct Unit {
    Row upper, lower;
  };
  static __device__ __forceinline__ void Load(const RowsOfTile& w, int unit,
                                              Unit& to) {
    to.upper.Load(w.upper, w.code_bytes, unit);
    to.lower.Load(w.lower, w.code_bytes, unit);
  }

  // A lane's eight columns in the order of its slots: of each four 0, 2, 1, 3.
  static __device__ __forceinline__ uint4 InSlots(uint4 x) {
    return {__byte_perm(x.x, x.y, 0x5410), __byte_perm(x.x, x.y, 0x7632),
            __byte_perm(x.z, x.w, 0x5410), __byte_perm(x.z, x.w, 0x7632)};
  }

  static __device__ __forceinline__ void Multiply(const Unit& u,
                                                  const uint4 (&b)[kSteps],
                                                  float (&d)[4]) {
    float sum[4];
#pragma unroll
    for (int p = 0; p < kSteps; ++p) {
      if (p % kStepsOfGroup == 0) {
#pragma unroll
        for (float& s : sum) s = 0;
      }
      const uint4 x = InSlots(b[p]);
      MultiplyAdd(sum, u.upper.Pair(p, 0, 0), u.lower.Pair(p, 0, 0),
                  u.upper.Pair(p, 0, 1), u.lower.Pair(p, 0, 1), x.x, x.y);
      MultiplyAdd(sum, u.upper.Pair(p, 1, 0), u.lower.Pair(p, 1, 0),
                  u.upper.Pair(p, 1, 1), u.lower.Pair(p, 1, 1), x.z, x.w);
      if (p % kStepsOfGroup == kStepsOfGroup - 1) {
        const float upper = u.upper.Scale(p / kStepsOfGroup);
        const float lower = u.lower.Scale(p / kStepsOfGroup);
        d[0] = fmaf(upper, sum[0], d[0]);
        d[1] = fmaf(upper, sum[1], d[1]);
        d[2] = fmaf(lower, sum[2], d[2]);
        d[3] = fmaf(lower, sum[3], d[3]);
      }
    }
  }
};

// run(Format()) of the format that w has (HasTiles).
template <typename Run>
cudaError_t WithFormat(const PackedRows& w, Run run) {
  if (w.bits == kBf16Bits) return run(Bf16Tile());
  if (w.bits == 4) {
    return w.group_shift == 5   ? run(PackedTile<4, 5>())
           : w.group_shift == 6 ? run(PackedTile<4, 6>())
                                : run(PackedTile<4, 7>());
  }
  return w.group_shift == 5   ? run(PackedTile<8, 5>())
         : w.group_shift == 6 ? run(PackedTile<8, 6>())
                              : run(PackedTile<8, 7>());
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_PACKED_TILE_CUH_
