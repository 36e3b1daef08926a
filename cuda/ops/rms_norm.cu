// RmsNorm and RmsNormInputGrad: one or more warps hold a row in registers,
//
//   lane:        0   1  ...  t-1     t = 32, 128 or 256 threads a row
//   vector 0:    0   1  ...  t-1     each vector is one 16-byte load:
//   vector 1:    t  t+1 ... 2t-1     4 floats or 8 bfloat16
//     ...
//
// so device memory is read once and written once. All loads of a row are issued
// before the first is used; with them a multiprocessor has about 100 KB in
// flight, which is what it takes to be bound by memory alone.

#include <cstdint>

#include "cuda/ops/rms_norm.h"
#include "cuda/ops/vector16.cuh"

namespace strata::gpu {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffff;

template <int n>
__device__ void LoadGain(const float* p, float (&gain)[n]) {
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(p + i));
    gain[i] = four.x;
    gain[i + 1] = four.y;
    gain[i + 2] = four.z;
    gain[i + 3] = four.w;
  }
}

// How a kernel spreads rows: kWarps warps share a row and each thread holds up
// to kVectors vectors of it. A block has at least four warps.
template <int kWarpsPerRow, int kVectorsPerThread>
struct Tile {
  static constexpr int kWarps = kWarpsPerRow;
  static constexpr int kVectors = kVectorsPerThread;
  static constexpr int kThreadsPerRow = kWarps * kWarpSize;
  static constexpr int kRowsPerBlock = kWarps >= 4 ? 1 : 4 / kWarps;
  static constexpr int kThreads = kRowsPerBlock * kThreadsPerRow;

  static __device__ int64_t Row() {
    return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kThreadsPerRow;
  }
  static __device__ int Lane() { return threadIdx.x % kThreadsPerRow; }
  static int64_t Blocks(int64_t rows) {
    return (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  }
};

// Returns the sum of `value` over the kWarps warps of a row, to each of their
// threads. Rows of more than one warp call it once a kernel, with whole blocks.
template <int kWarps>
__device__ float SumOverRow(float value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  if constexpr (kWarps > 1) {
    __shared__ float warp_sum[kWarps];
    if (threadIdx.x % kWarpSize == 0) warp_sum[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) value += warp_sum[warp];
  }
  return value;
}

template <typename Element, typename T>
__global__ void __launch_bounds__(T::kThreads)
    RmsNormKernel(const RmsNormArgs<Element> args) {
  constexpr int n = kVector<Element>;
  const int64_t row = T::Row();
  if (row >= NumRows(args)) return;  // The same for all of a row's threads.
  const uint4* x = reinterpret_cast<const uint4*>(args.x + row * args.width);
  uint4* y = reinterpret_cast<uint4*>(args.y + row * args.width);
  const int num_vectors = args.width / n;

  uint4 raw[T::kVectors];
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    raw[i] = v < num_vectors ? __ldcs(x + v) : uint4{};
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    float element[n];
    Unpack(raw[i], element);
#pragma unroll
    for (int j = 0; j < n; ++j) sum = fmaf(element[j], element[j], sum);
  }
  const float rstd = rsqrtf(SumOverRow<T::kWarps>(sum) / args.width + args.eps);
  if (T::Lane() == 0) args.rstd[row] = rstd;

#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    if (v >= num_vectors) continue;
    float element[n], gain[n];
    Unpack(raw[i], element);
    LoadGain(args.gain + v * n, gain);
#pragma unroll
    for (int j = 0; j < n; ++j) element[j] *= rstd * gain[j];
    y[v] = Pack(element);
  }
}

// With xhat = x * rstd: dx = rstd * (g*dy - xhat * mean(g*dy * xhat)).
template <typename Element, typename T>
__global__ void __launch_bounds__(T::kThreads)
    InputGradKernel(const RmsNormInputGradArgs<Element> args) {
  constexpr int n = kVector<Element>;
  const int64_t row = T::Row();
  if (row >= NumRows(args)) return;  // The same for all of a row's threads.
  const uint4* x = reinterpret_cast<const uint4*>(args.x + row * args.width);
  const uint4* dy = reinterpret_cast<const uint4*>(args.dy + row * args.width);
  uint4* dx = reinterpret_cast<uint4*>(args.dx + row * args.width);
  const int num_vectors = args.width / n;
  const float rstd = args.rstd[row];

  uint4 raw_x[T::kVectors], raw_dy[T::kVectors];
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    raw_x[i] = v < num_vectors ? __ldcs(x + v) : uint4{};
    raw_dy[i] = v < num_vectors ? __ldcs(dy + v) : uint4{};
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    if (v >= num_vectors) continue;
    float element[n], grad[n], gain[n];
    Unpack(raw_x[i], element);
    Unpack(raw_dy[i], grad);
    LoadGain(args.gain + v * n, gain);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      sum = fmaf(grad[j] * gain[j], element[j], sum);
    }
  }
  const float slope = SumOverRow<T::kWarps>(sum) / args.width * rstd * rstd;

