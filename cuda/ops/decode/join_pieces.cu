#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/join_pieces.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu {
namespace {

constexpr int kColumns = 4 * kWarp;  // Of a warp.

// Joins the pieces of a token's head, a warp 128 columns: a lane has the
// weights of two pieces and four columns of the result.
__global__ void __launch_bounds__(kBlock) JoinKernel(const JoinArgs args) {
  static_assert(kMaxPieces <= 2 * kWarp, "two pieces a lane");
  WaitForEarlier();
  LetLaterBegin();
  const int splits = args.splits, dim = args.dim;
  const float* const max = args.max;
  const float* const sum = args.sum;
  const int parts = (dim + kColumns - 1) / kColumns;
  const int64_t n = args.tokens.Get() * args.num_heads * parts;
  for (int64_t unit = FirstRow(); unit < n; unit += RowStride()) {
    const int64_t i = unit / parts;
    float weight[2], total = 0, largest = -INFINITY;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int s = j * kWarp + Lane();
      weight[j] = s < splits ? max[i * splits + s] : -INFINITY;
      largest = fmaxf(largest, weight[j]);
    }
    largest = WarpMax(largest);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int s = j * kWarp + Lane();
      weight[j] = weight[j] > -INFINITY ? exp2f(weight[j] - largest) : 0.f;
      if (s < splits) total = fmaf(sum[i * splits + s], weight[j], total);
    }
    total = WarpSum(total);
    const float factor = total > 0 ? 1.f / total : 0.f;
    const int c = static_cast<int>(unit - i * parts) * kColumns + 4 * Lane();
    float4 value = {0, 0, 0, 0};
#pragma unroll 8
    for (int s = 0; s < splits; ++s) {
      const float w =
          __shfl_sync(kWholeWarp, s < kWarp ? weight[0] : weight[1], s % kWarp);
      if (c >= dim) continue;
      const float4 x = *reinterpret_cast<const float4*>(
          args.partial + (i * splits + s) * dim + c);
      value = {fmaf(w, x.x, value.x), fmaf(w, x.y, value.y),
               fmaf(w, x.z, value.z), fmaf(w, x.w, value.w)};
    }
    if (c >= dim) continue;
    value = {factor * value.x, factor * value.y, factor * value.z,
             factor * value.w};
    if (args.rounded == nullptr) {
      *reinterpret_cast<float4*>(args.o + i * dim + c) = value;
      continue;
    }
    auto* const to =
        reinterpret_cast<__nv_bfloat162*>(args.rounded + i * dim + c);
    to[0] = __floats2bfloat162_rn(value.x, value.y);
    to[1] = __floats2bfloat162_rn(value.z, value.w);
  }
}

}  // namespace

cudaError_t JoinPieces(const JoinArgs& args, cudaStream_t stream) {
  return LaunchAhead(JoinKernel,
                     dim3(BlocksForRows(args.tokens.bound * args.num_heads *
                                        CeilDiv(args.dim, kColumns))),
                     dim3(kBlock), 0, stream, args);
}

}  // namespace strata::gpu
