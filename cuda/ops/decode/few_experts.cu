#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/packed_tile.cuh"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kHalf = kTileRows / 2;

// What a format's kernels do. Packed rows are short: two tiles a block of
// hidden, of which each warp has all of 2048 columns on their way; and twice
// the warps for y, as taking codes apart keeps them busy. Units that are used
// together bring four to eight steps of the others' rows at a time.
template <typename Format>
struct Choice {
  static constexpr bool kPacked = !std::is_same_v<Format, Bf16Tile>;
  static constexpr int kWeightTiles = kPacked ? 2 : 1;
  static constexpr int kHiddenBatches = kPacked ? 2 : 1;
  static constexpr int kHiddenBatch = kPacked ? 1 : 8;
  static constexpr int kOutputWarps = kPacked ? 16 : 8;
  static constexpr int kOutputBlocks = kPacked ? 1 : 2;  // A multiprocessor.
  static constexpr int kOutputBatches = kPacked ? 4 : 2;
  static constexpr int kOutputBatch = kPacked ? 1 : 4;
};

__device__ __forceinline__ const uint4* Vectors(const __nv_bfloat16* p) {
  return reinterpret_cast<const uint4*>(p);
}

// Block (8 or 16 columns of hidden, an expert); warps share what is summed
// over.
template <typename Format>
__global__ void __launch_bounds__(kBlock, 2)
    HiddenKernel(const __grid_constant__ FewExpertsArgs a) {
  constexpr int kWeightTiles = Choice<Format>::kWeightTiles;
  constexpr int kBatches = Choice<Format>::kHiddenBatches;
  constexpr int kBatch = Choice<Format>::kHiddenBatch;
  constexpr int kColumns = kWeightTiles * kHalf;  // Of hidden.
  __shared__ float sums[kWarpsPerBlock][kWeightTiles * kTileRows][kTileTokens];
  WaitForEarlier();
  LetLaterBegin();
  const int index = static_cast<int>(blockIdx.y);
  if (index >= *a.num_active) return;
  const int64_t expert = a.active[index];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int64_t first = int64_t{blockIdx.x} * kColumns;
  const int units = static_cast<int>(a.d) / Format::kColumns;
  const int begin = units * warp / kWarpsPerBlock;
  const int end = units * (warp + 1) / kWarpsPerBlock;
  typename Format::Unit ahead[kWeightTiles][kBatches][kBatch];
  const auto rows_of = [&](int tile) {
    return RowsOfTile(a.gate_up,
                      expert * 2 * a.width + first + tile * kHalf + g, a.width);
  };
#pragma unroll
  for (int tile = 0; tile < kWeightTiles; ++tile) {
    LoadUnits<Format>(rows_of(tile), begin, end, ahead[tile]);
  }
  const bool there = a.pick[index * kTileTokens + g] >= 0;
  const uint4* const x = Vectors(a.x + g * a.d + c * 8);
#pragma unroll
  for (int tile = 0; tile < kWeightTiles; ++tile) {
    float d[4] = {};
    MultiplyUnits<Format>(
        rows_of(tile), begin, end, ahead[tile],
        [&](int step) {
          return there ? x[step * (kStepColumns / 8)] : uint4{0, 0, 0, 0};
        },
        d);
    StoreTile(d, sums[warp] + tile * kTileRows);
  }
  __syncthreads();
  if (threadIdx.x >= kColumns * kTileTokens) return;
  const int column = static_cast<int>(threadIdx.x) % kColumns;
  const int token = static_cast<int>(threadIdx.x) / kColumns;
  const int slot = a.pick[index * kTileTokens + token];
  if (slot < 0) return;
  const int row = column / kHalf * kTileRows + column % kHalf;
  const float gate = SumOfWarps(sums, row, token);
  const float up = SumOfWarps(sums, row + kHalf, token);
  const int64_t at = int64_t{token} * a.k + slot;
  a.hidden[at * a.width + first + column] =
      __float2bfloat16_rn(a.weight[at] * gate * SigmoidOf(gate) * up);
}

// The batches of a warp, of all experts one behind the other.
struct Place {
  int expert, batch;  // The expert as an index of those that are active.

  __device__ __forceinline__ Place(int at, int batches)
      : expert(at / batches), batch(at % batches) {}
  // Whether the next batch is another expert's.
  __device__ __forceinline__ bool Next(int batches) {
    if (++batch < batches) return false;
    batch = 0;
    ++expert;
    return true;
  }
};

