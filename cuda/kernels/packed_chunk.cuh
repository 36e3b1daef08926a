// Packed rows (core/quant/packed_rows.h) as operands of the tensor cores.
//
//   a chunk of a row      64 bytes: 128 columns of INT4, 64 of INT8
//   a piece               32 columns, which never have more than one scale
//   a step                16 of a piece's columns: what a product sums over
//
// Of each 32 bytes, thread t of four (threadIdx.x % 4) has the eight from 8 t
// on. Byte i of its word j is column 8 t + 4 j + i of a piece, in INT4 the low
// half, and the high half that of the next piece. So step j of a piece sums
// over the columns 8 t + 4 j + {0, 1, 2, 3} of all four threads, and a thread
// has the pairs (0, 2) and (1, 3), which one mask cuts out of a word; as long
// as x lies likewise, no order is better than another:
//
//   slots 2 t, 2 t + 1        columns 8 t + 4 j + 0, + 2
//   slots 2 t + 8, 2 t + 9    columns 8 t + 4 j + 1, + 3

#ifndef CUDA_KERNELS_PACKED_CHUNK_CUH_
#define CUDA_KERNELS_PACKED_CHUNK_CUH_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kChunkBytes = 64;
constexpr int kPieceColumns = 32;
template <int kBits>
constexpr int kChunkColumns = kChunkBytes * 8 / kBits;
template <int kBits>
constexpr int kChunkPieces = kChunkColumns<kBits> / kPieceColumns;

// Whether rows are symmetric, in groups, and whole pieces of 16 bytes: then
// groups come in eights, so that nothing is missing of any two chunks.
inline bool IsWhole(const PackedRows& w) {
  return w.symmetric && w.group_shift <= 7 && w.row_bytes % 16 == 0 &&
         w.code_bytes % (2 * kChunkBytes) == 0 &&
         reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
}
// Whether rows begin at multiples of 8 bytes.
inline bool IsAligned8(const PackedRows& w) {
  return w.row_bytes % 8 == 0 && reinterpret_cast<uintptr_t>(w.data) % 8 == 0;
}

// --- Memory that is read once ---

__device__ __forceinline__ uint2 LoadEightBytes(const uint8_t* p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];"
      : "=r"(v.x), "=r"(v.y)
      : "l"(p));
  return v;
}

// The same at any address: of the aligned words that hold a byte of them.
__device__ __forceinline__ uint2 LoadUnaligned(const uint8_t* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  const auto* const word =
      reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
  const auto shift = static_cast<uint32_t>(address % 4 * 8);
  const uint32_t a = __ldg(word), b = __ldg(word + 1);
  const uint32_t c = shift != 0 ? __ldg(word + 2) : 0;
  return {__funnelshift_r(a, b, shift), __funnelshift_r(b, c, shift)};
}

// --- Columns of x ---

// Columns [column, column + 8) of a row of k; zeros beyond the last. kWhole:
// none are.
template <bool kWhole>
__device__ __forceinline__ void LoadEight(const float* row, int64_t column,
                                          int k, float (&v)[8]) {
  const float* const from = row + column;
  if (kWhole || (k % 4 == 0 && column + 8 <= k)) {
    const float4 a = *reinterpret_cast<const float4*>(from);
    const float4 b = *(reinterpret_cast<const float4*>(from) + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      if (column + c < k) v[c] = from[c];
    }
  }
}

// The same of a row of x, whichever is there.
__device__ __forceinline__ void LoadEight(const QuantProductArgs& args,
                                          int64_t row, int64_t column,
                                          float (&v)[8]) {
  const int k = args.w.k;
  if (args.x_bf16 == nullptr) {
    return LoadEight<false>(args.x + row * k, column, k, v);
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    if (column + c >= k) continue;
    v[c] = __bfloat162float(args.x_bf16[row * k + column + c]);
  }
}

// --- A chunk of a row, in a thread's registers ---

template <int kBits>
struct Chunk {
  static constexpr int kPieces = kChunkPieces<kBits>;
  static constexpr int kWords = 4;
  static constexpr int kScaleWords = kPieces / 2;

  uint32_t code[kWords];        // Word 2 b + j: word j of 32 bytes b.
  uint32_t scale[kScaleWords];  // Two BF16 each; as many as there are groups,
                                // until Spread(): one a piece.
  uint32_t zero;                // A byte a group, then a piece.

