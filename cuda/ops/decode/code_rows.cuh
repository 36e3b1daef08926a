// Rows of a cache of latents in codes (core/quant/cache_format.h), brought to
// shared memory by the copy engine as they are, and widened there to BF16. A
// widened element is code * scale rounded once.
//
//   row of 576 columns   nine pairs of groups: 68 bytes of INT8, 36 of INT4,
//                        each 64 columns; so rows begin at multiples of four
//                        bytes, of which every fourth is one of 16. What is
//                        copied begins up to 12 bytes before a row, or is four
//                        rows that lie together

#ifndef CUDA_OPS_DECODE_CODE_ROWS_CUH_
#define CUDA_OPS_DECODE_CODE_ROWS_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/latent_shape.h"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

template <PackedFormat kFormat>
struct CodeRows {
  static_assert(IsInCodes(kFormat));
  static constexpr int kPairBytes = 2 * PackedGroupBytes(kFormat);
  static constexpr int kPairs = kLatentWidth / (2 * kPackedGroup);
  static constexpr int kRowBytes = kPairs * kPairBytes;
  static_assert(kPairBytes % 4 == 0 &&
                kPairs * 2 * kPackedGroup == kLatentWidth);

  // Room for a row with what is copied before and behind it.
  static constexpr int kSlotBytes = (kRowBytes + 12 + 15) / 16 * 16;

#if STRATA_SM90A

  // --- To shared memory ---

  // By a warp: asks for the lane's row of a cache of `slots`, -1 for none, to
  // come to `room` of as many kSlotBytes as there are lanes. `at` is where in
  // it the lane's row will be, if there is one. All of the warp's are there
  // when `full`, at which it arrives once, is complete.
  static __device__ __forceinline__ void Ask(const uint8_t* cache,
                                             int64_t slots, int row,
                                             uint8_t* room, int* at,
                                             uint64_t* full) {
    const int lane = Lane(), in_four = lane % 4;
    const uint8_t* from = cache + int64_t{row} * kRowBytes;
    const int first = __shfl_sync(kWholeWarp, row, lane - in_four);
    const unsigned follow = __ballot_sync(
        kWholeWarp, first >= 0 && first % 4 == 0 && row == first + in_four);
    const bool together = (follow >> (lane - in_four) & 15) == 15;
    int place = lane * kSlotBytes, bytes = kSlotBytes;
    bool copies = row >= 0;
    if (together) {
      copies = in_four == 0;
      *at = place - in_four * (kSlotBytes - kRowBytes);
      bytes = 4 * kRowBytes;
    } else if (row >= 0) {
      const int before = row % 4 * 4;
      *at = place + before;
      from -= before;
      // What is copied behind the last row may not be the cache's.
      copies = row < slots - 1 || row % 4 == 3;
      for (int i = 0; !copies && i < kRowBytes; i += 4) {
        *reinterpret_cast<uint32_t*>(room + *at + i) =
            __ldcg(reinterpret_cast<const unsigned int*>(from + before + i));
      }
      if (!copies) FenceSharedStores();  // Copies will come there.
    }
    const unsigned fours = __ballot_sync(kWholeWarp, copies && together);
    const unsigned rows = __ballot_sync(kWholeWarp, copies && !together);
    if (lane == 0) {
      ArriveExpecting(
          full, __popc(fours) * 4 * kRowBytes + __popc(rows) * kSlotBytes);
    }
    __syncwarp();
    if (copies) LoadBytes(from, room + place, bytes, full);
  }

  // --- To BF16 ---

  // Codes of four bytes, the lower two and the upper two, exactly: with the
  // exponent of 128 above seven bits there is a number that differs from the
  // code by 128 and, where the code is negative, by as much again.
  static __device__ __forceinline__ __nv_bfloat162 Number(uint32_t bits) {
    return *reinterpret_cast<const __nv_bfloat162*>(&bits);
  }
  static __device__ __forceinline__ uint32_t Bits(__nv_bfloat162 x) {
    return *reinterpret_cast<const uint32_t*>(&x);
  }
  static __device__ __forceinline__ void WidenBytes(uint32_t codes,
                                                    uint32_t exponent,
                                                    __nv_bfloat162 scale,
                                                    uint32_t& low,
                                                    uint32_t& high) {
    const uint32_t seven = codes & 0x7F7F7F7F, sign = codes & 0x80808080;
    low = Bits(__hmul2(__hsub2(Number(__byte_perm(seven, exponent, 0x4140)),
                               Number(__byte_perm(sign, exponent, 0x4140))),
                       scale));
    high = Bits(__hmul2(__hsub2(Number(__byte_perm(seven, exponent, 0x4342)),
                                Number(__byte_perm(sign, exponent, 0x4342))),
                        scale));
  }
  // Of four bytes below 16, which are codes plus 8.
  static __device__ __forceinline__ void WidenNibbles(uint32_t nibbles,
                                                      uint32_t exponent,
                                                      __nv_bfloat162 scale,
                                                      uint32_t& low,
                                                      uint32_t& high) {
    const __nv_bfloat162 zero = Number(0x43084308);  // 136
    low = Bits(__hmul2(
        __hsub2(Number(__byte_perm(nibbles, exponent, 0x4140)), zero), scale));
    high = Bits(__hmul2(
        __hsub2(Number(__byte_perm(nibbles, exponent, 0x4342)), zero), scale));
  }

