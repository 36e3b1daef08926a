#include <cstdint>

#include "cuda/ops/gates/context_tiles.cuh"
#include "cuda/ops/gates/expert_context.h"
#include "cuda/runtime/kernel.h"

// A block a gate, seven phases of products (context_tiles.cuh) one after the
// other: no phase is large, so a gate takes as long as seven waits and what one
// processor multiplies. Bound by the latter, 0.5 million multiplications for 48
// experts and r = 32.
namespace strata::gpu {
namespace {

constexpr int kOutputs = 3;
enum Input { kEmbedding, kQ, kK, kV, kO, kCrossK, kCrossV, kCrossO };

struct Gate {
  ContextInputs in;
  float* out[kOutputs] = {};  // Context, key, value: [E, r].
};

using Table = GateTable<Gate, 248>;  // 27 kB.

constexpr int kOfExperts = 4, kWeights = 7, kShares = 1;
int64_t Floats(const Gate& gate) {
  return ContextFloats(gate.in, kOfExperts, kWeights, kShares);
}

template <bool kShared>
__global__ void __launch_bounds__(kContextThreads, 1)
    ExpertContextKernel(const __grid_constant__ Table table) {
  extern __shared__ float4 shared[];
  const Gate& gate = table.gate[blockIdx.x];
  const int n = gate.in.experts, r = gate.in.r;
  Room room = {kShared ? reinterpret_cast<float*>(shared)
                       : table.memory.scratch};
  const Matrix e = room.Take(n, r), q = room.Take(n, r), k = room.Take(n, r),
               v = room.Take(n, r);
  const Matrix share = room.Take(n, n);
  Matrix w[kContextInputs];
  const Places places(r);
  places.Load<kShared>(gate.in.at[kEmbedding], false, n, e);
#pragma unroll
  for (int i = kQ; i <= kCrossO; ++i) {
    w[i] = room.Take(r, r);
    places.Load<kShared>(gate.in.at[i], gate.in.bf16 >> i & 1, r, w[i]);
  }
  EndLoads();

  Turn turn;
  Product<Of::kAsIs, Of::kTransposed>(turn, e, w[kQ], n, r, r, q);
  Product<Of::kAsIs, Of::kTransposed>(turn, e, w[kK], n, r, r, k);
  Product<Of::kAsIs, Of::kTransposed>(turn, e, w[kV], n, r, r, v);
  turn.EndPhase();
  Product<Of::kAsIs, Of::kTransposed>(turn, q, k, n, n, r, share);
  turn.EndPhase();
  SoftmaxRows(n, table.scale, share);
  turn.EndPhase();
  const Matrix mixed = q;
  Product<Of::kAsIs, Of::kAsIs>(turn, share, v, n, r, n, mixed);
  turn.EndPhase();
  const Matrix context = k;
  ForTiles<Of::kTransposed>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kTransposed>(mixed, w[kO], r);
    tile.StoreSum(e, context);
    tile.ForEach([&](int i, int j, float x) {
      if (i < n && j < r) {
        gate.out[0][int64_t{i} * r + j] = e.at[i * e.stride + j] + x;
      }
    });
  });
  turn.EndPhase();
  const Matrix value = v;
  Product<Of::kAsIs, Of::kTransposed>(turn, context, w[kCrossV], n, r, r,
                                      value);
  ForTiles<Of::kTransposed>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kTransposed>(context, w[kCrossK], r);
    tile.Store(gate.out[1], n, r);
  });
  turn.EndPhase();
  ForTiles<Of::kTransposed>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kTransposed>(value, w[kCrossO], r);
    tile.Store(gate.out[2], n, r);
  });
}

Gate ReadGate(const KernelContext& ctx, int g) {
  Gate gate;
  gate.in = ReadContextInputs(ctx, g * kContextInputs);
  for (int i = 0; i < kOutputs; ++i) {
    gate.out[i] = ctx.out(g * kOutputs + i).as<float>();
  }
  return gate;
}

cudaError_t RunExpertContext(const KernelContext& ctx) {
  return RunGates<Table>(
      ctx, ctx.num_inputs / kContextInputs,
      [&ctx](int g) { return ReadGate(ctx, g); }, Floats,
      ExpertContextKernel<true>, ExpertContextKernel<false>);
}

}  // namespace

void RegisterExpertContextKernels(KernelRegistry& kernels) {
  kernels.Register("ExpertContext", RunExpertContext);
}

}  // namespace strata::gpu
