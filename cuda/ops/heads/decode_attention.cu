#include <cstdint>

#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_lanes.cuh"
#include "cuda/ops/heads/decode_pieces.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

using decode::kSteps;
using decode::kThreads;

// Floats or BF16: a thread reads what itself has asked for.
template <typename T, int lanes>
class Vectors {
 public:
  static constexpr int kLanes = lanes, kVec = kVector<T>, kFinds = kSteps;
  static constexpr int kHeadBytes = kLanes * 16;
  static constexpr size_t kStageBytes = sizeof(uint4) * 2 * kSteps * kThreads;
  static constexpr bool kOfWarp = false;

  __device__ Vectors(const decode::Args& args, int kv_head, uint4* memory)
      : row_bytes_(args.row_bytes), memory_(memory) {
    const int64_t at = kv_head * args.head_bytes + Lane() % kLanes * 16;
    k_ = static_cast<const char*>(args.k) + at;
    v_ = static_cast<const char*>(args.v) + at;
  }
  // The lane's key of load i.
  __device__ static int Find(int i) {
    return i * (kWarp / kLanes) + Lane() / kLanes;
  }
  __device__ __forceinline__ void Ask(int stage,
                                      const int64_t (&row)[kFinds]) const {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      CopyAsync16(Slot(stage, s), k_ + row[s] * row_bytes_);
      CopyAsync16(Slot(stage, kSteps + s), v_ + row[s] * row_bytes_);
    }
  }
  __device__ __forceinline__ float Key(int stage, int s,
                                       float (&x)[kVec]) const {
    Unpack(*Slot(stage, s), x);
    return 1;
  }
  __device__ __forceinline__ float Value(int stage, int s,
                                         float (&x)[kVec]) const {
    Unpack(*Slot(stage, kSteps + s), x);
    return 1;
  }

 private:
  __device__ __forceinline__ uint4* Slot(int stage, int i) const {
    return memory_ + (stage * 2 * kSteps + i) * kThreads + threadIdx.x;
  }

  int64_t row_bytes_;
  uint4* memory_;
  const char* k_;
  const char* v_;
};

template <typename T>
cudaError_t LaunchWidth(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int lanes = args.dim / kVector<T>;
  if (lanes == 8) return decode::LaunchHeads<Vectors<T, 8>>(args, stream);
  return lanes == 16 ? decode::LaunchHeads<Vectors<T, 16>>(args, stream)
                     : decode::LaunchHeads<Vectors<T, 32>>(args, stream);
}

}  // namespace

bool HasDecodeAttention(const DecodeAttentionArgs& args) {
  const int bytes = args.dim * (args.bf16_cache ? 2 : 4);
  return (bytes == 128 || bytes == 256 || bytes == 512) &&
         args.num_heads % args.num_kv_heads == 0 &&
         args.num_heads / args.num_kv_heads <= 8 && args.max_keys < INT32_MAX;
}

int64_t DecodePieces(const DecodeAttentionArgs& args) {
  return args.tokens.bound * args.num_heads * decode::SplitsOf(args);
}

int64_t DecodeCounters(const DecodeAttentionArgs& args) {
  return args.tokens.bound * args.num_kv_heads;
}

cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasDecodeAttention(args)) return cudaErrorInvalidValue;
  return args.bf16_cache ? LaunchWidth<__nv_bfloat16>(args, stream)
                         : LaunchWidth<float>(args, stream);
}

}  // namespace strata::gpu