  // From shared memory; a pointer to anywhere would take a slower load.
  static __device__ __forceinline__ uint32_t LoadWord(uint32_t at) {
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
    return x;
  }
  static __device__ __forceinline__ uint16_t LoadHalf(uint32_t at) {
    uint16_t x;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(x) : "r"(at) : "memory");
    return x;
  }
  static __device__ __forceinline__ void StoreFour(uint32_t at, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x.x),
                 "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
  }

  // A lane's part of eight rows: of row lane % 8, of each pair of groups half a
  // group, 16 columns. So what lanes store side by side is in other banks where
  // a row of the others begins 16 bytes behind a multiple of 128, or is
  // swizzled.
  struct OfLane {
    uint32_t from;      // In shared memory: of the row's first pair, its codes.
    uint32_t scale;     // And the scale of these.
    int shift;          // Bits of the first word that are others'.
    uint32_t exponent;  // Of 128, four times.

    // The row in codes at `row`.
    __device__ __forceinline__ explicit OfLane(const uint8_t* row) {
      constexpr int kCodeBytes = PackedCodeBytes(kFormat);
      const uint32_t codes =
          SharedAddress(row) + Group() * PackedGroupBytes(kFormat);
      // A group begins at an even byte: the second's words are halves of two.
      from = codes + InGroup() * kCodeBytes / 2 - 2 * Group();
      scale = codes + kCodeBytes;
      shift = 16 * Group();
      // A grid has one layer. Were it a constant, each use would load it or
      // what selects its bytes.
      exponent = 0x43434343 + blockIdx.z;
    }
    static __device__ __forceinline__ int Group() { return Lane() / 16; }
    static __device__ __forceinline__ int InGroup() { return Lane() / 8 % 2; }

    // Which eight columns of a pair's the first of its two pieces are, and how
    // many eights behind the second is.
    static __device__ __forceinline__ int Piece() {
      return Group() * kPackedGroup / 8 +
             (kFormat == PackedFormat::kInt8 ? 2 * InGroup() : InGroup());
    }
    static constexpr int kStep = kFormat == PackedFormat::kInt8 ? 1 : 2;

    static constexpr int kWords = PackedCodeBytes(kFormat) / 2 / 4;
    struct Codes {
      uint32_t word[kWords + 1];
      uint16_t scale;
    };
    // Of pair `pair` of the row.
    __device__ __forceinline__ Codes Load(int pair) const {
      Codes codes;
#pragma unroll
      for (int i = 0; i <= kWords; ++i) {
        codes.word[i] = LoadWord(from + pair * kPairBytes + i * 4);
      }
      codes.scale = LoadHalf(scale + pair * kPairBytes);
      return codes;
    }
    __device__ __forceinline__ void Widen(const Codes& codes, uint4& first,
                                          uint4& second) const {
      const __nv_bfloat162 by =
          __bfloat162bfloat162(__ushort_as_bfloat16(codes.scale));
      uint32_t code[kWords];
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        code[i] = __funnelshift_r(codes.word[i], codes.word[i + 1], shift);
      }
      if constexpr (kFormat == PackedFormat::kInt8) {
        WidenBytes(code[0], exponent, by, first.x, first.y);
        WidenBytes(code[1], exponent, by, first.z, first.w);
        WidenBytes(code[2], exponent, by, second.x, second.y);
        WidenBytes(code[3], exponent, by, second.z, second.w);
      } else {
        constexpr uint32_t kLow = 0x0F0F0F0F;
        WidenNibbles(code[0] & kLow, exponent, by, first.x, first.y);
        WidenNibbles(code[1] & kLow, exponent, by, first.z, first.w);
        WidenNibbles(code[0] >> 4 & kLow, exponent, by, second.x, second.y);
        WidenNibbles(code[1] >> 4 & kLow, exponent, by, second.z, second.w);
      }
    }
  };

#endif  // STRATA_SM90A
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_CODE_ROWS_CUH_
