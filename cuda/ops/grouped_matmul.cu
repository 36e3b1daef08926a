#include <cstdint>

#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/kernels/weight_grad_parts.h"
#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/gemm_tile.cuh"
#include "cuda/ops/grouped_matmul.h"
#include "cuda/ops/row_dots.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Up to so many rows at the bound, a product by w^T is a dot an element: each
// expert then has about one row, and a tile would be nearly empty.
constexpr int64_t kMaxDotRows = 64;

struct ProductArgs {
  Extent rows;
  int num_experts = 0;
  int64_t n = 0, k = 0;
  const float* x = nullptr;         // [rows, k]
  const void* w = nullptr;          // [E, n, k], or [E, k, n]
  const int32_t* offset = nullptr;  // [E + 1]
  float* y = nullptr;               // [rows, n]
  bool wide = false;
  FaultSink fault;
};

// y rows = x rows w[e]^T (kTransposed), or w[e]; a block a tile of y.
template <bool kTransposed, typename W>
__global__ void __launch_bounds__(kBlock)
    ProductKernel(const ProductArgs args) {
  const int64_t rows = args.rows.Get();
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    CheckOffsets(args.offset, args.num_experts, rows, args.fault);
  }
  RowTile tile;
  if (!FindTile<kTile>(args.offset, args.num_experts, rows,
                       static_cast<int>(blockIdx.y), tile)) {
    return;
  }
  __shared__ TileBuffers buffers;
  const int64_t column = int64_t{blockIdx.x} * kTile;
  const W* const w = static_cast<const W*>(args.w) +
                     tile.expert * args.n * args.k +
                     (kTransposed ? column * args.k : column);
  GemmTile<true, kTransposed>(
      buffers, args.x + tile.row * args.k, args.k, w,
      kTransposed ? args.k : args.n, tile.num_rows,
      static_cast<int>(min(int64_t{kTile}, args.n - column)), args.k,
      args.y + tile.row * args.n + column, args.n);
}

// A warp an element of y.
template <typename W>
__global__ void __launch_bounds__(kBlock) DotsKernel(const ProductArgs args) {
  const int64_t rows = args.rows.Get();
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    CheckOffsets(args.offset, args.num_experts, rows, args.fault);
  }
  const int64_t row = blockIdx.y, column = FirstRow();
  if (row >= rows || column >= args.n) return;
  // The last expert that begins at the row or before.
  int expert = 0;
  for (int step = 1024; step > 0; step /= 2) {
    if (expert + step < args.num_experts && args.offset[expert + step] <= row) {
      expert += step;
    }
  }
  const W* const w =
      static_cast<const W*>(args.w) + (expert * args.n + column) * args.k;
  float sum[1];
  RowDots(args.x + row * args.k, w, args.k, args.wide, sum);
  if (Lane() == 0) args.y[row * args.n + column] = sum[0];
}

template <typename W>
cudaError_t LaunchProduct(const KernelContext& ctx, ProductArgs args,
                          bool transposed) {
  const W* const w = static_cast<const W*>(args.w);
  if (transposed && args.rows.bound <= kMaxDotRows && args.k > 0) {
    args.wide = IsWide(args.x, w, args.k);
    const dim3 grid(static_cast<unsigned>(CeilDiv(args.n, kWarpsPerBlock)),
                    static_cast<unsigned>(args.rows.bound));
    DotsKernel<W><<<grid, kBlock, 0, ctx.stream>>>(args);
    return cudaGetLastError();
  }
  // Each expert may have one tile that is not full.
  const int64_t tiles = CeilDiv(args.rows.bound, kTile) + args.num_experts;
  const dim3 grid(static_cast<unsigned>(CeilDiv(args.n, kTile)),
                  static_cast<unsigned>(tiles));
  if (transposed) {
    ProductKernel<true, W><<<grid, kBlock, 0, ctx.stream>>>(args);
  } else {
    ProductKernel<false, W><<<grid, kBlock, 0, ctx.stream>>>(args);
  }
  return cudaGetLastError();
}

// --- In the tensor cores ---

__global__ void __launch_bounds__(kBlock)
    CheckOffsetsKernel(const int32_t* offset, int num_experts, Extent rows,
                       FaultSink fault) {
  CheckOffsets(offset, num_experts, rows.Get(), fault);
}

bool UsesTensorCores(const KernelContext& ctx, int64_t n, int64_t k,
                     int64_t num_experts) {
  return ctx.precision == Precision::kBf16 && HasTiles(n, k, num_experts) &&
         IsHopper();
}

cudaError_t LaunchRounded(const KernelContext& ctx, const ProductArgs& args,
                          bool transposed) {
  GroupedProductArgs product;
  product.rows = args.rows;
  product.num_experts = args.num_experts;
  product.n = args.n;
  product.k = args.k;
  product.transposed = transposed;
  product.offset = args.offset;
  product.y = args.y;
  product.bf16_y = ctx.out(0).element_size == 2;
  if (const cudaError_t e = RoundedRows(ctx, ctx.in(0), &product.x); e)
    return e;
  if (const cudaError_t e = Rounded(ctx, ctx.in(1), &product.w); e) return e;
  CheckOffsetsKernel<<<1, kBlock, 0, ctx.stream>>>(
      args.offset, args.num_experts, args.rows, args.fault);
  return GroupedProduct(product, ctx.stream);
}

}  // namespace

bool SumsInTensorCores(const KernelContext& ctx, int64_t n, int64_t k,
                       int64_t num_experts) {
  return UsesTensorCores(ctx, n, k, num_experts);
}

