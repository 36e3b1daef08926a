#include <cstdint>

#include "cuda/model/random_fill.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// SplitMix64 (Steele, Lea and Flood 2014): the i-th number of a stream.
__device__ __forceinline__ uint64_t Mix(uint64_t i) {
  uint64_t z = i * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

template <typename T>
__global__ void FillKernel(T* data, int64_t n, float mean, float width,
                           uint64_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    const auto bits = static_cast<uint32_t>(Mix(seed + i + 1) >> 40);
    const float uniform = static_cast<float>(bits) * 0x1p-24f - 0.5f;
    data[i] = static_cast<T>(mean + width * uniform);
  }
}

// Codes without the lowest, which is the middle instead: their mean is the
// zero.
__device__ __forceinline__ uint16_t Centred(uint16_t codes, int bits) {
  if (bits == 8) {
    if ((codes & 0x00ff) == 0) codes |= 0x0080;
    if ((codes & 0xff00) == 0) codes |= 0x8000;
    return codes;
  }
  const int any = codes | codes >> 1 | codes >> 2 | codes >> 3;
  return static_cast<uint16_t>(codes | (~any & 0x1111) << 3);
}

__global__ void FillPackedKernel(uint16_t* data, int64_t n, int row, int codes,
                                 int bits, uint16_t scale, uint64_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    const auto random = static_cast<uint16_t>(Mix(seed + i + 1) >> 48);
    data[i] = i % row < codes ? Centred(random, bits) : scale;
  }
}

}  // namespace

cudaError_t FillPackedRandom(uint8_t* data, int64_t bytes, int64_t row_bytes,
                             int64_t code_bytes, int bits, float scale,
                             uint64_t seed, cudaStream_t stream) {
  constexpr int kBlocks = 132 * 8, kThreads = 256;
  FillPackedKernel<<<kBlocks, kThreads, 0, stream>>>(
      reinterpret_cast<uint16_t*>(data), bytes / 2,
      static_cast<int>(row_bytes / 2), static_cast<int>(code_bytes / 2), bits,
      __bfloat16_as_ushort(__float2bfloat16_rn(scale)), seed);
  return cudaGetLastError();
}

cudaError_t FillRandom(void* data, int64_t n, bool bf16, float mean,
                       float deviation, uint64_t seed, cudaStream_t stream) {
  constexpr int kBlocks = 132 * 8, kThreads = 256;
  const float width = deviation * 3.4641016f;  // Root of 12.
  if (bf16) {
    FillKernel<<<kBlocks, kThreads, 0, stream>>>(
        static_cast<__nv_bfloat16*>(data), n, mean, width, seed);
  } else {
    FillKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<float*>(data), n,
                                                 mean, width, seed);
  }
  return cudaGetLastError();
}

}  // namespace strata::gpu