#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    if (v >= num_vectors) continue;
    float element[n], grad[n], gain[n];
    Unpack(raw_x[i], element);
    Unpack(raw_dy[i], grad);
    LoadGain(args.gain + v * n, gain);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      grad[j] = rstd * (grad[j] * gain[j] - element[j] * slope);
    }
    dx[v] = Pack(grad);
  }
}

using LargestTile = Tile</*kWarpsPerRow=*/8, /*kVectorsPerThread=*/8>;

// Any width and alignment: the largest tile's block walks its row twice, the
// second time in L2.
using AnyRow = LargestTile;

template <typename Element>
__global__ void __launch_bounds__(AnyRow::kThreads)
    RmsNormAnyRowKernel(const RmsNormArgs<Element> args) {
  const int64_t row = AnyRow::Row();
  if (row >= NumRows(args)) return;
  const Element* x = args.x + row * args.width;
  Element* y = args.y + row * args.width;
  float sum = 0;
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    const float element = x[i];
    sum = fmaf(element, element, sum);
  }
  const float rstd =
      rsqrtf(SumOverRow<AnyRow::kWarps>(sum) / args.width + args.eps);
  if (AnyRow::Lane() == 0) args.rstd[row] = rstd;
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    y[i] = static_cast<float>(x[i]) * (rstd * args.gain[i]);
  }
}

template <typename Element>
__global__ void __launch_bounds__(AnyRow::kThreads)
    InputGradAnyRowKernel(const RmsNormInputGradArgs<Element> args) {
  const int64_t row = AnyRow::Row();
  if (row >= NumRows(args)) return;
  const Element* x = args.x + row * args.width;
  const Element* dy = args.dy + row * args.width;
  Element* dx = args.dx + row * args.width;
  const float rstd = args.rstd[row];
  float sum = 0;
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    sum = fmaf(static_cast<float>(dy[i]) * args.gain[i],
               static_cast<float>(x[i]), sum);
  }
  const float slope =
      SumOverRow<AnyRow::kWarps>(sum) / args.width * rstd * rstd;
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    dx[i] = rstd * (static_cast<float>(dy[i]) * args.gain[i] -
                    static_cast<float>(x[i]) * slope);
  }
}

// Calls `launch` with the smallest tile that holds a row of num_vectors;
// returns cudaErrorNotSupported if none does.
template <typename Launch>
cudaError_t WithTile(int num_vectors, Launch launch) {
  if (num_vectors <= 1 * 32) return launch(Tile<1, 1>());
  if (num_vectors <= 2 * 32) return launch(Tile<1, 2>());
  if (num_vectors <= 4 * 32) return launch(Tile<1, 4>());
  if (num_vectors <= 8 * 32) return launch(Tile<1, 8>());
  if (num_vectors <= 4 * 128) return launch(Tile<4, 4>());
  if (num_vectors <= 8 * 128) return launch(Tile<4, 8>());
  if (num_vectors <= 8 * 256) return launch(LargestTile());
  return cudaErrorNotSupported;
}

}  // namespace

template <typename Element>
cudaError_t RmsNorm(const RmsNormArgs<Element>& args, cudaStream_t stream) {
  if (args.rows < 0 || args.width < 1) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;  // CUDA refuses an empty grid.
  if (args.width % kVector<Element> == 0 && IsAligned(args.x) &&
      IsAligned(args.gain) && IsAligned(args.y)) {
    const cudaError_t error =
        WithTile(args.width / kVector<Element>, [&](auto tile) {
          using T = decltype(tile);
          RmsNormKernel<Element, T>
              <<<T::Blocks(args.rows), T::kThreads, 0, stream>>>(args);
          return cudaGetLastError();
        });
    if (error != cudaErrorNotSupported) return error;
  }
  RmsNormAnyRowKernel<<<args.rows, AnyRow::kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template <typename Element>
cudaError_t RmsNormInputGrad(const RmsNormInputGradArgs<Element>& args,
                             cudaStream_t stream) {
  if (args.rows < 0 || args.width < 1) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;
  if (args.width % kVector<Element> == 0 && IsAligned(args.dy) &&
      IsAligned(args.x) && IsAligned(args.gain) && IsAligned(args.dx)) {
    const cudaError_t error =
        WithTile(args.width / kVector<Element>, [&](auto tile) {
          using T = decltype(tile);
          InputGradKernel<Element, T>
              <<<T::Blocks(args.rows), T::kThreads, 0, stream>>>(args);
          return cudaGetLastError();
        });
    if (error != cudaErrorNotSupported) return error;
  }
  InputGradAnyRowKernel<<<args.rows, AnyRow::kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template cudaError_t RmsNorm(const RmsNormArgs<float>&, cudaStream_t);
template cudaError_t RmsNorm(const RmsNormArgs<__nv_bfloat16>&, cudaStream_t);
template cudaError_t RmsNormInputGrad(const RmsNormInputGradArgs<float>&,
                                      cudaStream_t);
template cudaError_t RmsNormInputGrad(
    const RmsNormInputGradArgs<__nv_bfloat16>&, cudaStream_t);
}  // namespace strata::gpu
