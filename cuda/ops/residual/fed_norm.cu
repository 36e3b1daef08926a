// FedNorm and FedNormInputGrad: a row is held in registers (row_tile.cuh), all
// of whose loads are issued before the first is used; of the gradient 20 words
// a vector, so that a multiprocessor has some 200 KB in flight.

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "cuda/ops/residual/fed_norm.h"
#include "cuda/ops/residual/row_quads.cuh"
#include "cuda/ops/residual/row_tile.cuh"
#include "cuda/ops/rms_norm.h"
#include "cuda/ops/vector16.cuh"

namespace strata::gpu {
namespace {

EitherRows F32(const float* rows) {
  return {const_cast<float*>(rows), /*is_bf16=*/false};
}

// Rows of F32, in the types that are loaded.
struct Rows {
  EitherRows before, rows, gain, fed_gain;

  template <typename Args>
  static Rows Of(const Args& args) {
    return {F32(args.before), F32(args.rows), F32(args.gain),
            F32(args.fed_gain)};
  }
};

template <typename T, bool kWhole>
__global__ void __launch_bounds__(T::kThreads)
    FedNormKernel(const FedNormArgs args, const Rows from) {
  const int64_t row = T::Row();
  if (row >= args.tokens.Get()) return;  // The same for all of a row's threads.
  const int64_t at = row * args.width;

  uint4 before[T::kVectors], rows[T::kVectors];
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int c = 4 * (i * T::kThreadsPerRow + T::Lane());
    const int left = args.width - c;
    const bool there = left > 0;
    before[i] = there ? LoadQuad<kWhole>(from.before, at + c, left) : uint4{};
    rows[i] = there ? LoadQuad<kWhole>(from.rows, at + c, left) : uint4{};
  }
  float sum[2] = {};
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    float b[4], r[4];
    Unpack(before[i], b);
    Unpack(rows[i], r);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      r[j] -= b[j];
      sum[0] = fmaf(b[j], b[j], sum[0]);
      sum[1] = fmaf(r[j], r[j], sum[1]);
    }
    rows[i] = Pack(r);
  }
  SumOverRow<T::kWarps>(sum);
  const float rstd = rsqrtf(sum[0] / args.width + args.eps);
  const float fed_rstd = rsqrtf(sum[1] / args.width + args.eps);
  if (T::Lane() == 0) {
    args.rstd[row] = rstd;
    args.fed_rstd[row] = fed_rstd;
  }
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int c = 4 * (i * T::kThreadsPerRow + T::Lane());
    const int left = args.width - c;
    if (left <= 0) continue;
    float b[4], added[4], gain[4], fed_gain[4];
    Unpack(before[i], b);
    Unpack(rows[i], added);
    Unpack(LoadQuad<kWhole>(from.gain, c, left), gain);
    Unpack(LoadQuad<kWhole>(from.fed_gain, c, left), fed_gain);
    // Rounded as two norms and their sum are.
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      b[j] = __fadd_rn(__fmul_rn(b[j], rstd * gain[j]),
                       __fmul_rn(added[j], fed_rstd * fed_gain[j]));
    }
    StoreQuad<kWhole>(b, args.x, at + c, left);
  }
}

