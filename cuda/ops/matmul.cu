#include <cstdint>

#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/blas.h"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/gemm_tile.cuh"
#include "cuda/ops/matmul.h"
#include "cuda/ops/row_dots.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Up to so many rows, a product by w^T is a dot an element.
constexpr int64_t kMaxDotRows = 8;

// Rows of both operands beyond the count are zeros from now on, so that a sum
// over all rows up to the bound is one over those that are there.
__global__ void __launch_bounds__(kBlock)
    ZeroTailsKernel(Extent rows, int64_t columns_a, float* a, int64_t columns_b,
                    float* b) {
  const int64_t first = rows.Get();
  for (int64_t i = first * columns_a + FirstElement();
       i < rows.bound * columns_a; i += ElementStride()) {
    a[i] = 0;
  }
  for (int64_t i = first * columns_b + FirstElement();
       i < rows.bound * columns_b; i += ElementStride()) {
    b[i] = 0;
  }
}

// y [rows <= kRows, n] = x [rows, k] w [n, k]^T, a warp a column.
template <int kRows, typename W>
__global__ void __launch_bounds__(kBlock)
    FewRowsKernel(int64_t n, int64_t k, bool wide, const float* x, const W* w,
                  float* y) {
  const int64_t column = FirstRow();
  if (column >= n) return;
  float sum[kRows];
  RowDots(x, w + column * k, k, wide, sum);
  if (Lane() != 0) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) y[r * n + column] = sum[r];
}

template <int kRows, typename W>
cudaError_t LaunchFewRows(const KernelContext& ctx, int64_t n, int64_t k,
                          const float* x, const W* w, float* y) {
  const auto blocks = static_cast<unsigned>(CeilDiv(n, kWarpsPerBlock));
  FewRowsKernel<kRows>
      <<<blocks, kBlock, 0, ctx.stream>>>(n, k, IsWide(x, w, k), x, w, y);
  return cudaGetLastError();
}

// In powers of two of rows, so that a kernel has no more than it needs.
template <typename W>
cudaError_t FewRows(const KernelContext& ctx, int64_t m, int64_t n, int64_t k,
                    const W* w) {
  const float* x = ctx.in(0).as<float>();
  float* y = ctx.out(0).as<float>();
  for (; m > 0;) {
    cudaError_t error = cudaSuccess;
    int64_t done = 1;
    if (m >= 8) {
      error = LaunchFewRows<8>(ctx, n, k, x, w, y);
      done = 8;
    } else if (m >= 4) {
      error = LaunchFewRows<4>(ctx, n, k, x, w, y);
      done = 4;
    } else if (m >= 2) {
      error = LaunchFewRows<2>(ctx, n, k, x, w, y);
      done = 2;
    } else {
      error = LaunchFewRows<1>(ctx, n, k, x, w, y);
    }
    if (error != cudaSuccess) return error;
    m -= done;
    x += done * k;
    y += done * n;
  }
  return cudaSuccess;
}

__global__ void __launch_bounds__(kBlock)
    WidenKernel(int64_t n, const __nv_bfloat16* x, float* y) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    y[i] = __bfloat162float(x[i]);
  }
}

__global__ void __launch_bounds__(kBlock)
    NarrowKernel(Extent rows, int64_t columns, const float* x,
                 __nv_bfloat16* y) {
  const int64_t n = rows.Get() * columns;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    y[i] = __float2bfloat16_rn(x[i]);
  }
}

// The product by a BF16 weight: widened for the reference, else with the rows
// narrowed.
cudaError_t NarrowProduct(const KernelContext& ctx, GemmArgs args) {
  const Operand& x = ctx.in(0);
  const Operand& w = ctx.in(1);
  if (ctx.precision == Precision::kBf16) {
    auto* const narrow = ctx.Take<__nv_bfloat16>(x.max_elements());
    if (narrow == nullptr) return cudaErrorMemoryAllocation;
    NarrowKernel<<<BlocksFor(x.max_elements()), kBlock, 0, ctx.stream>>>(
        x.rows(), x.columns(), x.as<float>(), narrow);
    args.a = narrow;
    args.bf16 = true;
  } else {
    auto* const wide = ctx.Take<float>(w.max_elements());
    if (wide == nullptr) return cudaErrorMemoryAllocation;
    WidenKernel<<<BlocksFor(w.max_elements()), kBlock, 0, ctx.stream>>>(
        w.max_elements(), w.as<__nv_bfloat16>(), wide);
    args.b = wide;
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return error;
  }
  return Gemm(ctx, args);
}