  // Chunk `index` of the row at `row`, of which some may be missing: codes and
  // scales of 0. `fast`: the row is aligned to 8 bytes.
  __device__ __forceinline__ void Load(const PackedRows& w, const uint8_t* row,
                                       int index, bool fast) {
    const int t = threadIdx.x % 4;
    const uint8_t* const at = row + int64_t{index} * kChunkBytes + 8 * t;
    const bool half = index * kChunkBytes < w.code_bytes;
    const bool whole = index * kChunkBytes + 32 < w.code_bytes;
    uint2 low = {0, 0}, high = {0, 0};
    if (fast) {
      if (half) low = LoadEightBytes(at);
      if (whole) high = LoadEightBytes(at + 32);
    } else {
      if (half) low = LoadUnaligned(at);
      if (whole) high = LoadUnaligned(at + 32);
    }
    SetCodes(low, high);
    LoadGroups(w, row, index, fast);
  }

  // The same of a row that is whole (IsWhole), from copies in shared memory: of
  // both pieces' codes, of 8 bytes
  // each, and of the 16 bytes that the chunk's scales lie in.
  template <int kGroupShift>
  __device__ __forceinline__ void LoadCopy(const uint8_t* low,
                                           const uint8_t* high,
                                           const uint8_t* scales,
                                           uint32_t index) {
    SetCodes(*reinterpret_cast<const uint2*>(low),
             *reinterpret_cast<const uint2*>(high));
    const uint8_t* const from =
        scales + 2 * (index * kChunkColumns<kBits> >> kGroupShift) % 16;
    if constexpr (kBits == 4 && kGroupShift == 5) {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      scale[0] = v.x;
      scale[1] = v.y;
    } else if constexpr (kChunkColumns<kBits> >> kGroupShift == 2) {
      scale[0] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      scale[0] = *reinterpret_cast<const uint16_t*>(from);
    }
    zero = kBits == 4 ? 0x08080808u : 0x80808080u;
  }

  // From a scale a group to one a piece, and zeros likewise; those of rows that
  // are whole are the same.
  __device__ __forceinline__ void Spread(int group_shift) {
    SpreadScales(group_shift);
    if (group_shift == 5) return;
    zero = __byte_perm(zero, 0, kBits == 4 && group_shift == 6 ? 0x1100 : 0);
  }
  __device__ __forceinline__ void SpreadScales(int group_shift) {
    if (group_shift == 5) return;
    if constexpr (kBits == 4) {
      if (group_shift == 6) {
        scale[1] = __byte_perm(scale[0], 0, 0x3232);
        scale[0] = __byte_perm(scale[0], 0, 0x1010);
        return;
      }
      scale[1] = __byte_perm(scale[0], 0, 0x1010);
    }
    scale[0] = __byte_perm(scale[0], 0, 0x1010);
  }

  // The scale of piece p, behind Spread().
  __device__ __forceinline__ float Scale(int p) const {
    return __uint_as_float(p % 2 == 0 ? scale[p / 2] << 16
                                      : scale[p / 2] & 0xffff0000);
  }
  __device__ __forceinline__ uint32_t ScaleTwice(int p) const {
    return __byte_perm(scale[p / 2], 0, p % 2 == 0 ? 0x1010 : 0x3232);
  }
  __device__ __forceinline__ uint32_t Zero(int p) const {
    return zero >> (8 * p) & 255;
  }

 private:
  __device__ __forceinline__ void SetCodes(uint2 low, uint2 high) {
    code[0] = low.x, code[1] = low.y, code[2] = high.x, code[3] = high.y;
  }

  __device__ __forceinline__ void LoadGroups(const PackedRows& w,
                                             const uint8_t* row, int index,
                                             bool fast) {
    const int first = index * kChunkColumns<kBits> >> w.group_shift;
    const int wanted = max(1, kChunkColumns<kBits> >> w.group_shift);
    const int there = min(wanted, w.num_groups - first);
    const uint8_t* const at = row + w.code_bytes + 2 * first;
#pragma unroll
    for (int i = 0; i < kScaleWords; ++i) scale[i] = 0;
    if (fast && there == wanted) {
      if (kPieces == 4 && wanted == 4) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
        scale[0] = v.x;
        scale[kScaleWords - 1] = v.y;
      } else if (wanted == 2) {
        scale[0] = __ldg(reinterpret_cast<const uint32_t*>(at));
      } else {
        scale[0] = __ldg(reinterpret_cast<const uint16_t*>(at));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        if (i >= there) break;
        const uint32_t bits = at[2 * i] | at[2 * i + 1] << 8;
        scale[i / 2] |= bits << (16 * (i % 2));
      }
    }
    if (w.symmetric) {
      zero = kBits == 4 ? 0x08080808u : 0x80808080u;
      return;
    }
    zero = 0;
    const uint8_t* const zeros = row + w.code_bytes + 2 * w.num_groups + first;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (i < there) zero |= uint32_t{zeros[i]} << (8 * i);
    }
  }
};

