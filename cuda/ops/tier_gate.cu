#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/tier_gate.cuh"
#include "cuda/ops/tier_gate.h"

namespace strata::gpu {
namespace {

constexpr int kMaxSharedBytes = 227 << 10;
// Up to so much, what experts are lies in shared memory too.
constexpr int kMaxExpertBytes = 96 << 10;

// A block takes tile after tile, some rows at a time.
template <int kLanes, int kPerLane, bool kShared>
__global__ void __launch_bounds__(kGateThreads, 1)
    ChooseKernel(const TierGateArgs a, const GateLayout l) {
  extern __shared__ float memory[];
  const int64_t t = a.tokens.Get();
  constexpr int kPieces = static_cast<int>(GatePieces::kThree);
  float* const expert_memory = memory + l.row_floats;
  if (kShared) LoadExperts(a, l, expert_memory);
  for (int64_t tile = blockIdx.x; tile * a.tile_tokens < t; tile += gridDim.x) {
    const int64_t end = min(t, (tile + 1) * a.tile_tokens);
    ClearCounts(a, l, memory);
    for (int64_t first = tile * a.tile_tokens; first < end; first += l.rows) {
      const int n = static_cast<int>(min(int64_t{l.rows}, end - first));
      LoadTokens(a, l, memory, first, n, n);
      ChooseTile<kLanes, kPerLane, kPieces, kShared>(a, l, memory,
                                                     expert_memory, first, n);
    }
    StoreCounts(a, l, memory, tile);
  }
}

}  // namespace

cudaError_t ChooseExperts(const TierGateArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  int rows = args.tile_tokens;
  GateLayout layout = GateLayout::Of(args, rows);
  const bool shared =
      layout.expert_floats * static_cast<int>(sizeof(float)) <= kMaxExpertBytes;
  const auto bytes = [&] {
    return static_cast<int>(sizeof(float)) *
           (layout.row_floats + (shared ? layout.expert_floats : 0));
  };
  while (bytes() > kMaxSharedBytes && rows > 1) {
    layout = GateLayout::Of(args, rows /= 2);
  }
  if (bytes() > kMaxSharedBytes) return cudaErrorInvalidValue;
  const auto blocks =
      static_cast<unsigned>(std::min(kMaxBlocks, GateTiles(args.tokens.bound)));
  return WithLanes(args.experts, [&](auto lanes, auto per_lane) {
    constexpr int kLanes = decltype(lanes)::value;
    constexpr int kPerLane = decltype(per_lane)::value;
    auto* const kernel = shared ? ChooseKernel<kLanes, kPerLane, true>
                                : ChooseKernel<kLanes, kPerLane, false>;
    const cudaError_t allowed = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize, bytes());
    if (allowed != cudaSuccess) return allowed;
    kernel<<<blocks, kGateThreads, bytes(), stream>>>(args, layout);
    return cudaGetLastError();
  });
}

}  // namespace strata::gpu