cudaError_t WeightGradRounded(const KernelContext& ctx, const Operand& dy,
                              const Operand& x, const Operand& offset,
                              GroupedWeightGradArgs grad) {
  grad.rows = dy.rows();
  grad.num_experts = static_cast<int>(offset.dim(0) - 1);
  grad.n = dy.dim(1);
  grad.k = x.dim(1);
  grad.offset = offset.as<int32_t>();
  if (const cudaError_t e = RoundedRows(ctx, dy, &grad.dy); e) return e;
  if (const cudaError_t e = RoundedRows(ctx, x, &grad.x); e) return e;
  CheckOffsetsKernel<<<1, kBlock, 0, ctx.stream>>>(
      grad.offset, grad.num_experts, grad.rows, ctx.fault);
  const WeightGradParts parts = PartsOf(grad);
  void* room = nullptr;
  if (parts.room > 0) {
    room = ctx.Take<char>(static_cast<int64_t>(parts.room));
    if (room == nullptr) return cudaErrorMemoryAllocation;
  }
  return GroupedWeightGradByParts(grad, parts, room, ctx.stream);
}

cudaError_t RunGroupedMatMul(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& w = ctx.in(1);
  const bool transposed = ctx.Int("transpose_w") != 0;
  ProductArgs args;
  args.rows = x.rows();
  args.num_experts = static_cast<int>(w.dim(0));
  args.k = x.dim(1);
  args.n = w.dim(transposed ? 1 : 2);
  args.x = x.as<float>();
  args.w = w.data;
  args.offset = ctx.in(2).as<int32_t>();
  args.y = ctx.out(0).as<float>();
  args.fault = ctx.fault;
  if (args.rows.bound == 0 || args.n == 0) return cudaSuccess;
  if (args.num_experts > 2047) {
    return ctx.Refuse("more than 2047 experts");
  }
  // Few rows read less of F32 weights than rounding them would.
  if (args.rows.bound > kMaxDotRows &&
      UsesTensorCores(ctx, args.n, args.k, args.num_experts)) {
    return LaunchRounded(ctx, args, transposed);
  }
  const Operand& y = ctx.out(0);
  if (x.element_size == 2) {
    if (const cudaError_t e = WidenedRows(ctx, x, &args.x); e) return e;
  }
  if (y.element_size == 2) {
    args.y = ctx.Take<float>(y.max_elements());
    if (args.y == nullptr) return cudaErrorMemoryAllocation;
  }
  const cudaError_t error =
      w.element_size == 2 ? LaunchProduct<__nv_bfloat16>(ctx, args, transposed)
                          : LaunchProduct<float>(ctx, args, transposed);
  if (error != cudaSuccess || y.element_size == 4) return error;
  return StoreRounded(ctx, args.y, y);
}

namespace {

// dw[e] [n, k] = dy rows^T x rows; a block a tile of dw[e], rows in order.
__global__ void __launch_bounds__(kBlock)
    WeightGradKernel(Extent extent, int num_experts, int64_t n, int64_t k,
                     const float* dy, const float* x, const int32_t* offset,
                     float* dw, FaultSink fault) {
  const int64_t rows = extent.Get();
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0) {
    CheckOffsets(offset, num_experts, rows, fault);
  }
  __shared__ TileBuffers buffers;
  const int64_t e = blockIdx.z;
  const int64_t begin = min(max(int64_t{offset[e]}, int64_t{0}), rows);
  const int64_t end = min(max(int64_t{offset[e + 1]}, begin), rows);
  const int64_t row = int64_t{blockIdx.y} * kTile;
  const int64_t column = int64_t{blockIdx.x} * kTile;
  GemmTile<false, false>(buffers, dy + begin * n + row, n,
                         x + begin * k + column, k,
                         static_cast<int>(min(int64_t{kTile}, n - row)),
                         static_cast<int>(min(int64_t{kTile}, k - column)),
                         end - begin, dw + (e * n + row) * k + column, k);
}

cudaError_t RunGroupedWeightGrad(const KernelContext& ctx) {
  return WeightGradByExpert(ctx, ctx.in(0), ctx.in(1), ctx.in(2),
                            ctx.out(0).as<float>());
}

}  // namespace

cudaError_t WeightGradByExpert(const KernelContext& ctx, const Operand& dy,
                               const Operand& x, const Operand& offset,
                               float* dw) {
  const int64_t n = dy.dim(1), k = x.dim(1), num_experts = offset.dim(0) - 1;
  if (n == 0 || k == 0 || num_experts == 0) return cudaSuccess;
  if (UsesTensorCores(ctx, n, k, num_experts)) {
    GroupedWeightGradArgs grad;
    grad.dw = dw;
    return WeightGradRounded(ctx, dy, x, offset, grad);
  }
  const float *wide_dy = dy.as<float>(), *wide_x = x.as<float>();
  if (dy.element_size == 2) {
    if (const cudaError_t e = WidenedRows(ctx, dy, &wide_dy); e) return e;
  }
  if (x.element_size == 2) {
    if (const cudaError_t e = WidenedRows(ctx, x, &wide_x); e) return e;
  }
  const dim3 grid(static_cast<unsigned>(CeilDiv(k, kTile)),
                  static_cast<unsigned>(CeilDiv(n, kTile)),
                  static_cast<unsigned>(num_experts));
  WeightGradKernel<<<grid, kBlock, 0, ctx.stream>>>(
      dy.rows(), static_cast<int>(num_experts), n, k, wide_dy, wide_x,
      offset.as<int32_t>(), dw, ctx.fault);
  return cudaGetLastError();
}

void RegisterGroupedMatMulKernels(KernelRegistry& kernels) {
  kernels.Register("GroupedMatMul", RunGroupedMatMul);
  kernels.Register("GroupedWeightGrad", RunGroupedWeightGrad);
}

}  // namespace strata::gpu
