// RmsNorm and RmsNormInputGrad: one or more warps hold a row in registers, in
// vectors of 4 floats or 8 bfloat16 (cuda/ops/residual/row_tile.cuh), so device
// memory is read once and written once. All loads of a row are issued
// before the first is used; with them a multiprocessor has about 100 KB in
// flight, which is what it takes to be bound by memory alone.

#include <cstdint>

#include "cuda/ops/residual/row_tile.cuh"
#include "cuda/ops/rms_norm.h"
#include "cuda/ops/vector16.cuh"

namespace strata::gpu {
namespace {

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
  float sum[1] = {};
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    float element[n];
    Unpack(raw[i], element);
#pragma unroll
    for (int j = 0; j < n; ++j) sum[0] = fmaf(element[j], element[j], sum[0]);
  }
  SumOverRow<T::kWarps>(sum);
  const float rstd = rsqrtf(sum[0] / args.width + args.eps);
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

// With xhat = x * rstd: dx = rstd * (g*dy - xhat * mean(g*dy * xhat)), plus the
// first kAdds of args.add.
template <typename Element, typename T, int kAdds>
__global__ void __launch_bounds__(T::kThreads)
    InputGradKernel(const RmsNormInputGradArgs<Element> args) {
  constexpr int n = kVector<Element>;
  constexpr int kLoads = 2 + kAdds;  // x, dy and what is added.
  const int64_t row = T::Row();
  if (row >= NumRows(args)) return;  // The same for all of a row's threads.
  const Element* const from[4] = {args.x, args.dy, args.add[0], args.add[1]};
  uint4* dx = reinterpret_cast<uint4*>(args.dx + row * args.width);
  const int num_vectors = args.width / n;
  const float rstd = args.rstd[row];

  uint4 raw[kLoads][T::kVectors];
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const auto* const p =
          reinterpret_cast<const uint4*>(from[load] + row * args.width);
      raw[load][i] = v < num_vectors ? __ldcs(p + v) : uint4{};
    }
  }
  float sum[1] = {};
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    if (v >= num_vectors) continue;
    float element[n], grad[n], gain[n];
    Unpack(raw[0][i], element);
    Unpack(raw[1][i], grad);
    LoadGain(args.gain + v * n, gain);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      sum[0] = fmaf(grad[j] * gain[j], element[j], sum[0]);
    }
  }
  SumOverRow<T::kWarps>(sum);
  const float slope = sum[0] / args.width * rstd * rstd;

#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int v = i * T::kThreadsPerRow + T::Lane();
    if (v >= num_vectors) continue;
    float element[n], grad[n], gain[n];
    Unpack(raw[0][i], element);
    Unpack(raw[1][i], grad);
    LoadGain(args.gain + v * n, gain);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      grad[j] = NormInputGrad(grad[j], gain[j], element[j], slope, rstd);
    }
    if constexpr (kAdds > 0) {
      float add[n], second[n] = {};
      Unpack(raw[2][i], add);
      if constexpr (kAdds > 1) Unpack(raw[3][i], second);
#pragma unroll
      for (int j = 0; j < n; ++j) grad[j] += add[j] + second[j];
    }
    dx[v] = Pack(grad);
  }
}

// Any width and alignment: the largest tile's block walks its row twice, the
// second time in L2.
using AnyRow = LargestRowTile;

template <typename Element>
__global__ void __launch_bounds__(AnyRow::kThreads)
    RmsNormAnyRowKernel(const RmsNormArgs<Element> args) {
  const int64_t row = AnyRow::Row();
  if (row >= NumRows(args)) return;
  const Element* x = args.x + row * args.width;
  Element* y = args.y + row * args.width;
  float sum[1] = {};
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    const float element = x[i];
    sum[0] = fmaf(element, element, sum[0]);
  }
  SumOverRow<AnyRow::kWarps>(sum);
  const float rstd = rsqrtf(sum[0] / args.width + args.eps);
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
  float sum[1] = {};
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    sum[0] = fmaf(static_cast<float>(dy[i]) * args.gain[i],
                  static_cast<float>(x[i]), sum[0]);
  }
  SumOverRow<AnyRow::kWarps>(sum);
  const float slope = sum[0] / args.width * rstd * rstd;
  const auto added = [&](const Element* add, int i) {
    return add != nullptr ? static_cast<float>(add[row * args.width + i]) : 0.f;
  };
  for (int i = AnyRow::Lane(); i < args.width; i += AnyRow::kThreads) {
    dx[i] = NormInputGrad(dy[i], args.gain[i], x[i], slope, rstd) +
            (added(args.add[0], i) + added(args.add[1], i));
  }
}

}  // namespace

template <typename Element>
cudaError_t RmsNorm(const RmsNormArgs<Element>& args, cudaStream_t stream) {
  if (args.rows < 0 || args.width < 1) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;  // CUDA refuses an empty grid.
  if (args.width % kVector<Element> == 0 && IsAligned(args.x) &&
      IsAligned(args.gain) && IsAligned(args.y)) {
    const cudaError_t error =
        WithRowTile(args.width / kVector<Element>, [&](auto tile) {
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
      IsAligned(args.x) && IsAligned(args.gain) && IsAligned(args.dx) &&
      IsAligned(args.add[0]) && IsAligned(args.add[1])) {
    const cudaError_t error =
        WithRowTile(args.width / kVector<Element>, [&](auto tile) {
          using T = decltype(tile);
          const auto kernel =
              args.add[0] == nullptr   ? InputGradKernel<Element, T, 0>
              : args.add[1] == nullptr ? InputGradKernel<Element, T, 1>
                                       : InputGradKernel<Element, T, 2>;
          kernel<<<T::Blocks(args.rows), T::kThreads, 0, stream>>>(args);
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
