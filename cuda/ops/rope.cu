#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/rope.h"
#include "cuda/ops/rope_table.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// *longest = the largest position, by one block.
__global__ void __launch_bounds__(kBlock)
    LongestKernel(Extent tokens, const int32_t* position, int* longest) {
  __shared__ int block_max;
  if (threadIdx.x == 0) block_max = 0;
  __syncthreads();
  const int64_t t = tokens.Get();
  int max = 0;
  for (int64_t i = threadIdx.x; i < t; i += kBlock) {
    if (position[i] > max) max = position[i];
  }
  atomicMax(&block_max, max);
  __syncthreads();
  if (threadIdx.x == 0) *longest = block_max;
}

// Of a sequence of `seq_len` tokens.
__device__ double FrequencyOf(const RopeTable& table, int j, double seq_len) {
  if (!table.dynamic) return table.frequency[j];
  const double r = 2.0 * table.half;
  const double longer = fmax(seq_len, table.original_len);
  const double theta =
      table.theta *
      pow(table.factor * longer / table.original_len - (table.factor - 1),
          r / (r - 2));
  return pow(theta, -2.0 * j / r);
}

// A block a token: sines once, then all heads. Angles are made in double, as on
// the CPU: at position 100,000 a float's has two digits left.
__global__ void __launch_bounds__(kBlock)
    RopeKernel(Extent tokens, int64_t columns, const RopeTable table,
               const int* longest, const float* x, const int32_t* position,
               const int32_t* seq_len, float* y, FaultSink fault) {
  __shared__ float cosine[RopeTable::kMaxHalf], sine[RopeTable::kMaxHalf];
  const int64_t t = tokens.Get();
  const int half = table.half;
  const int64_t d = columns / table.num_heads, low = d - 2 * half;
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    if (threadIdx.x == 0 && position[i] < 0) {
      fault.Report(FaultKind::kPosition, i, position[i], 0);
    }
    double length = 0;
    if (table.dynamic) {
      length = seq_len != nullptr ? seq_len[i] : *longest + 1.0;
    }
    for (int j = threadIdx.x; j < half; j += kBlock) {
      double s, c;
      sincos(position[i] * FrequencyOf(table, j, length), &s, &c);
      cosine[j] = static_cast<float>(table.magnitude * c);
      sine[j] = static_cast<float>(table.turn * s);
    }
    __syncthreads();
    const float* const from = x + i * columns;
    float* const to = y + i * columns;
    for (int64_t at = threadIdx.x; at < table.num_heads * half; at += kBlock) {
      const int64_t start = at / half * d + low;
      const int j = static_cast<int>(at % half);
      const int64_t a = start + (table.interleaved ? 2 * j : j);
      const int64_t b = table.interleaved ? a + 1 : a + half;
      const float u = from[a], v = from[b];
      to[a] = u * cosine[j] - v * sine[j];
      to[b] = u * sine[j] + v * cosine[j];
    }
    for (int64_t at = threadIdx.x; at < table.num_heads * low; at += kBlock) {
      const int64_t column = at / low * d + at % low;
      to[column] = from[column];
    }
    __syncthreads();
  }
}

// Where frequencies follow from the longest sequence and nobody says how long
// each one is: finds it.
cudaError_t FindLongest(const KernelContext& ctx, const RopeTable& table,
                        const Operand& position, const int32_t* seq_len,
                        int*& longest) {
  if (!table.dynamic || seq_len != nullptr) return cudaSuccess;
  longest = ctx.Take<int>(1);
  if (longest == nullptr) return cudaErrorMemoryAllocation;
  LongestKernel<<<1, kBlock, 0, ctx.stream>>>(position.rows(),
                                              position.as<int32_t>(), longest);
  return cudaGetLastError();
}

cudaError_t RunRope(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  RopeTable table;
  if (!MakeRopeTable(ctx, table)) {
    return ctx.Refuse("rotary_dim of more than 256");
  }
  if (x.dim(0) == 0) return cudaSuccess;
  const int32_t* const seq_len = ctx.has(2) ? ctx.in(2).as<int32_t>() : nullptr;
  int* longest = nullptr;
  if (const cudaError_t e =
          FindLongest(ctx, table, ctx.in(1), seq_len, longest);
      e != cudaSuccess) {
    return e;
  }
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(x.dim(0), kMaxBlocks));
  RopeKernel<<<blocks, kBlock, 0, ctx.stream>>>(
      x.rows(), x.dim(1), table, longest, x.as<float>(),
      ctx.in(1).as<int32_t>(), seq_len, ctx.out(0).as<float>(), ctx.fault);
  return cudaGetLastError();
}

// cos and sin [t, half] of each token; a block a token.
__global__ void __launch_bounds__(kBlock)
    RopeTableKernel(Extent tokens, const RopeTable table, const int* longest,
                    const int32_t* position, const int32_t* seq_len,
                    float* cosine, float* sine, FaultSink fault) {
  const int64_t t = tokens.Get();
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    if (threadIdx.x == 0 && position[i] < 0) {
      fault.Report(FaultKind::kPosition, i, position[i], 0);
    }
    double length = 0;
    if (table.dynamic) {
      length = seq_len != nullptr ? seq_len[i] : *longest + 1.0;
    }
    for (int j = threadIdx.x; j < table.half; j += kBlock) {
      double s, c;
      sincos(position[i] * FrequencyOf(table, j, length), &s, &c);
      cosine[i * table.half + j] = static_cast<float>(table.magnitude * c);
      sine[i * table.half + j] = static_cast<float>(table.turn * s);
    }
  }
}

// (position, seq_len?) -> cos, sin
cudaError_t RunRopeTable(const KernelContext& ctx) {
  const Operand& position = ctx.in(0);
  RopeTable table;
  if (!MakeRopeTable(ctx, table)) {
    return ctx.Refuse("rotary_dim of more than 256");
  }
  if (position.dim(0) == 0) return cudaSuccess;
  const int32_t* const seq_len = ctx.has(1) ? ctx.in(1).as<int32_t>() : nullptr;
  int* longest = nullptr;
  if (const cudaError_t e = FindLongest(ctx, table, position, seq_len, longest);
      e != cudaSuccess) {
    return e;
  }
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(position.dim(0), kMaxBlocks));
  RopeTableKernel<<<blocks, kBlock, 0, ctx.stream>>>(
      position.rows(), table, longest, position.as<int32_t>(), seq_len,
      ctx.out(0).as<float>(), ctx.out(1).as<float>(), ctx.fault);
  return cudaGetLastError();
}

}  // namespace

void RegisterRopeKernels(KernelRegistry& kernels) {
  kernels.Register("Rope", RunRope);
  kernels.Register("RopeTable", RunRopeTable);
}

}  // namespace strata::gpu