// With xhat = x * rstd, of each norm: rstd * (g*dx - xhat * mean(g*dx * xhat)).
template <typename T, bool kWhole>
__global__ void __launch_bounds__(T::kThreads)
    InputGradKernel(const FedNormInputGradArgs args, const Rows from) {
  const int64_t row = T::Row();
  if (row >= args.tokens.Get()) return;  // The same for all of a row's threads.
  const int64_t at = row * args.width;
  const float rstd = args.rstd[row], fed_rstd = args.fed_rstd[row];

  uint4 dx[T::kVectors], before[T::kVectors], rows[T::kVectors];
  uint4 to_before[T::kVectors], to_rows[T::kVectors];
  const bool adds_before = args.to_before.data != nullptr;
  const bool adds_rows = args.to_rows.data != nullptr;
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int c = 4 * (i * T::kThreadsPerRow + T::Lane());
    const int left = args.width - c;
    const auto load = [&](const EitherRows& rows, bool is_there) {
      return left > 0 && is_there ? LoadQuad<kWhole>(rows, at + c, left)
                                  : uint4{};
    };
    dx[i] = load(args.dx, true);
    before[i] = load(from.before, true);
    rows[i] = load(from.rows, true);
    to_before[i] = load(args.to_before, adds_before);
    to_rows[i] = load(args.to_rows, adds_rows);
  }
  float sum[2] = {};
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int c = 4 * (i * T::kThreadsPerRow + T::Lane());
    const int left = args.width - c;
    if (left <= 0) continue;
    float d[4], b[4], r[4], gain[4], fed_gain[4];
    UnpackQuad<kWhole>(args.dx, dx[i], d);
    Unpack(before[i], b);
    Unpack(rows[i], r);
    Unpack(LoadQuad<kWhole>(from.gain, c, left), gain);
    Unpack(LoadQuad<kWhole>(from.fed_gain, c, left), fed_gain);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      r[j] -= b[j];
      sum[0] = fmaf(d[j] * gain[j], b[j], sum[0]);
      sum[1] = fmaf(d[j] * fed_gain[j], r[j], sum[1]);
    }
    rows[i] = Pack(r);
  }
  SumOverRow<T::kWarps>(sum);
  const float slope = sum[0] / args.width * rstd * rstd;
  const float fed_slope = sum[1] / args.width * fed_rstd * fed_rstd;
#pragma unroll
  for (int i = 0; i < T::kVectors; ++i) {
    const int c = 4 * (i * T::kThreadsPerRow + T::Lane());
    const int left = args.width - c;
    if (left <= 0) continue;
    float d[4], b[4], added[4], gain[4], fed_gain[4], to_b[4], to_r[4];
    UnpackQuad<kWhole>(args.dx, dx[i], d);
    Unpack(before[i], b);
    Unpack(rows[i], added);
    UnpackQuad<kWhole>(args.to_before, to_before[i], to_b);
    UnpackQuad<kWhole>(args.to_rows, to_rows[i], to_r);
    Unpack(LoadQuad<kWhole>(from.gain, c, left), gain);
    Unpack(LoadQuad<kWhole>(from.fed_gain, c, left), fed_gain);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float g = NormInputGrad(d[j], gain[j], b[j], slope, rstd);
      const float f =
          NormInputGrad(d[j], fed_gain[j], added[j], fed_slope, fed_rstd);
      b[j] = __fsub_rn(__fadd_rn(to_b[j], g), f);
      added[j] = __fadd_rn(to_r[j], f);
    }
    StoreQuad<kWhole>(b, args.d_before, at + c, left);
    StoreQuad<kWhole>(added, args.d_rows, at + c, left);
  }
}

// A block of FedNormWeightGrad: 128 columns of a part of the rows.
constexpr int kStripWarps = 8;
constexpr int kStrip = 4 * kWarp;
constexpr int kRowsInFlight = 4;  // Loaded by a warp before it adds them up.

// As PartialWeightGradKernel of rms_norm_weight_grad.cu, in the same order:
// warp w takes every eighth row, and the warps are added in order.
template <bool kWhole>
__global__ void __launch_bounds__(kWarp* kStripWarps)
    PartialWeightGradKernel(const FedNormWeightGradArgs args,
                            const EitherRows before_rows, const EitherRows rows,
                            int64_t rows_per_partial) {
  const int lane = Lane(), warp = threadIdx.x / kWarp;
  const int strip = blockIdx.x * kStrip, column = strip + 4 * lane;
  const int left = args.width - column;
  const int64_t begin = blockIdx.y * rows_per_partial;
  const int64_t end = min(begin + rows_per_partial, args.tokens.Get());

  float sum[2][4] = {};
  for (int64_t row = begin + warp; row < end && left > 0;
       row += kRowsInFlight * kStripWarps) {
    uint4 dx[kRowsInFlight], before[kRowsInFlight], now[kRowsInFlight];
    float rstd[kRowsInFlight], fed_rstd[kRowsInFlight];
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const int64_t r = min(row + i * kStripWarps, end - 1);
      const int64_t at = r * args.width + column;
      dx[i] = LoadQuad<kWhole>(args.dx, at, left);
      before[i] = LoadQuad<kWhole>(before_rows, at, left);
      now[i] = LoadQuad<kWhole>(rows, at, left);
      rstd[i] = __ldg(args.rstd + r);
      fed_rstd[i] = __ldg(args.fed_rstd + r);
    }
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (row + i * kStripWarps >= end) break;
      float d[4], b[4], n[4];
      UnpackQuad<kWhole>(args.dx, dx[i], d);
      Unpack(before[i], b);
      Unpack(now[i], n);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[0][j] = fmaf(d[j], b[j] * rstd[i], sum[0][j]);
        sum[1][j] = fmaf(d[j], (n[j] - b[j]) * fed_rstd[i], sum[1][j]);
      }
    }
  }
  __shared__ float warp_sum[kStripWarps][2][4][kWarp];
