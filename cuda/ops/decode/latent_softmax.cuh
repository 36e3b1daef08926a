// Scores of a tile of keys to weights: what latent decode attention
// (latent_decode.cu) does between its products.

#ifndef CUDA_OPS_DECODE_LATENT_SOFTMAX_CUH_
#define CUDA_OPS_DECODE_LATENT_SOFTMAX_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/kernels/power_of_2.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/ops/decode/latent_keys.cuh"

namespace strata::gpu::latent {

#if STRATA_SM90A

// Powers of 2 that a score may be above the maximum which all are held against
// before that grows. Sums are F32 and weights have as many bits whatever their
// size, so nothing is lost; sums are seldom multiplied, and lanes need not tell
// each other their scores' maximum.
constexpr float kSlack = 8;

// Of a thread's two heads (rows `upper` and eight below).
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};  // Or up to kSlack powers less.
  float sum[2] = {0, 0};                  // This thread's part.
};

// Scores of a tile to weights, `keys` of which are there. A warpgroup's warps
// are alone in their quarters of the processor, so it is the number of
// instructions that costs: a maximum, a multiplication with an addition, a
// power and a sum for each score.
__device__ __forceinline__ void Weigh(float (&score)[kRows / 2], float factor,
                                      int keys, Softmax& softmax,
                                      float (&keep)[2]) {
  const int lane = threadIdx.x % 4;
  if (keys < kRows) {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      if (i / 4 * 8 + lane * 2 + i % 2 >= keys) score[i] = -INFINITY;
    }
  }
  float largest[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float part[kRows / 8];
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
      part[g] = fmaxf(score[4 * g + 2 * half], score[4 * g + 2 * half + 1]);
    }
#pragma unroll
    for (int n = kRows / 16; n > 0; n /= 2) {
#pragma unroll
      for (int g = 0; g < n; ++g) part[g] = fmaxf(part[g], part[g + n]);
    }
    largest[half] = part[0];
    keep[half] = 1;
  }
  const auto is_above = [&](int half) {
    return factor * (largest[half] - softmax.max[half]) > kSlack;
  };
  if (__any_sync(0xffffffff, is_above(0) || is_above(1))) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& x = largest[half];
      x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
      if (!is_above(half)) continue;
      keep[half] = PowerOf2(factor * (softmax.max[half] - x));
      softmax.max[half] = x;
      softmax.sum[half] *= keep[half];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float shift = factor * softmax.max[half];
    float part[4] = {0, 0, 0, 0};
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[4 * g + 2 * half + i];
        x = PowerOf2(fmaf(factor, x, -shift));
        part[g % 2 * 2 + i] += x;
      }
    }
    softmax.sum[half] += (part[0] + part[1]) + (part[2] + part[3]);
  }
}

// Two BF16 a register, as products take an operand from there.
__device__ __forceinline__ void Narrow(const float (&score)[kRows / 2],
                                       uint32_t (&weight)[kRows / 16][4]) {
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[q][i] = Pair(score[8 * q + 2 * i], score[8 * q + 2 * i + 1]);
    }
  }
}

template <typename S>
__device__ __forceinline__ void StoreWeights(
    const uint32_t (&weight)[kRows / 16][4], int upper, S& shared) {
  char* const to = reinterpret_cast<char*>(shared.Weights());
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<uint32_t*>(to + SwizzledBytes(upper + 8 * half, g) +
                                   lane * 4) = weight[g / 2][g % 2 * 2 + half];
    }
  }
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_SOFTMAX_CUH_
