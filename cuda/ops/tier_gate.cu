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
template <int kPerLane>
__global__ void __launch_bounds__(kGateThreads, 1)
    ChooseKernel(const TierGateArgs a, const GateLayout l) {
  extern __shared__ float memory[];
  const int64_t t = a.tokens.Get();
  const GateExperts experts = LoadExperts(a, l, memory + l.row_floats);
  const int first_query = a.projected - a.r;
  const int energy_pitch = GatePitch(a.energies), query_pitch = GatePitch(a.r);
  const int query_columns = (a.r + 3) / 4 * 4;
  for (int64_t tile = blockIdx.x; tile * a.tile_tokens < t; tile += gridDim.x) {
    const int64_t end = min(t, (tile + 1) * a.tile_tokens);
    ClearCounts(a, l, memory);
    for (int64_t first = tile * a.tile_tokens; first < end; first += l.rows) {
      const int n = static_cast<int>(min(int64_t{l.rows}, end - first));
      const float* const token = a.token + first * a.projected;
      if (a.has_energies) {
        for (int i = threadIdx.x; i < n * a.energies; i += kGateThreads) {
          const int row = i / a.energies, c = i % a.energies;
          memory[l.energy + row * energy_pitch + c] =
              token[row * a.projected + c];
        }
      }
      for (int i = threadIdx.x; i < n * query_columns; i += kGateThreads) {
        const int row = i / query_columns, c = i % query_columns;
        memory[l.query + row * query_pitch + c] =
            c < a.r ? token[row * a.projected + first_query + c] : 0.f;
      }
      ChooseTile<kPerLane>(a, l, memory, experts, first, n);
    }
    StoreCounts(a, l, memory, tile);
  }
}

}  // namespace

cudaError_t ChooseExperts(const TierGateArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  int rows = args.tile_tokens;
  GateLayout layout = GateLayout::Of(args, rows);
  layout.experts_shared =
      layout.expert_floats * static_cast<int>(sizeof(float)) <= kMaxExpertBytes;
  const auto bytes = [&] {
    return static_cast<int>(sizeof(float)) *
           (layout.row_floats +
            (layout.experts_shared ? layout.expert_floats : 0));
  };
  while (bytes() > kMaxSharedBytes && rows > 1) {
    const bool shared = layout.experts_shared;
    layout = GateLayout::Of(args, rows /= 2);
    layout.experts_shared = shared;
  }
  if (bytes() > kMaxSharedBytes) return cudaErrorInvalidValue;
  const auto blocks =
      static_cast<unsigned>(std::min(kMaxBlocks, GateTiles(args.tokens.bound)));
  return WithExpertsPerLane(args.experts, [&](auto per_lane) {
    auto* const kernel = ChooseKernel<decltype(per_lane)::value>;
    const cudaError_t allowed = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize, bytes());
    if (allowed != cudaSuccess) return allowed;
    kernel<<<blocks, kGateThreads, bytes(), stream>>>(args, layout);
    return cudaGetLastError();
  });
}

}  // namespace strata::gpu