#pragma unroll
  for (int s = 0; s < 2; ++s) {
#pragma unroll
    for (int j = 0; j < 4; ++j) warp_sum[warp][s][j][lane] = sum[s][j];
  }
  __syncthreads();
  // The block's 256 threads add up a column of one sum each.
  const int c = threadIdx.x % kStrip, s = threadIdx.x / kStrip;
  if (strip + c >= args.width) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kStripWarps; ++w) total += warp_sum[w][s][c % 4][c / 4];
  args.partial[(int64_t{s} * gridDim.y + blockIdx.y) * args.width + strip + c] =
      total;
}
static_assert(2 * kStrip == kWarp * kStripWarps);

bool AreAligned(std::initializer_list<const void*> rows) {
  for (const void* const p : rows) {
    if (!IsAligned(p)) return false;
  }
  return true;
}

// Calls `launch` with the tile for a row and whether it is whole quads.
template <typename Launch>
cudaError_t WithQuads(int width, bool whole, Launch launch) {
  if (!whole) return launch(LargestRowTile(), std::false_type());
  return WithRowTile(width / 4,
                     [&](auto tile) { return launch(tile, std::true_type()); });
}

bool IsOutOfRange(int width) { return width < 1 || width > kMaxFedColumns; }

}  // namespace

cudaError_t FedNorm(const FedNormArgs& args, cudaStream_t stream) {
  if (IsOutOfRange(args.width)) return cudaErrorInvalidValue;
  if (args.tokens.bound == 0) return cudaSuccess;  // CUDA refuses empty grids.
  const bool whole =
      args.width % 4 == 0 && AreAligned({args.before, args.rows, args.gain,
                                         args.fed_gain, args.x.data});
  return WithQuads(args.width, whole, [&](auto tile, auto is_whole) {
    using T = decltype(tile);
    FedNormKernel<T, decltype(is_whole)::value>
        <<<T::Blocks(args.tokens.bound), T::kThreads, 0, stream>>>(
            args, Rows::Of(args));
    return cudaGetLastError();
  });
}

cudaError_t FedNormInputGrad(const FedNormInputGradArgs& args,
                             cudaStream_t stream) {
  if (IsOutOfRange(args.width)) return cudaErrorInvalidValue;
  if (args.tokens.bound == 0) return cudaSuccess;
  const bool whole =
      args.width % 4 == 0 &&
      AreAligned({args.dx.data, args.before, args.rows, args.gain,
                  args.fed_gain, args.to_before.data, args.to_rows.data,
                  args.d_before.data, args.d_rows.data});
  return WithQuads(args.width, whole, [&](auto tile, auto is_whole) {
    using T = decltype(tile);
    InputGradKernel<T, decltype(is_whole)::value>
        <<<T::Blocks(args.tokens.bound), T::kThreads, 0, stream>>>(
            args, Rows::Of(args));
    return cudaGetLastError();
  });
}

