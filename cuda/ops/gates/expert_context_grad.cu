#include <cstdint>

#include "cuda/ops/gates/context_tiles.cuh"
#include "cuda/ops/gates/expert_context.h"
#include "cuda/runtime/kernel.h"

// A block a gate, nine phases of products (context_tiles.cuh): forward again as
// far as it is needed, and beside it, phase by phase, what goes back. Gradients
// of weights fill up phases that would leave threads without a tile. Bound by
// what one processor multiplies, 1.4 million multiplications for 48 experts and
// r = 32.
//
//   phase  forward               back
//   1      q, k, v               du = dvalue Wco
//   2      q k^T                 dcontext += du Wcv + dkey Wck
//   3      softmax
//   4      mixed = share v       dmixed = dcontext Wo
//   5      context               dshare = dmixed v^T, dv = share^T dmixed
//   6      u = context Wcv^T     softmax's gradient
//   7                            dq, dk; dWo, dWck, dWcv, dWco, dWv
//   8                            dWq, dWk, dembedding
namespace strata::gpu {
namespace {

constexpr int kGrads = 3;  // Of outputs, before the inputs of ExpertContext.
constexpr int kInputs = kGrads + kContextInputs;
enum Input { kEmbedding, kQ, kK, kV, kO, kCrossK, kCrossV, kCrossO };

struct Gate {
  ContextInputs in;
  const float* grad[kGrads] = {};   // Of context, key, value; or null.
  float* out[kContextInputs] = {};  // Gradients of the inputs.
};

using Table = GateTable<Gate, 160>;  // 27 kB.

constexpr int kOfExperts = 13, kWeights = 7, kShares = 2;
int64_t Floats(const Gate& gate) {
  return ContextFloats(gate.in, kOfExperts, kWeights, kShares);
}

// dy of rows that are shares: what the softmax of scale * x makes of it, a warp
// a row. What is added stays zero.
__device__ __forceinline__ void SoftmaxGradRows(int n, float scale,
                                                const Matrix& share,
                                                const Matrix& dy) {
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < RoundUp4(n);
       i += kContextThreads / kWarp) {
    const float* const y = share.at + i * share.stride;
    float* const row = dy.at + i * dy.stride;
    float dot = 0;
    for (int e = Lane(); e < n; e += kWarp) dot = fmaf(row[e], y[e], dot);
    dot = WarpSum(dot);
    for (int e = Lane(); e < RoundUp4(n); e += kWarp) {
      row[e] = scale * y[e] * (row[e] - dot);
    }
  }
}

// dy^T x, the gradient of a weight [r, r], over n experts.
__device__ __forceinline__ void WeightGrad(Turn& turn, const Matrix& dy,
                                           const Matrix& x, int n, int r,
                                           float* out) {
  ForTiles<Of::kAsIs>(turn, r, r, [&](Tile& tile) {
    tile.Add<Of::kTransposed, Of::kAsIs>(dy, x, n);
    tile.Store(out, r, r);
  });
}

template <bool kShared>
__global__ void __launch_bounds__(kContextThreads, 1)
    ExpertContextGradKernel(const __grid_constant__ Table table) {
  extern __shared__ float4 shared[];
  const Gate& gate = table.gate[blockIdx.x];
  const int n = gate.in.experts, r = gate.in.r;
  Room room = {kShared ? reinterpret_cast<float*>(shared)
                       : table.memory.scratch};
  const Matrix e = room.Take(n, r), q = room.Take(n, r), k = room.Take(n, r),
               v = room.Take(n, r), mixed = room.Take(n, r),
               context = room.Take(n, r), dcontext = room.Take(n, r),
               dkey = room.Take(n, r), dvalue = room.Take(n, r),
               du = room.Take(n, r), dmixed = room.Take(n, r),
               dv = room.Take(n, r), dk = room.Take(n, r);
  const Matrix share = room.Take(n, n), dshare = room.Take(n, n);
  Matrix w[kContextInputs];
  const Places places(r);
  places.Load<kShared>(gate.in.at[kEmbedding], false, n, e);
  const Matrix grads[kGrads] = {dcontext, dkey, dvalue};
#pragma unroll
  for (int i = 0; i < kGrads; ++i) {
    places.Load<kShared>(gate.grad[i], false, n, grads[i]);
  }
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
  Product<Of::kAsIs, Of::kAsIs>(turn, dvalue, w[kCrossO], n, r, r, du);
  turn.EndPhase();
  Product<Of::kAsIs, Of::kTransposed>(turn, q, k, n, n, r, share);
  ForTiles<Of::kAsIs>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kAsIs>(du, w[kCrossV], r);
    tile.Add<Of::kAsIs, Of::kAsIs>(dkey, w[kCrossK], r);
    tile.StoreSum(dcontext, dcontext);
  });
  turn.EndPhase();
  SoftmaxRows(n, table.scale, share);
  turn.EndPhase();
  Product<Of::kAsIs, Of::kAsIs>(turn, share, v, n, r, n, mixed);
  Product<Of::kAsIs, Of::kAsIs>(turn, dcontext, w[kO], n, r, r, dmixed);
  turn.EndPhase();
  ForTiles<Of::kTransposed>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kTransposed>(mixed, w[kO], r);
    tile.StoreSum(e, context);
  });
  Product<Of::kAsIs, Of::kTransposed>(turn, dmixed, v, n, n, r, dshare);
  Product<Of::kTransposed, Of::kAsIs>(turn, share, dmixed, n, r, n, dv);
  turn.EndPhase();
  const Matrix u = dmixed;
  Product<Of::kAsIs, Of::kTransposed>(turn, context, w[kCrossV], n, r, r, u);
  SoftmaxGradRows(n, table.scale, share, dshare);
  turn.EndPhase();
  const Matrix dq = v;
  Product<Of::kAsIs, Of::kAsIs>(turn, dshare, k, n, r, n, dq);
  Product<Of::kTransposed, Of::kAsIs>(turn, dshare, q, n, r, n, dk);
  WeightGrad(turn, dcontext, mixed, n, r, gate.out[kO]);
  WeightGrad(turn, dkey, context, n, r, gate.out[kCrossK]);
  WeightGrad(turn, du, context, n, r, gate.out[kCrossV]);
  WeightGrad(turn, dvalue, u, n, r, gate.out[kCrossO]);
  WeightGrad(turn, dv, e, n, r, gate.out[kV]);
  turn.EndPhase();
  WeightGrad(turn, dq, e, n, r, gate.out[kQ]);
  WeightGrad(turn, dk, e, n, r, gate.out[kK]);
  ForTiles<Of::kAsIs>(turn, n, r, [&](Tile& tile) {
    tile.Add<Of::kAsIs, Of::kAsIs>(dq, w[kQ], r);
    tile.Add<Of::kAsIs, Of::kAsIs>(dk, w[kK], r);
    tile.Add<Of::kAsIs, Of::kAsIs>(dv, w[kV], r);
    tile.ForEach([&](int i, int j, float x) {
      if (i < n && j < r) {
        gate.out[kEmbedding][int64_t{i} * r + j] =
            dcontext.at[i * dcontext.stride + j] + x;
      }
    });
  });
}

Gate ReadGate(const KernelContext& ctx, int g) {
  Gate gate;
  gate.in = ReadContextInputs(ctx, g * kInputs + kGrads);
  for (int i = 0; i < kGrads; ++i) {
    gate.grad[i] = ctx.in(g * kInputs + i).as<float>();
  }
  for (int i = 0; i < kContextInputs; ++i) {
    gate.out[i] = ctx.out(g * kContextInputs + i).as<float>();
  }
  return gate;
}

cudaError_t RunExpertContextGrad(const KernelContext& ctx) {
  return RunGates<Table>(
      ctx, ctx.num_inputs / kInputs, [&ctx](int g) { return ReadGate(ctx, g); },
      Floats, ExpertContextGradKernel<true>, ExpertContextGradKernel<false>);
}

}  // namespace

void RegisterExpertContextGradKernels(KernelRegistry& kernels) {
  kernels.Register("ExpertContextGrad", RunExpertContextGrad);
}

}  // namespace strata::gpu