// Block: 16 columns of y.
template <typename Format>
__global__ void __launch_bounds__(Choice<Format>::kOutputWarps* kWarp,
                                  Choice<Format>::kOutputBlocks)
    OutputKernel(const __grid_constant__ FewExpertsArgs a) {
  constexpr int kWarps = Choice<Format>::kOutputWarps;
  constexpr int kBatches = Choice<Format>::kOutputBatches;
  constexpr int kBatch = Choice<Format>::kOutputBatch;
  __shared__ float sums[kWarps][kTileRows][kTileTokens];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int64_t first = int64_t{blockIdx.x} * kTileRows;
  typename Format::Unit ahead[kBatches][kBatch];
  // The shared expert's weights are known before the choice.
  const int shared = static_cast<int>(a.shared_width) / Format::kColumns;
  const int begin = shared * warp / kWarps, end = shared * (warp + 1) / kWarps;
  const RowsOfTile shared_rows(a.shared_down, first + g, kHalf);
  LoadUnits<Format>(shared_rows, begin, end, ahead);
  WaitForEarlier();
  LetLaterBegin();
  const int tokens = static_cast<int>(a.tokens.Get());
  float d[4] = {};
  if (begin < end) {
    const auto* const x = reinterpret_cast<const float4*>(
        a.shared_hidden + g * a.shared_width + c * 8);
    MultiplyUnits<Format>(
        shared_rows, begin, end, ahead,
        [&](int step) {
          if (g >= tokens) return uint4{0, 0, 0, 0};
          const float4 low = x[step * (kStepColumns / 4)];
          const float4 high = x[step * (kStepColumns / 4) + 1];
          const float element[8] = {low.x,  low.y,  low.z,  low.w,
                                    high.x, high.y, high.z, high.w};
          return Pack(element);
        },
        d);
  }

  const int active = *a.num_active;
  const int units = static_cast<int>(a.width) / Format::kColumns;
  const int batches = (units + kBatch - 1) / kBatch;
  int at = active * batches * warp / kWarps;
  const int last = active * batches * (warp + 1) / kWarps;
  Place next(at, batches), now(at, batches);
  RowsOfTile rows = shared_rows;
  int loaded = at;
  const auto find_weight = [&] {
    if (loaded < last) {
      rows = RowsOfTile(
          a.down, int64_t{a.active[next.expert]} * a.d + first + g, kHalf);
    }
  };
  const auto load = [&](typename Format::Unit(&to)[kBatch]) {
    if (loaded == last) return;
    LoadBatch<Format>(rows, next.batch * kBatch, units, to);
    ++loaded;
    if (next.Next(batches)) find_weight();
  };
  find_weight();
#pragma unroll
  for (int i = 0; i < kBatches; ++i) load(ahead[i]);
  // This lane's token's slot of the expert, and of the next one.
  const auto slot_of = [&](int index) {
    return index < active ? a.pick[index * kTileTokens + g] : -1;
  };
  int slot = -1, next_slot = slot_of(now.expert);
  const uint4* x = nullptr;
  const auto find_rows = [&] {
    slot = next_slot;
    next_slot = slot_of(now.expert + 1);
    x = Vectors(a.hidden + (int64_t{g} * a.k + max(slot, 0)) * a.width + c * 8);
  };
  if (at < last) find_rows();
  while (at < last) {
#pragma unroll
    for (int i = 0; i < kBatches; ++i) {
      if (at == last) break;
      MultiplyBatch<Format>(
          ahead[i], now.batch * kBatch, units,
          [&](int step) {
            return slot >= 0 ? x[step * (kStepColumns / 8)] : uint4{0, 0, 0, 0};
          },
          d);
      load(ahead[i]);
      ++at;
      if (now.Next(batches) && at < last) find_rows();
    }
  }
  StoreTile(d, sums[warp]);
  __syncthreads();
  if (threadIdx.x >= kTileRows * kTileTokens) return;
  const int column = static_cast<int>(threadIdx.x) % kTileRows;
  const int token = static_cast<int>(threadIdx.x) / kTileRows;
  if (token >= tokens) return;
  const int64_t to = token * a.d + first + column;
  a.y[to] = a.h[to] + SumOfWarps(sums, column, token);
}

template <typename Format>
cudaError_t LaunchHidden(const FewExpertsArgs& args, cudaStream_t stream) {
  constexpr int kColumns = Choice<Format>::kWeightTiles * kHalf;
  const int64_t experts =
      std::min<int64_t>(args.num_experts, args.tokens.bound * args.k);
  return LaunchAhead(HiddenKernel<Format>,
                     dim3(static_cast<unsigned>(args.width / kColumns),
                          static_cast<unsigned>(experts)),
                     dim3(kBlock), 0, stream, args);
}

template <typename Format>
cudaError_t LaunchOutput(const FewExpertsArgs& args, cudaStream_t stream) {
  return LaunchAhead(
      OutputKernel<Format>, dim3(static_cast<unsigned>(args.d / kTileRows)),
      dim3(Choice<Format>::kOutputWarps * kWarp), 0, stream, args);
}

}  // namespace

bool HasFewExperts(const FewExpertsArgs& args) {
  return args.tokens.bound >= 1 && args.tokens.bound <= kTileTokens &&
         HasTiles(args.gate_up) && HasTiles(args.down) &&
         args.gate_up.k == args.d && args.down.k == args.width &&
         args.d % kTileRows == 0 && args.width % kTileRows == 0 &&
         (args.shared_width == 0 || (HasTiles(args.shared_down) &&
                                     SameFormat(args.shared_down, args.down)));
}

cudaError_t FewExperts(const FewExpertsArgs& args, cudaStream_t stream) {
  if (!HasFewExperts(args)) return cudaErrorInvalidValue;
  const cudaError_t error = WithFormat(args.gate_up, [&](auto format) {
    return LaunchHidden<decltype(format)>(args, stream);
  });
  if (error != cudaSuccess) return error;
  return WithFormat(args.down, [&](auto format) {
    return LaunchOutput<decltype(format)>(args, stream);
  });
}

}  // namespace strata::gpu
