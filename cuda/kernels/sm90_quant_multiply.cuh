// The warpgroups of a tile that multiply (sm90_quant_product.cuh): 64 rows of w
// each, taken apart into the registers that the products read them from.

#ifndef CUDA_KERNELS_SM90_QUANT_MULTIPLY_CUH_
#define CUDA_KERNELS_SM90_QUANT_MULTIPLY_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product_registers.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"

namespace strata::gpu {

#if STRATA_SM90A

// A thread's part of 64 columns of 64 rows of w: rows g and g + 8 of a warp's
// 16, g being threadIdx.x % 32 / 4. Of a block's two pieces of 32 columns each
// has a scale, or both the same.
template <int kScales>
struct Fragment {
  uint32_t a[4][4];         // [step of 16 columns][as a product takes them]
  float scale[kScales][2];  // [..][row]; of exact weights alone.
};

// Where a thread's codes begin in a row that the copy engine swizzled, and what
// swizzles places within its 128 bytes.
template <ColumnsOf kColumns>
struct CodePlace {
  int first, swizzle;
  __device__ __forceinline__ explicit CodePlace(int row) {
    const int t = static_cast<int>(threadIdx.x) % 4;
    constexpr bool kWords = kColumns == ColumnsOf::kSlots;
    first = row * kCodeBytes + (kWords ? t % 2 * 8 : t * 2);
    swizzle = (kWords ? t / 2 ^ row % 8 : row % 8) * 16;
  }
};

// The same as it is stored: codes of a byte are of both pieces, or of one.
template <int kBits, WeightsOf kKind, ColumnsOf kColumns>
struct PackedFragment {
  static constexpr int kScales = kKind == WeightsOf::kWide ? 1 : 2;
  static constexpr bool kZeros = kKind == WeightsOf::kAny;
  static constexpr bool kWords = kColumns == ColumnsOf::kSlots;
  // Of four bytes, or of two.
  static constexpr int kCodes = kWords ? kBits / 2 : kBits;

  uint32_t code[2][kCodes];    // [row]
  uint32_t scale[kScales][2];  // [..][row]
  uint32_t zero[kScales][2];

  // Codes of block `of_stage` of a stage, which begin at `from`.
  __device__ __forceinline__ void LoadCodes(const uint8_t* from, int of_stage,
                                            int swizzle) {
    constexpr int kRowsOn = 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint8_t* const row = from + half * kRowsOn * kCodeBytes;
      if constexpr (kWords) {
#pragma unroll
        for (int i = 0; i < kCodes; i += 2) {
          const uint2 v = *reinterpret_cast<const uint2*>(
              row + (swizzle ^ (of_stage * (kBits / 4) + i / 2) * 32));
          code[half][i] = v.x;
          code[half][i + 1] = v.y;
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCodes; ++i) {
          const int sixteen = (of_stage * kCodes + i) / 2;
          code[half][i] = *reinterpret_cast<const uint16_t*>(
              row + (swizzle ^ sixteen * 16) + i % 2 * 8);
        }
      }
    }
  }