// --- From codes to numbers ---

__device__ __forceinline__ uint32_t PairOf(__nv_bfloat162 pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ __nv_bfloat162 AsPair(uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}

// Eight columns of x, rounded, in the order of a thread's slots: those of step
// 0, then of step 1.
__device__ __forceinline__ uint4 RoundedEight(const float (&v)[8]) {
  return {PairOf(__floats2bfloat162_rn(v[0], v[2])),
          PairOf(__floats2bfloat162_rn(v[1], v[3])),
          PairOf(__floats2bfloat162_rn(v[4], v[6])),
          PairOf(__floats2bfloat162_rn(v[5], v[7]))};
}

// The same of eight in BF16, which lie one behind the other.
__device__ __forceinline__ uint4 OrderedEight(const uint4& v) {
  return {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632),
          __byte_perm(v.z, v.w, 0x5410), __byte_perm(v.z, v.w, 0x7632)};
}

// What is taken from a piece's codes; of one row.
template <int kBits>
struct Zero;

// (word & mask) | 0x43004300 in one instruction, of which the compiler makes
// two: they go by the slower of the units for integers, which bounds products
// of few rows.
template <uint32_t kMask>
__device__ __forceinline__ uint32_t TakeCodes(uint32_t word) {
  uint32_t taken;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(taken)
      : "r"(word), "n"(kMask), "n"(0x43004300u));
  return taken;
}

// 0x4300 with a code in its last bits is 128 + code, in BF16.
template <>
struct Zero<4> {
  uint32_t pair;
  __device__ __forceinline__ explicit Zero(uint32_t zero)
      : pair(0x43004300u + zero * 0x10001u) {}
  // Bytes `which` and `which` + 2 of `word`, in the half that is kHigh.
  template <bool kHigh>
  __device__ __forceinline__ uint32_t Integers(uint32_t word, int which) const {
    const int shift = 8 * which + (kHigh ? 4 : 0);
    const uint32_t codes = TakeCodes<0x000f000fu>(word >> shift);
    return PairOf(__hsub2(AsPair(codes), AsPair(pair)));
  }
  template <bool kHigh>
  __device__ __forceinline__ uint32_t Weights(uint32_t word, int which,
                                              uint32_t scale_twice) const {
    return PairOf(
        __hmul2(AsPair(Integers<kHigh>(word, which)), AsPair(scale_twice)));
  }
};

// 0x4b000000 with a code in its last bits is 2^23 + code, in F32.
template <>
struct Zero<8> {
  float number;
  __device__ __forceinline__ explicit Zero(uint32_t zero)
      : number(8388608.f + static_cast<float>(zero)) {}
  __device__ __forceinline__ float Integer(uint32_t word, int byte) const {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650 + byte)) -
           number;
  }
  template <bool kHigh>
  __device__ __forceinline__ uint32_t Integers(uint32_t word, int which) const {
    return PairOf(
        __floats2bfloat162_rn(Integer(word, which), Integer(word, which + 2)));
  }
  template <bool kHigh>
  __device__ __forceinline__ uint32_t Weights(uint32_t word, int which,
                                              uint32_t scale_twice) const {
    const float scale = __uint_as_float(scale_twice << 16);
    return PairOf(__floats2bfloat162_rn(Integer(word, which) * scale,
                                        Integer(word, which + 2) * scale));
  }
};

// Word and half of step `j` of piece `p`.
template <int kBits>
__host__ __device__ constexpr int WordOf(int p, int j) {
  return (kBits == 4 ? p / 2 : p) * 2 + j;
}
template <int kBits>
__host__ __device__ constexpr bool IsHigh(int p) {
  return kBits == 4 && p % 2 == 1;
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_PACKED_CHUNK_CUH_
