#include <cstdint>

#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_decode.h"
#include "cuda/ops/cache/packed_head.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_lanes.cuh"
#include "cuda/ops/heads/decode_pieces.cuh"

// A head of integers begins at a multiple of four bytes only, and its odd
// groups not even there: a warp copies whole heads, 4 or 8 bytes a lane, and a
// lane then reads the words that hold its eight codes.
//
//   codes to floats   a byte put under the exponent of 2^23 is that float plus
//                     the byte: a permutation and a subtraction each
//   scales            of the sum of a lane's columns, which one group has

namespace strata::gpu {
namespace {

using decode::kSteps;
using decode::kWarps;

template <PackedFormat format, int dim>
class PackedCodes {
 public:
  static constexpr int kVec = 8, kLanes = dim / kVec, kFinds = 1;
  static constexpr int kGroupBytes = PackedGroupBytes(format);
  static constexpr int kHeadBytes = dim / kPackedGroup * kGroupBytes;
  static constexpr int kHigh = kWarp / kLanes, kKeys = kHigh * kSteps;
  static constexpr int kLanesOfCopy = kWarp / kKeys;
  static constexpr int kWarpBytes = 2 * kKeys * kHeadBytes;
  static constexpr size_t kStageBytes = size_t{kWarps} * kWarpBytes;
  static constexpr bool kOfWarp = true;

  __device__ PackedCodes(const decode::Args& args, int kv_head, uint4* memory)
      : row_bytes_(args.row_bytes) {
    const int64_t at = kv_head * args.head_bytes;
    k_ = static_cast<const uint8_t*>(args.k) + at;
    v_ = static_cast<const uint8_t*>(args.v) + at;
    memory_ = reinterpret_cast<uint8_t*>(memory) +
              static_cast<int>(threadIdx.x) / kWarp * kWarpBytes;
    const int column = Lane() % kLanes * kVec;
    const int group = column / kPackedGroup, in = column % kPackedGroup;
    odd_ = group % 2;
    high_half_ = format == PackedFormat::kInt4 && in >= kPackedGroup / 2;
    const int code = high_half_ ? in - kPackedGroup / 2 : in;
    codes_at_ = Lane() / kLanes * kHeadBytes + group * kGroupBytes + code;
    scale_at_ = codes_at_ - code + PackedCodeBytes(format);
  }
  __device__ static int Find(int) { return Lane() / kLanesOfCopy; }

  // Some lanes copy a key and its value, units in turn.
  __device__ __forceinline__ void Ask(int stage,
                                      const int64_t (&row)[kFinds]) const {
    constexpr int kUnit = kHeadBytes % 8 == 0 ? 8 : 4;
    constexpr int kUnits = kHeadBytes / kUnit;
    static_assert(kHeadBytes % kUnit == 0, "heads begin where units do");
    const int first = Lane() % kLanesOfCopy;
    uint8_t* const to = memory_ + stage * kStageBytes +
                        Lane() / kLanesOfCopy * kHeadBytes + first * kUnit;
    const int64_t from = row[0] * row_bytes_ + first * kUnit;
#pragma unroll
    for (int u = 0; u < kUnits; u += kLanesOfCopy) {
      if (u + kLanesOfCopy > kUnits && u + first >= kUnits) continue;
      CopyAsync<kUnit>(to + u * kUnit, k_ + from + u * kUnit);
      CopyAsync<kUnit>(to + kKeys * kHeadBytes + u * kUnit,
                       v_ + from + u * kUnit);
    }
  }
  __device__ __forceinline__ float Key(int stage, int s,
                                       float (&x)[kVec]) const {
    return Read(memory_ + stage * kStageBytes + s * kHigh * kHeadBytes, x);
  }
  __device__ __forceinline__ float Value(int stage, int s,
                                         float (&x)[kVec]) const {
    return Read(
        memory_ + stage * kStageBytes + (kKeys + s * kHigh) * kHeadBytes, x);
  }

 private:
  __device__ __forceinline__ float Read(const uint8_t* heads,
                                        float (&x)[kVec]) const {
    // Words from the one that has the first code; an odd group's begin in it.
    const auto* const word =
        reinterpret_cast<const uint32_t*>(heads + codes_at_ - 2 * odd_);
    const uint32_t w[3] = {word[0], word[1], word[2]};
    uint32_t code[2] = {__funnelshift_r(w[0], w[1], 16 * odd_),
                        __funnelshift_r(w[1], w[2], 16 * odd_)};
    constexpr uint32_t kExponent = 0x4B000000;  // 2^23
    constexpr bool kEight = format == PackedFormat::kInt8;
    constexpr float kZero = 8388608.f + (kEight ? 128 : 8);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      code[i] = kEight ? code[i] ^ 0x80808080
                       : code[i] >> (high_half_ ? 4 : 0) & 0x0F0F0F0F;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[4 * i + j] =
            __uint_as_float(__byte_perm(code[i], kExponent, 0x7650 + j)) -
            kZero;
      }
    }
    return WidenBits(*reinterpret_cast<const uint16_t*>(heads + scale_at_));
  }

  int64_t row_bytes_;
  const uint8_t* k_;
  const uint8_t* v_;
  uint8_t* memory_;
  int odd_, codes_at_, scale_at_;
  bool high_half_;
};

template <PackedFormat format>
cudaError_t LaunchWidth(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if (args.dim == 64) {
    return decode::LaunchHeads<PackedCodes<format, 64>>(args, stream);
  }
  return args.dim == 128
             ? decode::LaunchHeads<PackedCodes<format, 128>>(args, stream)
             : decode::LaunchHeads<PackedCodes<format, 256>>(args, stream);
}

}  // namespace

bool HasPackedDecode(const DecodeAttentionArgs& args) {
  return (args.dim == 64 || args.dim == 128 || args.dim == 256) &&
         args.num_heads % args.num_kv_heads == 0 &&
         args.num_heads / args.num_kv_heads <= 8 && args.max_keys < INT32_MAX;
}

cudaError_t PackedDecode(const DecodeAttentionArgs& args, PackedFormat format,
                         cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasPackedDecode(args) || format == PackedFormat::kBf16) {
    return cudaErrorInvalidValue;
  }
  return format == PackedFormat::kInt8
             ? LaunchWidth<PackedFormat::kInt8>(args, stream)
             : LaunchWidth<PackedFormat::kInt4>(args, stream);
}

}  // namespace strata::gpu
