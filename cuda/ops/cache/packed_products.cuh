// Keys and values of a packed cache (packed_head.cuh) as operands of the tensor
// cores' products of bytes, 16 x 8 x 32 with sums in integers: what a lane of a
// warp has of a tile of 32 keys that lie in shared memory.
//
//   keys     16 keys by the 32 columns of a group; a lane (g, t), g = lane / 4,
//            has two keys, TileKey(g, .), and of each columns 4 t and 16 + 4 t
//   values   16 columns by 32 keys, transposed on their way; a lane has four
//            columns of a group, ValueColumn(g, .), and of each the keys
//            TileKey(t, .) and TileKey(t + 4, .)
//
// Bytes are codes of INT8, and 16 times codes less 8 of INT4: a half of a byte
// becomes that by a mask and the other sign of its highest bit. Groups lie two
// bytes from where words do if their number is odd.

#ifndef CUDA_OPS_CACHE_PACKED_PRODUCTS_CUH_
#define CUDA_OPS_CACHE_PACKED_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_head.cuh"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int kTileKeys = 32;

// sum [16, 8] += a [16, 32] b [32, 8], by a warp, of signed bytes.
__device__ __forceinline__ void MultiplyBytes(int (&sum)[4],
                                              const uint32_t (&a)[4],
                                              const uint2& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// Numbers of 16 bits, up to this, are two bytes of operands.
constexpr float kWhole = 32512;  // 127 * 256.

// Four such numbers as two words of bytes: x = 256 high + low. They come as
// floats plus kBytesOf, whose last bits then are the number's plus 128.
constexpr float kBytesOf = 12582912.f + 128;  // 1.5 * 2^23.
struct BytesOfFour {
  uint32_t high, low;
};
__device__ __forceinline__ BytesOfFour SplitFour(const float (&x)[4]) {
  const uint32_t a =
      __byte_perm(__float_as_uint(x[0]), __float_as_uint(x[1]), 0x5140);
  const uint32_t b =
      __byte_perm(__float_as_uint(x[2]), __float_as_uint(x[3]), 0x5140);
  return {__byte_perm(a, b, 0x7632), __byte_perm(a, b, 0x5410) ^ 0x80808080};
}

// A sum by the high bytes and one by the low ones.
__device__ __forceinline__ float JoinBytes(int high, int low) {
  return static_cast<float>(256 * high + low);
}

// What the largest magnitude makes of a number whose whole is kWhole, and the
// number that 1 then is. Magnitudes that are all but zero count as zero; a NaN
// makes the unit NaN.
struct Whole {
  float scale, unit;
};
__device__ __forceinline__ Whole WholeOf(float largest) {
  return {largest > 1e-30f ? __fdividef(kWhole, largest) : 0.f,
          largest * (1 / kWhole)};
}

// Key j of four of a lane: those of lanes 0 to 3 lie two apart, as do those of
// lanes 4 to 7, so that values are read from different banks as keys are.
__device__ __forceinline__ int TileKey(int g, int j) {
  return 8 * j + (2 * g & 7) + g / 4;
}

// Of so many heads that lie beside each other.
template <PackedFormat format, int dim, int heads>
struct CacheTile {
  static constexpr bool kEight = format == PackedFormat::kInt8;
  static constexpr int kGroups = dim / kPackedGroup;
  static constexpr int kGroupBytes = PackedGroupBytes(format);
  static constexpr int kHeadBytes = kGroups * kGroupBytes;
  static constexpr int kKeyBytes = heads * kHeadBytes;
  // From key to key: an odd number of 16 bytes, so that eight keys begin in
  // different banks, four words each.
  static constexpr int kPitch = (kKeyBytes + 15) / 16 * 16 | 16;
  static constexpr int kBytes = kTileKeys * kPitch;
  static constexpr float kUnit = kEight ? 1.f : 1 / 16.f;

  static __device__ __forceinline__ uint32_t Word(const uint8_t* at) {
    return *reinterpret_cast<const uint32_t*>(at);
  }
  // The upper halves of bytes, and the lower ones, as said above.
  static __device__ __forceinline__ uint32_t Upper(uint32_t codes) {
    return (codes & 0xF0F0F0F0) ^ 0x80808080;
  }
  static __device__ __forceinline__ uint32_t Lower(uint32_t codes) {
    return Upper(codes << 4);
  }

  // Of a key of the tile.
  static __device__ __forceinline__ float Scale(const uint8_t* key, int group) {
    return WidenBits(*reinterpret_cast<const uint16_t*>(
        key + group * kGroupBytes + PackedCodeBytes(format)));
  }

  // Columns 4 t and 16 + 4 t of a group of two keys.
  static __device__ __forceinline__ void Keys(const uint8_t* (&key)[2],
                                              int group, int t,
                                              uint32_t (&a)[4]) {
    // A word at a multiple of two.
    const auto word = [&](int k, int byte) {
      const int at = group * kGroupBytes + byte;
      const uint8_t* const from = key[k] + at + 4 * t;
      if (at % 4 == 0) return Word(from);
      return __byte_perm(Word(from - 2), Word(from + 2), 0x5432);
    };
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const uint32_t first = word(k, 0);
      a[k] = kEight ? first : Lower(first);
      a[2 + k] = kEight ? word(k, kPackedGroup / 2) : Upper(first);
    }
  }

  // Column i of a lane's four of a group.
  static __device__ __forceinline__ int ValueColumn(int g, int i) {
    return kEight ? 4 * g + i : 2 * g + i % 2 + i / 2 * (kPackedGroup / 2);
  }
  // A lane's columns of two products: 0 and 1 of the first, 2 and 3 of the
  // second.
  static __device__ __forceinline__ void Values(const uint8_t* tile, int group,
                                                int g, int t,
                                                uint32_t (&a)[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t y[4];  // A column each.
      if constexpr (kEight) {
        Transpose(tile + TileKey(t + 4 * half, 0) * kPitch + 4 * g, group, y);
      } else {
        const uint8_t* const from = tile + TileKey(t + 4 * half, 0) * kPitch +
                                    group * kGroupBytes + 2 * g;
        uint32_t x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          x[j] = *reinterpret_cast<const uint16_t*>(from + 8 * j * kPitch);
        }
        const uint32_t first = __byte_perm(x[0], x[1], 0x5140);
        const uint32_t last = __byte_perm(x[2], x[3], 0x5140);
        const uint32_t even = __byte_perm(first, last, 0x5410);
        const uint32_t odd = __byte_perm(first, last, 0x7632);
        y[0] = Lower(even);
        y[1] = Lower(odd);
        y[2] = Upper(even);
        y[3] = Upper(odd);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i / 2][2 * half + i % 2] = y[i];
    }
  }

 private:
  // Four bytes of four keys, eight apart, as four words of a byte of each.
  static __device__ __forceinline__ void Transpose(const uint8_t* key,
                                                   int group,
                                                   uint32_t (&y)[4]) {
    const int at = group * kGroupBytes;
    uint32_t first[4], last[4];  // Words that have the first two; and the last.
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint8_t* const from = key + 8 * j * kPitch + at;
      first[j] = Word(at % 4 == 0 ? from : from - 2);
      last[j] = at % 4 == 0 ? first[j] : Word(from + 2);
    }
    // In whole words the first two bytes are the lower half, the last two the
    // upper; in two words it is the other way round.
    const uint32_t of_first = at % 4 == 0 ? 0x5140 : 0x7362;
    const uint32_t of_last = at % 4 == 0 ? 0x7362 : 0x5140;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto& from = i == 0 ? first : last;
      const uint32_t of = i == 0 ? of_first : of_last;
      const uint32_t a = __byte_perm(from[0], from[1], of);
      const uint32_t b = __byte_perm(from[2], from[3], of);
      y[2 * i] = __byte_perm(a, b, 0x5410);
      y[2 * i + 1] = __byte_perm(a, b, 0x7632);
    }
  }
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_PRODUCTS_CUH_