cudaError_t FedNormWeightGrad(const FedNormWeightGradArgs& args,
                              cudaStream_t stream) {
  if (IsOutOfRange(args.width)) return cudaErrorInvalidValue;
  const int64_t rows = args.tokens.bound;
  if (rows == 0) {
    for (float* const sum : {args.dgain, args.dfed_gain}) {
      const cudaError_t error =
          cudaMemsetAsync(sum, 0, args.width * sizeof(float), stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  const int partials = RmsNormWeightGradPartials(rows);
  const dim3 grid(static_cast<unsigned>(CeilDiv(args.width, kStrip)), partials);
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kWarp * kStripWarps, 0, stream>>>(
        args, F32(args.before), F32(args.rows), CeilDiv(rows, partials));
    return cudaGetLastError();
  };
  const bool whole =
      args.width % 4 == 0 && AreAligned({args.dx.data, args.before, args.rows});
  const cudaError_t error = whole ? launch(PartialWeightGradKernel<true>)
                                  : launch(PartialWeightGradKernel<false>);
  if (error != cudaSuccess) return error;
  return SumGainPartials(
      {args.partial, partials, args.width, {args.dgain, args.dfed_gain}},
      stream);
}

namespace {

cudaError_t RefuseColumns(const KernelContext& ctx) {
  return ctx.Refuse("rows of more than 8192 columns");
}

cudaError_t RunFedNorm(const KernelContext& ctx) {
  FedNormArgs args;
  args.before = ctx.in(0).as<float>();
  args.rows = ctx.in(1).as<float>();
  args.gain = ctx.in(2).as<float>();
  args.fed_gain = ctx.in(3).as<float>();
  args.x = EitherRowsOf(ctx.out(0));
  args.rstd = ctx.out(1).as<float>();
  args.fed_rstd = ctx.out(2).as<float>();
  args.tokens = ctx.in(0).rows();
  args.width = static_cast<int>(ctx.in(0).dim(1));
  args.eps = ctx.Float("eps");
  if (args.width > kMaxFedColumns) return RefuseColumns(ctx);
  return FedNorm(args, ctx.stream);
}

cudaError_t RunInputGrad(const KernelContext& ctx) {
  constexpr int kToBefore = 7, kToRows = 8;  // core/ops/fed_norm.h
  FedNormInputGradArgs args;
  args.dx = EitherRowsOf(ctx.in(0));
  args.before = ctx.in(1).as<float>();
  args.rows = ctx.in(2).as<float>();
  args.gain = ctx.in(3).as<float>();
  args.fed_gain = ctx.in(4).as<float>();
  args.rstd = ctx.in(5).as<float>();
  args.fed_rstd = ctx.in(6).as<float>();
  args.to_before = EitherRowsIn(ctx, kToBefore);
  args.to_rows = EitherRowsIn(ctx, kToRows);
  args.d_before = EitherRowsOf(ctx.out(0));
  args.d_rows = EitherRowsOf(ctx.out(1));
  args.tokens = ctx.in(1).rows();
  args.width = static_cast<int>(ctx.in(1).dim(1));
  if (args.width > kMaxFedColumns) return RefuseColumns(ctx);
  return FedNormInputGrad(args, ctx.stream);
}

cudaError_t RunWeightGrad(const KernelContext& ctx) {
  FedNormWeightGradArgs args;
  args.dx = EitherRowsOf(ctx.in(0));
  args.before = ctx.in(1).as<float>();
  args.rows = ctx.in(2).as<float>();
  args.rstd = ctx.in(3).as<float>();
  args.fed_rstd = ctx.in(4).as<float>();
  args.dgain = ctx.out(0).as<float>();
  args.dfed_gain = ctx.out(1).as<float>();
  args.tokens = ctx.in(1).rows();
  args.width = static_cast<int>(ctx.in(1).dim(1));
  if (args.width > kMaxFedColumns) return RefuseColumns(ctx);
  args.partial = ctx.Take<float>(
      2 * int64_t{RmsNormWeightGradPartials(args.tokens.bound)} * args.width);
  if (args.partial == nullptr) return cudaErrorMemoryAllocation;
  return FedNormWeightGrad(args, ctx.stream);
}

}  // namespace

void RegisterFedNormKernels(KernelRegistry& kernels) {
  kernels.Register("FedNorm", RunFedNorm);
  kernels.Register("FedNormInputGrad", RunInputGrad);
  kernels.Register("FedNormWeightGrad", RunWeightGrad);
}

}  // namespace strata::gpu
