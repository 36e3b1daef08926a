// RmsNormWeightGrad sums columns, in two stages whose order is fixed: a block
// sums a strip of columns over its share of the rows,
//
//   strip:              0  1  2 ...       each is 32 lanes of one vector
//   partial 0 (rows):   #  #  #
//   partial 1 (rows):   #  #  #           each # is a block of eight warps,
//     ...                                 warp w taking every eighth row
//
// then a second kernel adds up the partials. Bound by memory: x and dy are read
// once, several rows ahead of their use; the partials, at most 128 rows, stay
// in L2.

#include <cstdint>

#include "cuda/ops/rms_norm.h"
#include "cuda/ops/vector16.cuh"

namespace strata::gpu {
namespace {

constexpr int kWarpSize = 32;
constexpr int kMaxPartials = 128;
constexpr int kMinRowsPerPartial = 32;
constexpr int kStripWarps = 8;
constexpr int kRowsInFlight = 4;  // Loaded by a warp before it adds them up.

// Block (s, p): 32 lanes of n columns each, from column s * 32n, summed over
// the rows of partial p. Warp w takes every eighth row; the warps are added in
// order.
template <typename Element, int n>
__global__ void __launch_bounds__(kWarpSize* kStripWarps)
    PartialWeightGradKernel(const RmsNormWeightGradArgs<Element> args,
                            int64_t rows_per_partial) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int strip = blockIdx.x * kWarpSize * n;
  const int column = strip + lane * n;
  const int64_t begin = blockIdx.y * rows_per_partial;
  const int64_t end = min(begin + rows_per_partial, NumRows(args));

  float sum[n] = {};
  for (int64_t row = begin + warp; row < end && column < args.width;
       row += kRowsInFlight * kStripWarps) {
    Raw<Element, n> x[kRowsInFlight], dy[kRowsInFlight];
    float rstd[kRowsInFlight];
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const int64_t r = min(row + i * kStripWarps, end - 1);
      const int64_t at = r * args.width + column;
      x[i] = __ldcs(reinterpret_cast<const Raw<Element, n>*>(args.x + at));
      dy[i] = __ldcs(reinterpret_cast<const Raw<Element, n>*>(args.dy + at));
      rstd[i] = __ldg(args.rstd + r);
    }
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (row + i * kStripWarps >= end) break;
      float element[n], grad[n];
      Unpack(x[i], element);
      Unpack(dy[i], grad);
#pragma unroll
      for (int j = 0; j < n; ++j) {
        sum[j] = fmaf(grad[j], element[j] * rstd[i], sum[j]);
      }
    }
  }
  __shared__ float warp_sum[kStripWarps][n][kWarpSize];
#pragma unroll
  for (int j = 0; j < n; ++j) warp_sum[warp][j][lane] = sum[j];
  __syncthreads();
  // 32n is at most the block's 256 threads: a thread adds up one column.
  const int c = threadIdx.x;
  if (c >= kWarpSize * n || strip + c >= args.width) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kStripWarps; ++w) total += warp_sum[w][c % n][c / n];
  args.partial[int64_t{blockIdx.y} * args.width + strip + c] = total;
}

// A block adds up 32 columns: warp w every eighth partial, then the warps.
__global__ void __launch_bounds__(kWarpSize* kStripWarps)
    SumPartialsKernel(const GainPartialsArgs args) {
  const int width = args.width;
  const float* const partial =
      args.partial + int64_t{blockIdx.y} * args.num_partials * width;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int column = blockIdx.x * kWarpSize + lane;
  float sum = 0;
  if (column < width) {
    for (int p = warp; p < args.num_partials; p += kStripWarps) {
      sum += partial[int64_t{p} * width + column];
    }
  }
  __shared__ float warp_sum[kStripWarps][kWarpSize];
  warp_sum[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kStripWarps; ++w) total += warp_sum[w][lane];
  args.sum[blockIdx.y][column] = total;
}

}  // namespace

int RmsNormWeightGradPartials(int64_t rows) {
  const int64_t partials = (rows + kMinRowsPerPartial - 1) / kMinRowsPerPartial;
  return static_cast<int>(partials < kMaxPartials ? partials : kMaxPartials);
}

cudaError_t SumGainPartials(const GainPartialsArgs& args, cudaStream_t stream) {
  const dim3 grid((args.width + kWarpSize - 1) / kWarpSize,
                  args.sum[1] != nullptr ? 2 : 1);
  SumPartialsKernel<<<grid, kWarpSize * kStripWarps, 0, stream>>>(args);
  return cudaGetLastError();
}

template <typename Element>
cudaError_t RmsNormWeightGrad(const RmsNormWeightGradArgs<Element>& args,
                              cudaStream_t stream) {
  if (args.rows < 0 || args.width < 1) return cudaErrorInvalidValue;
  if (args.rows == 0) {
    return cudaMemsetAsync(args.dgain, 0, args.width * sizeof(float), stream);
  }
  const int partials = RmsNormWeightGradPartials(args.rows);
  const int64_t rows_per_partial = (args.rows + partials - 1) / partials;
  const auto launch = [&](auto kernel, int columns_per_block) {
    const dim3 grid((args.width + columns_per_block - 1) / columns_per_block,
                    partials);
    kernel<<<grid, kWarpSize * kStripWarps, 0, stream>>>(args,
                                                         rows_per_partial);
  };
  constexpr int n = kVector<Element>;
  if (args.width % n == 0 && IsAligned(args.dy) && IsAligned(args.x)) {
    launch(PartialWeightGradKernel<Element, n>, kWarpSize * n);
  } else {
    launch(PartialWeightGradKernel<Element, 1>, kWarpSize);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return error;
  }
  return SumGainPartials({args.partial, partials, args.width, {args.dgain}},
                         stream);
}

template cudaError_t RmsNormWeightGrad(const RmsNormWeightGradArgs<float>&,
                                       cudaStream_t);
template cudaError_t RmsNormWeightGrad(
    const RmsNormWeightGradArgs<__nv_bfloat16>&, cudaStream_t);

}  // namespace strata::gpu