  // Block `of_stage` of a stage, of which `codes`, `scales` and `zeros` are the
  // thread's first row, and `group` the first group.
  __device__ __forceinline__ void Load(const PackedRows& w,
                                       const uint8_t* codes,
                                       const uint8_t* scales,
                                       const uint8_t* zeros, int of_stage,
                                       int swizzle, int group) {
    constexpr int kRowsOn = 8;
    LoadCodes(codes, of_stage, swizzle);
    const int from = group & ~(kGroupBytes / 2 - 1);
    const int from_zero = group & ~(kGroupBytes - 1);
#pragma unroll
    for (int p = 0; p < kScales; ++p) {
      // Columns that fill up a row have codes of 0 and zeros of x.
      const int own = min(
          group + ((of_stage * kDepth + p * kPieceColumns) >> w.group_shift),
          w.num_groups - 1);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = half * kRowsOn * kGroupBytes;
        scale[p][half] =
            *reinterpret_cast<const uint16_t*>(scales + row + 2 * (own - from));
        zero[p][half] =
            kZeros ? zeros[row + own - from_zero] : 1u << (kBits - 1);
      }
    }
  }

  // Columns of a piece's step of 16.
  template <bool kExact>
  __device__ __forceinline__ void UnpackStep(int step,
                                             Fragment<kScales>& to) const {
    constexpr bool kHalves = kBits == 4;
    const int p = step / 2, s = p % kScales;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Zero<kBits> number(zero[s][half]);
      const uint32_t twice = __byte_perm(scale[s][half], 0, 0x1010);
      if constexpr (kExact) {
        to.scale[s][half] = __uint_as_float(scale[s][half] << 16);
      }
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        uint32_t& pair = to.a[step][half + which * 2];
        const int at = kHalves ? step % 2 : step;
        // Codes in bytes `from` and two on: of a word, or of two bytes, which
        // become its first and third.
        const uint32_t word =
            kWords ? code[half][at]
                   : __byte_perm(code[half][at * 2 + which], 0, 0x4140);
        const int from = kWords ? which : 0;
        const auto take = [&](auto high) {
          constexpr bool kHigh = decltype(high)::value;
          if constexpr (kExact) {
            pair = number.template Integers<kHigh>(word, from);
          } else if constexpr (!kZeros) {
            const BareWeights<kBits> weights(twice);
            pair = weights.template Pair<kHigh>(
                kBits == 8 && !kWords ? word
                                      : BareCodes<kBits, kHigh>(word, from));
          } else {
            pair = number.template Weights<kHigh>(word, from, twice);
          }
        };
        if (kHalves && p == 1) {
          take(std::true_type());
        } else {
          take(std::false_type());
        }
      }
    }
  }

  template <bool kExact>
  __device__ __forceinline__ void Unpack(Fragment<kScales>& to) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) UnpackStep<kExact>(step, to);
  }
};

// A place in a ring of stages.
template <int kStages>
struct Cursor {
  int slot = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ explicit Cursor(int index)
      : slot(index % kStages), phase(index / kStages % 2) {}
  __device__ __forceinline__ void Advance(int n) {
    slot += n;
    if (slot >= kStages) {
      slot -= kStages;
      phase ^= 1;
    }
  }
};

// A warpgroup that multiplies, and how far it has come in both rings: in
// stages of codes, and blocks of x.
template <int kBits, int kTokens, WeightsOf kKind, ColumnsOf kColumns>
class Multiplier {
  using T = Tile<kTokens>;
  using Packed = PackedFragment<kBits, kKind, kColumns>;
  static constexpr int kBlocks = kStageBlocks<kBits>;
  static constexpr int kSums = kTokens / 2;
  static constexpr int kScales = Packed::kScales;
  using Unpacked = Fragment<kScales>;

 public:
  __device__ __forceinline__ Multiplier(const ManyRowsArgs& args,
                                        Shared<kTokens>& shared, int warpgroup)
      : args_(args), shared_(shared), group_(warpgroup / 2) {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    row_ = warpgroup % 2 * kHalf + thread / 32 * 16 + thread % 32 / 4;
  }

  // The first of the thread's two rows of w, eight apart, of the tile.
  __device__ __forceinline__ int row() const { return row_; }
  __device__ __forceinline__ int group() const { return group_; }

