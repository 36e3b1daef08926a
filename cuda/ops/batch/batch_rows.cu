#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/batch/batch_rows.h"
#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kEight = 8;

// --- Norm: a block a row ---

// Rows of up to so many columns stay in registers.
constexpr int kRowInRegisters = kBlock * kEight;

__global__ void __launch_bounds__(kBlock)
    NormKernel(Extent tokens, int d, const float* x, const float* gain,
               float eps, __nv_bfloat16* y) {
  const int first = static_cast<int>(threadIdx.x) * kEight;
  float g[kEight] = {};
  if (first < d) Load8(gain + first, g);
  LetLaterBegin();
  WaitForEarlier();
  const int64_t token = blockIdx.x;
  if (token >= tokens.Get()) return;
  const float* const row = x + token * d;
  float value[kEight] = {}, other[kEight];
  if (first < d) Load8(row + first, value);
  float sum = 0;
#pragma unroll
  for (const float v : value) sum = fmaf(v, v, sum);
  for (int c = first + kRowInRegisters; c < d; c += kRowInRegisters) {
    Load8(row + c, other);
#pragma unroll
    for (const float v : other) sum = fmaf(v, v, sum);
  }
  const float scale = rsqrtf(BlockSum(sum) / static_cast<float>(d) + eps);
  __nv_bfloat16* const to = y + token * d;
  if (first < d) {
#pragma unroll
    for (int i = 0; i < kEight; ++i) value[i] *= scale * g[i];
    Store8(value, to + first);
  }
  for (int c = first + kRowInRegisters; c < d; c += kRowInRegisters) {
    Load8(row + c, other);
    Load8(gain + c, g);
#pragma unroll
    for (int i = 0; i < kEight; ++i) other[i] *= scale * g[i];
    Store8(other, to + c);
  }
}

// --- A thread eight columns ---

__global__ void __launch_bounds__(kBlock)
    SwiGluKernel(Extent rows, int pieces, const float* both, __nv_bfloat16* y) {
  LetLaterBegin();
  WaitForEarlier();
  const int64_t n = rows.Get() * pieces;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t row = i / pieces, piece = i - row * pieces;
    const float* const at = both + (2 * row * pieces + piece) * kEight;
    float gate[kEight], up[kEight];
    Load8(at, gate);
    Load8(at + int64_t{pieces} * kEight, up);
#pragma unroll
    for (int j = 0; j < kEight; ++j) gate[j] *= SigmoidOf(gate[j]) * up[j];
    Store8(gate, y + i * kEight);
  }
}

__global__ void __launch_bounds__(kBlock)
    SumKernel(Extent rows, int pieces, const float4* x, const float4* add,
              float4* y) {
  LetLaterBegin();
  WaitForEarlier();
  const int64_t n = rows.Get() * pieces;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const float4 a = x[i], b = add[i];
    y[i] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
}

// --- W_K the other way round ---

constexpr int kSide = 32;

__global__ void __launch_bounds__(kBlock)
    TransposeKernel(int rows, int columns, int64_t step, const float* x,
                    __nv_bfloat16* y) {
  __shared__ float tile[kSide][kSide + 1];
  const int64_t head = blockIdx.z;
  const int row = static_cast<int>(blockIdx.y) * kSide;
  const int column = static_cast<int>(blockIdx.x) * kSide;
  for (int i = threadIdx.x / kWarp; i < kSide; i += kWarpsPerBlock) {
    if (row + i < rows && column + Lane() < columns) {
      tile[i][Lane()] =
          x[head * step + int64_t{row + i} * columns + column + Lane()];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x / kWarp; i < kSide; i += kWarpsPerBlock) {
    if (column + i < columns && row + Lane() < rows) {
      y[(head * columns + column + i) * rows + row + Lane()] =
          __float2bfloat16_rn(tile[Lane()][i]);
    }
  }
}

dim3 BlocksOfEights(Extent rows, int64_t pieces) {
  return dim3(BlocksFor(rows.bound * pieces));
}

}  // namespace

cudaError_t NormRounded(Extent tokens, int64_t d, const float* x,
                        const float* gain, float eps, __nv_bfloat16* y,
                        cudaStream_t stream) {
  return LaunchAhead(NormKernel, dim3(static_cast<unsigned>(tokens.bound)),
                     dim3(kBlock), 0, stream, tokens, static_cast<int>(d), x,
                     gain, eps, y);
}

cudaError_t SwiGluRounded(Extent rows, int64_t width, const float* both,
                          __nv_bfloat16* y, cudaStream_t stream) {
  const auto pieces = static_cast<int>(width / kEight);
  return LaunchAhead(SwiGluKernel, BlocksOfEights(rows, pieces), dim3(kBlock),
                     0, stream, rows, pieces, both, y);
}

cudaError_t SumRows(Extent tokens, int64_t d, const float* x, const float* add,
                    float* y, cudaStream_t stream) {
  const auto pieces = static_cast<int>(d / 4);
  return LaunchAhead(SumKernel, BlocksOfEights(tokens, pieces), dim3(kBlock), 0,
                     stream, tokens, pieces, reinterpret_cast<const float4*>(x),
                     reinterpret_cast<const float4*>(add),
                     reinterpret_cast<float4*>(y));
}

cudaError_t TransposeRounded(int64_t heads, int64_t rows, int64_t columns,
                             int64_t step, const float* x, __nv_bfloat16* y,
                             cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>(CeilDiv(columns, kSide)),
                    static_cast<unsigned>(CeilDiv(rows, kSide)),
                    static_cast<unsigned>(heads));
  TransposeKernel<<<blocks, kBlock, 0, stream>>>(
      static_cast<int>(rows), static_cast<int>(columns), step, x, y);
  return cudaGetLastError();
}

}  // namespace strata::gpu