// Products of which any operand or the result may be BF16.
cudaError_t MixedProduct(const KernelContext& ctx, GemmArgs args) {
  const Operand& c = ctx.out(0);
  args.bf16 = ctx.precision == Precision::kBf16;
  if (args.bf16) {
    const __nv_bfloat16 *a = nullptr, *b = nullptr;
    if (const cudaError_t e = Rounded(ctx, ctx.in(0), &a); e) return e;
    if (const cudaError_t e = Rounded(ctx, ctx.in(1), &b); e) return e;
    args.a = a;
    args.b = b;
    args.bf16_c = c.element_size == 2;
    return Gemm(ctx, args);
  }
  const float *a = nullptr, *b = nullptr;
  if (const cudaError_t e = Widened(ctx, ctx.in(0), &a); e) return e;
  if (const cudaError_t e = Widened(ctx, ctx.in(1), &b); e) return e;
  args.a = a;
  args.b = b;
  if (c.element_size == 4) return Gemm(ctx, args);
  args.c = ctx.Take<float>(c.max_elements());
  if (args.c == nullptr) return cudaErrorMemoryAllocation;
  if (const cudaError_t e = Gemm(ctx, args); e) return e;
  return StoreRounded(ctx, args.c, c);
}

// Up to so many columns and so much to sum over, a product is one launch of
// tiles that lie below each other, a block each. A gate has a dozen of them,
// for which cuBLAS takes two launches where the sum is longer than the result
// is large.
constexpr int64_t kMaxNarrowDepth = 128;

template <bool kAInnerTogether, bool kBInnerTogether>
__global__ void __launch_bounds__(kBlock)
    NarrowProductKernel(const GemmArgs args) {
  __shared__ TileBuffers buffers;
  const int64_t row = int64_t{blockIdx.x} * kTile;
  GemmTile<kAInnerTogether, kBInnerTogether>(
      buffers,
      static_cast<const float*>(args.a) +
          (kAInnerTogether ? row * args.lda : row),
      args.lda, static_cast<const float*>(args.b), args.ldb,
      static_cast<int>(min(int64_t{kTile}, args.m - row)),
      static_cast<int>(args.n), args.k, args.c + row * args.ldc, args.ldc);
}

cudaError_t LaunchNarrow(const KernelContext& ctx, const GemmArgs& args) {
  const auto blocks = static_cast<unsigned>(CeilDiv(args.m, kTile));
  auto* const kernel =
      args.transpose_a ? (args.transpose_b ? NarrowProductKernel<false, true>
                                           : NarrowProductKernel<false, false>)
                       : (args.transpose_b ? NarrowProductKernel<true, true>
                                           : NarrowProductKernel<true, false>);
  kernel<<<blocks, kBlock, 0, ctx.stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t RunMatMul(const KernelContext& ctx) {
  const Operand& a = ctx.in(0);
  const Operand& b = ctx.in(1);
  const bool narrow = b.element_size == 2;
  GemmArgs args;
  args.transpose_a = ctx.Int("transpose_lhs") != 0;
  args.transpose_b = ctx.Int("transpose_rhs") != 0;
  args.m = a.dim(args.transpose_a ? 1 : 0);
  args.k = a.dim(args.transpose_a ? 0 : 1);
  args.n = b.dim(args.transpose_b ? 0 : 1);
  args.a = a.data;
  args.b = b.data;
  args.c = ctx.out(0).as<float>();
  args.lda = args.transpose_a ? args.m : args.k;
  args.ldb = args.transpose_b ? args.k : args.n;
  args.ldc = args.n;
  if (args.m == 0 || args.n == 0) return cudaSuccess;
  const bool by_rows_of_b = !args.transpose_a && args.transpose_b;
  if (a.element_size == 2 || ctx.out(0).element_size == 2 ||
      (narrow && !by_rows_of_b)) {
    return MixedProduct(ctx, args);
  }
  if (narrow && !args.transpose_a && args.transpose_b &&
      ctx.precision == Precision::kBf16 &&
      HasFewRows(args.m, Bf16Rows(b.as<__nv_bfloat16>(), args.n, args.k))) {
    FewRowsArgs few;
    few.tokens = a.rows();
    few.k = few.pitch = args.k;
    few.x = a.as<float>();
    few.product[0].w = Bf16Rows(b.as<__nv_bfloat16>(), args.n, args.k);
    few.product[0].y = args.c;
    return FewRowsProducts(few, ctx.stream);
  }
  if (!args.transpose_a && args.transpose_b && args.m <= kMaxDotRows &&
      args.k > 0) {
    return narrow ? FewRows(ctx, args.m, args.n, args.k, b.as<__nv_bfloat16>())
                  : FewRows(ctx, args.m, args.n, args.k, b.as<float>());
  }
  if (narrow) return NarrowProduct(ctx, args);
  if (args.transpose_a && a.count != nullptr) {
    const int64_t largest = args.k * (args.m > args.n ? args.m : args.n);
    ZeroTailsKernel<<<BlocksFor(largest), kBlock, 0, ctx.stream>>>(
        a.rows(), a.columns(), a.as<float>(), b.columns(), b.as<float>());
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
      return error;
    }
  }
  if (args.n <= kTile && args.k <= kMaxNarrowDepth) {
    return LaunchNarrow(ctx, args);
  }
  return Gemm(ctx, args);
}

namespace {}  // namespace

void RegisterMatMulKernels(KernelRegistry& kernels) {
  kernels.Register("MatMul", RunMatMul);
}

}  // namespace strata::gpu
