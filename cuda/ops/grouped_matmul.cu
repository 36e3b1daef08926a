#include <cstdint>

#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/round_rows.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/tensor_map.h"
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

// `operand` in BF16: itself, or rounded into scratch. Null if there is none.
const __nv_bfloat16* Rounded(const KernelContext& ctx, const Operand& operand,
                             cudaError_t& error) {
  if (operand.element_size == 2) return operand.as<__nv_bfloat16>();
  auto* const rounded = ctx.Take<__nv_bfloat16>(operand.max_elements());
  if (rounded == nullptr) {
    error = cudaErrorMemoryAllocation;
    return nullptr;
  }
  error = RoundRows(operand.rows(), operand.columns(), operand.as<float>(),
                    rounded, ctx.stream);
  return error == cudaSuccess ? rounded : nullptr;
}

cudaError_t LaunchRounded(const KernelContext& ctx, const ProductArgs& args,
                          bool transposed) {
  cudaError_t error = cudaSuccess;
  GroupedProductArgs product;
  product.rows = args.rows;
  product.num_experts = args.num_experts;
  product.n = args.n;
  product.k = args.k;
  product.transposed = transposed;
  product.offset = args.offset;
  product.y = args.y;
  product.x = Rounded(ctx, ctx.in(0), error);
  if (product.x == nullptr) return error;
  product.w = Rounded(ctx, ctx.in(1), error);
  if (product.w == nullptr) return error;
  CheckOffsetsKernel<<<1, kBlock, 0, ctx.stream>>>(
      args.offset, args.num_experts, args.rows, args.fault);
  return GroupedProduct(product, ctx.stream);
}

cudaError_t WeightGradRounded(const KernelContext& ctx) {
  const Operand& dw = ctx.out(0);
  cudaError_t error = cudaSuccess;
  GroupedWeightGradArgs grad;
  grad.rows = ctx.in(0).rows();
  grad.num_experts = static_cast<int>(dw.dim(0));
  grad.n = dw.dim(1);
  grad.k = dw.dim(2);
  grad.offset = ctx.in(2).as<int32_t>();
  grad.dw = dw.as<float>();
  grad.dy = Rounded(ctx, ctx.in(0), error);
  if (grad.dy == nullptr) return error;
  grad.x = Rounded(ctx, ctx.in(1), error);
  if (grad.x == nullptr) return error;
  CheckOffsetsKernel<<<1, kBlock, 0, ctx.stream>>>(
      grad.offset, grad.num_experts, grad.rows, ctx.fault);
  return GroupedWeightGrad(grad, ctx.stream);
}

}  // namespace

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
  return w.element_size == 2
             ? LaunchProduct<__nv_bfloat16>(ctx, args, transposed)
             : LaunchProduct<float>(ctx, args, transposed);
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
  const Operand& dy = ctx.in(0);
  const Operand& dw = ctx.out(0);
  const int64_t n = dw.dim(1), k = dw.dim(2);
  if (dw.max_elements() == 0) return cudaSuccess;
  if (UsesTensorCores(ctx, n, k, dw.dim(0))) return WeightGradRounded(ctx);
  const dim3 grid(static_cast<unsigned>(CeilDiv(k, kTile)),
                  static_cast<unsigned>(CeilDiv(n, kTile)),
                  static_cast<unsigned>(dw.dim(0)));
  WeightGradKernel<<<grid, kBlock, 0, ctx.stream>>>(
      dy.rows(), static_cast<int>(dw.dim(0)), n, k, dy.as<float>(),
      ctx.in(1).as<float>(), ctx.in(2).as<int32_t>(), dw.as<float>(),
      ctx.fault);
  return cudaGetLastError();
}

}  // namespace

void RegisterGroupedMatMulKernels(KernelRegistry& kernels) {
  kernels.Register("GroupedMatMul", RunGroupedMatMul);
  kernels.Register("GroupedWeightGrad", RunGroupedWeightGrad);
}

}  // namespace strata::gpu
