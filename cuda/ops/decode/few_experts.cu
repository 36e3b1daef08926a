#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

using BFloat = __nv_bfloat16;

constexpr int kHalf = kTileRows / 2;

__device__ __forceinline__ const uint4* Vectors(const BFloat* p) {
  return reinterpret_cast<const uint4*>(p);
}

// Block (8 columns of hidden, an expert); warps share what is summed over.
__global__ void __launch_bounds__(kBlock, 2)
    HiddenKernel(const FewExpertsArgs a) {
  __shared__ float sums[kWarpsPerBlock][kTileRows][kTileTokens];
  WaitForEarlier();
  LetLaterBegin();
  const int index = static_cast<int>(blockIdx.y);
  if (index >= *a.num_active) return;
  const int64_t expert = a.active[index];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int64_t first = int64_t{blockIdx.x} * kHalf;
  const int64_t slice = a.d / kWarpsPerBlock;
  const int steps = static_cast<int>(slice / kTileColumns);
  StepsAhead w;
  w.upper = Vectors(a.gate_up + (expert * 2 * a.width + first + g) * a.d +
                    warp * slice + c * 8);
  w.lower = w.upper + a.width * a.d / 8;
  w.Load(0, steps);
  const bool there = a.pick[index * kTileTokens + g] >= 0;
  const uint4* const x = Vectors(a.x + g * a.d + warp * slice + c * 8);
  float d[4] = {0, 0, 0, 0};
  MultiplySteps(
      w, steps,
      [&](int step) {
        return there ? x[step * (kTileColumns / 8)] : uint4{0, 0, 0, 0};
      },
      d);
  StoreTile(d, sums[warp]);
  __syncthreads();
  if (threadIdx.x >= kHalf * kTileTokens) return;
  const int column = static_cast<int>(threadIdx.x) % kHalf;
  const int token = static_cast<int>(threadIdx.x) / kHalf;
  const int slot = a.pick[index * kTileTokens + token];
  if (slot < 0) return;
  const float gate = SumOfWarps(sums, column, token);
  const float up = SumOfWarps(sums, column + kHalf, token);
  const int64_t at = int64_t{token} * a.k + slot;
  a.hidden[at * a.width + first + column] =
      __float2bfloat16_rn(a.weight[at] * gate * SigmoidOf(gate) * up);
}

// Block: 16 columns of y.
__global__ void __launch_bounds__(kBlock, 2)
    OutputKernel(const FewExpertsArgs a) {
  __shared__ float sums[kWarpsPerBlock][kTileRows][kTileTokens];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int64_t first = int64_t{blockIdx.x} * kTileRows;
  StepsAhead w;
  // The shared expert's weights are known before the choice.
  const int64_t slice = a.shared_width / kWarpsPerBlock;
  const int shared_steps = static_cast<int>(slice / kTileColumns);
  if (shared_steps > 0) {
    w.upper = Vectors(a.shared_down + (first + g) * a.shared_width +
                      warp * slice + c * 8);
    w.lower = w.upper + a.shared_width;  // Eight rows.
    w.Load(0, shared_steps);
  }
  WaitForEarlier();
  LetLaterBegin();
  const int tokens = static_cast<int>(a.tokens.Get());
  float d[4] = {0, 0, 0, 0};
  if (shared_steps > 0) {
    const auto* const x = reinterpret_cast<const float4*>(
        a.shared_hidden + g * a.shared_width + warp * slice + c * 8);
    MultiplySteps(
        w, shared_steps,
        [&](int step) {
          if (g >= tokens) return uint4{0, 0, 0, 0};
          const float4 low = x[step * (kTileColumns / 4)];
          const float4 high = x[step * (kTileColumns / 4) + 1];
          const float element[8] = {low.x,  low.y,  low.z,  low.w,
                                    high.x, high.y, high.z, high.w};
          return Pack(element);
        },
        d);
  }
  const int active = *a.num_active;
  const int steps = static_cast<int>(a.width / kTileColumns);
  for (int i = warp; i < active; i += kWarpsPerBlock) {
    const int64_t expert = a.active[i];
    w.upper = Vectors(a.down + (expert * a.d + first + g) * a.width + c * 8);
    w.lower = w.upper + a.width;
    w.Load(0, steps);
    const int slot = a.pick[i * kTileTokens + g];
    const uint4* const x =
        Vectors(a.hidden + (int64_t{g} * a.k + slot) * a.width + c * 8);
    MultiplySteps(
        w, steps,
        [&](int step) {
          return slot >= 0 ? x[step * (kTileColumns / 8)] : uint4{0, 0, 0, 0};
        },
        d);
  }
  StoreTile(d, sums[warp]);
  __syncthreads();
  if (threadIdx.x >= kTileRows * kTileTokens) return;
  const int column = static_cast<int>(threadIdx.x) % kTileRows;
  const int token = static_cast<int>(threadIdx.x) / kTileRows;
  if (token >= tokens) return;
  const int64_t at = token * a.d + first + column;
  a.y[at] = a.h[at] + SumOfWarps(sums, column, token);
}

}  // namespace

bool HasFewExperts(const FewExpertsArgs& args) {
  return args.tokens.bound >= 1 && args.tokens.bound <= kTileTokens &&
         args.d % (kWarpsPerBlock * kTileColumns) == 0 &&
         args.width % kTileColumns == 0 && args.width > 0 &&
         args.shared_width % (kWarpsPerBlock * kTileColumns) == 0;
}

cudaError_t FewExperts(const FewExpertsArgs& args, cudaStream_t stream) {
  if (!HasFewExperts(args)) return cudaErrorInvalidValue;
  const int64_t experts =
      std::min<int64_t>(args.num_experts, args.tokens.bound * args.k);
  const dim3 hidden(static_cast<unsigned>(args.width / kHalf),
                    static_cast<unsigned>(experts));
  const cudaError_t error =
      LaunchAhead(HiddenKernel, hidden, dim3(kBlock), 0, stream, args);
  if (error != cudaSuccess) return error;
  return LaunchAhead(OutputKernel,
                     dim3(static_cast<unsigned>(args.d / kTileRows)),
                     dim3(kBlock), 0, stream, args);
}

}  // namespace strata::gpu
