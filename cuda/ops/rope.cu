#include <cstdint>

#include "cuda/ops/bf16/pairs.cuh"
#include "cuda/ops/bf16/with_type.h"
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

constexpr int kRopeTokens = 8;  // Of a block at a time, at most.

// A block `per_block` tokens: their sines once, then all heads, a warp each.
// Angles are made in double, as on the CPU: at position 100,000 a float's has
// two digits left.
template <typename X, typename Y>
__global__ void __launch_bounds__(kBlock)
    RopeKernel(Extent tokens, int per_block, int64_t columns,
               const RopeTable table, const int* longest, const X* x,
               const int32_t* position, const int32_t* seq_len, Y* y,
               FaultSink fault) {
  __shared__ float cosine[kRopeTokens][RopeTable::kMaxHalf];
  __shared__ float sine[kRopeTokens][RopeTable::kMaxHalf];
  const int64_t t = tokens.Get();
  const int half = table.half;
  const int num_heads = static_cast<int>(table.num_heads);
  const int d = static_cast<int>(columns / num_heads), low = d - 2 * half;
  for (int64_t first = int64_t{blockIdx.x} * per_block; first < t;
       first += int64_t{gridDim.x} * per_block) {
    const int here = static_cast<int>(min(int64_t{per_block}, t - first));
    for (int at = threadIdx.x; at < here * half; at += kBlock) {
      const int token = at / half, j = at % half;
      const int64_t i = first + token;
      if (j == 0 && position[i] < 0) {
        fault.Report(FaultKind::kPosition, i, position[i], 0);
      }
      double length = 0;
      if (table.dynamic) {
        length = seq_len != nullptr ? seq_len[i] : *longest + 1.0;
      }
      double s, c;
      sincos(position[i] * FrequencyOf(table, j, length), &s, &c);
      cosine[token][j] = static_cast<float>(table.magnitude * c);
      sine[token][j] = static_cast<float>(table.turn * s);
    }
    __syncthreads();
    for (int unit = threadIdx.x / kWarp; unit < here * num_heads;
         unit += kWarpsPerBlock) {
      const int token = unit / num_heads, h = unit % num_heads;
      const X* const from = x + (first + token) * columns + h * d;
      Y* const to = y + (first + token) * columns + h * d;
      for (int j = Lane(); j < half; j += kWarp) {
        const int a = low + (table.interleaved ? 2 * j : j);
        const int b = table.interleaved ? a + 1 : a + half;
        const float u = from[a], v = from[b];
        const float c = cosine[token][j], s = sine[token][j];
        to[a] = static_cast<Y>(u * c - v * s);
        to[b] = static_cast<Y>(u * s + v * c);
      }
      CopyColumns(low, from, to);
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
  // As many as let blocks fill the GPU.
  const int64_t per_block =
      std::clamp<int64_t>(CeilDiv(x.dim(0), kMaxBlocks), 1, kRopeTokens);
  const auto blocks =
      static_cast<unsigned>(std::min(CeilDiv(x.dim(0), per_block), kMaxBlocks));
  WithType(x, [&](auto* x_type) {
    WithType(ctx.out(0), [&](auto* y_type) {
      RopeKernel<<<blocks, kBlock, 0, ctx.stream>>>(
          x.rows(), static_cast<int>(per_block), x.dim(1), table, longest,
          x.as<ElementOf<decltype(x_type)>>(), ctx.in(1).as<int32_t>(), seq_len,
          ctx.out(0).as<ElementOf<decltype(y_type)>>(), ctx.fault);
    });
  });
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