  // total [rows of w, tokens] = the group's part of the products of a tile.
  __device__ __forceinline__ void MultiplyTile(const Range<kBits>& range,
                                               float (&total)[kSums]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = 0;
    const int count = (range.blocks - group_ + T::kGroups - 1) / T::kGroups;
    Place place{Cursor<T::kCodeStages>(code_), range.begin, group_, 0};
    Cursor<T::kXStages> x(x_ + group_);
    int before = 0;
    Unpacked fragment[2];
    if (count > 0) {
      Packed packed;
      Load(place, count == 1, packed);
      packed.template Unpack<T::kExact>(fragment[0]);
    }
    for (int i = 0; i < count; i += 2) {
      Step(i, count, place, x, before, fragment[0], fragment[1], total);
      if (i + 1 < count) {
        Step(i + 1, count, place, x, before, fragment[1], fragment[0], total);
      }
    }
    if constexpr (!T::kExact) {
      WaitForProducts<0>();
      KeepBehind(total);
      if (count > 0) ReleaseX(before);
      if constexpr (!Packed::kZeros) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) total[i] *= kScaleOfSums;
      }
    }
    // A last stage without a block of this group.
    const int ragged = range.blocks % kBlocks;
    if (ragged > 0 && ragged <= group_) {
      const Cursor<T::kCodeStages> last(code_ + range.blocks / kBlocks);
      Wait(&shared_.code_full[last.slot], last.phase);
      ReleaseCodes(last.slot);
    }
    code_ += range.end - range.begin;
    x_ += range.blocks;
  }

 private:
  // Of the next block that is loaded.
  struct Place {
    Cursor<T::kCodeStages> cursor;
    int stage, of_stage, first_group;
  };

  __device__ __forceinline__ void Load(Place& place, bool last, Packed& to) {
    const int slot = place.cursor.slot;
    if (place.of_stage < T::kGroups) {
      place.first_group = FirstGroup<kBits>(args_.product.w, place.stage);
      Wait(&shared_.code_full[slot], place.cursor.phase);
    }
    const CodePlace<kColumns> codes(row_);
    to.Load(args_.product.w, shared_.code[slot] + codes.first,
            shared_.scale[slot] + row_ * kGroupBytes,
            shared_.zero[slot] + row_ * kGroupBytes, place.of_stage,
            codes.swizzle, place.first_group);
    place.of_stage += T::kGroups;
    if (place.of_stage >= kBlocks || last) {
      ReleaseCodes(slot);
      place.of_stage = group_;
      place.cursor.Advance(1);
      ++place.stage;
    }
  }

  // Where warps fill stages every thread that has read arrives, as each that
  // fills them does; the copy engine's are told once a warp.
  __device__ __forceinline__ void ReleaseCodes(int slot) {
    if (!args_.copied) return Arrive(&shared_.code_empty[slot]);
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(&shared_.code_empty[slot]);
  }

  __device__ __forceinline__ void ReleaseX(int slot) {
    if (threadIdx.x % kWarpgroup != 0) return;
    uint64_t* const empty = &shared_.x_empty[slot];
    if (args_.pairs == 1) {
      Arrive(empty);
    } else {
      const uint32_t first = blockIdx.x & ~1u;
      ArriveAt(empty, first);
      ArriveAt(empty, first + 1);
    }
  }

  // Multiplies by block i, at `x`, and unpacks the next meanwhile. `before`:
  // where the block before lay.
  __device__ __forceinline__ void Step(int i, int count, Place& place,
                                       Cursor<T::kXStages>& x, int& before,
                                       const Unpacked& now, Unpacked& next,
                                       float (&total)[kSums]) {
    constexpr int kSteps = kDepth / 16;
    Wait(&shared_.x_full[x.slot], x.phase);
    const uint64_t b = Describe(shared_.x[x.slot]);
    float sum[kScales][T::kExact ? kSums : 1];
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kSteps; ++q) {
      const uint64_t at = Advance(b, q * kStep16<kInner>);
      if constexpr (T::kExact) {
        constexpr int kOfScale = kSteps / kScales;
        Multiply<kInner>(sum[q / kOfScale], now.a[q], at, q % kOfScale != 0);
      } else {
        Multiply<kInner>(total, now.a[q], at, 1);
      }
    }
    EndProducts();
    const bool more = i + 1 < count;
    Packed packed;
    if (more) Load(place, i + 2 == count, packed);
    if constexpr (T::kExact) {
      if (more) packed.template Unpack<true>(next);
      WaitForProducts<0>();
      ReleaseX(x.slot);
#pragma unroll
      for (int p = 0; p < kScales; ++p) {
        KeepBehind(sum[p]);
#pragma unroll
        for (int s = 0; s < kSums; ++s) {
          total[s] = fmaf(now.scale[p][s % 4 / 2], sum[p][s], total[s]);
        }
      }
    } else {
      WaitForProducts<1>();  // The block before.
      if (i > 0) ReleaseX(before);
      before = x.slot;
      if (more) packed.template Unpack<false>(next);
    }
    x.Advance(T::kGroups);
  }

  const ManyRowsArgs& args_;
  Shared<kTokens>& shared_;
  const int group_;
  int row_;
  int code_ = 0, x_ = 0;
};

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_MULTIPLY_CUH_
