#include <cstdint>
#include <type_traits>

#include "cuda/kernels/round_rows.h"
#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Rows from the count to the bound.
enum class Tail { kZeros, kIgnored };

template <typename X, typename Y>
__global__ void __launch_bounds__(kBlock)
    ConvertKernel(Extent rows, int64_t columns, const X* x, Y* y, Tail tail) {
  const int64_t there = rows.Get() * columns;
  const int64_t all = tail == Tail::kZeros ? rows.bound * columns : there;
  for (int64_t i = FirstElement(); i < all; i += ElementStride()) {
    y[i] = static_cast<Y>(i < there ? static_cast<float>(x[i]) : 0.f);
  }
}

template <typename X, typename Y>
cudaError_t Convert(const KernelContext& ctx, const Operand& operand,
                    const X* x, Y* y, Tail tail) {
  ConvertKernel<<<BlocksFor(operand.max_elements(), 4), kBlock, 0,
                  ctx.stream>>>(operand.rows(), operand.columns(), x, y, tail);
  return cudaGetLastError();
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    ZeroTailKernel(Extent rows, int64_t columns, T* x) {
  for (int64_t i = rows.Get() * columns + FirstElement();
       i < rows.bound * columns; i += ElementStride()) {
    x[i] = 0.f;
  }
}

// Itself, its tail zeroed, or converted by `convert`.
template <typename T, typename ConvertFn>
cudaError_t As(const KernelContext& ctx, const Operand& operand,
               ConvertFn convert, const T** as, Tail tail) {
  if (operand.element_size == sizeof(T)) {
    *as = operand.as<T>();
    if (operand.count == nullptr || tail == Tail::kIgnored) return cudaSuccess;
    ZeroTailKernel<<<BlocksFor(operand.max_elements(), 64), kBlock, 0,
                     ctx.stream>>>(operand.rows(), operand.columns(),
                                   operand.as<T>());
    return cudaGetLastError();
  }
  T* const converted = ctx.Take<T>(operand.max_elements());
  if (converted == nullptr) return cudaErrorMemoryAllocation;
  *as = converted;
  return convert(converted);
}

cudaError_t Round(const KernelContext& ctx, const Operand& operand,
                  const __nv_bfloat16** rounded, Tail tail) {
  const float* const x = operand.as<float>();
  const auto round = [&](__nv_bfloat16* y) {
    return operand.columns() % 8 == 0
               ? RoundRows(operand.rows(), operand.columns(), x, y, ctx.stream,
                           tail == Tail::kZeros)
               : Convert(ctx, operand, x, y, tail);
  };
  return As(ctx, operand, round, rounded, tail);
}

cudaError_t Widen(const KernelContext& ctx, const Operand& operand,
                  const float** widened, Tail tail) {
  const auto widen = [&](float* y) {
    return Convert(ctx, operand, operand.as<__nv_bfloat16>(), y, tail);
  };
  return As(ctx, operand, widen, widened, tail);
}

}  // namespace

cudaError_t Rounded(const KernelContext& ctx, const Operand& operand,
                    const __nv_bfloat16** rounded) {
  return Round(ctx, operand, rounded, Tail::kZeros);
}

cudaError_t Widened(const KernelContext& ctx, const Operand& operand,
                    const float** widened) {
  return Widen(ctx, operand, widened, Tail::kZeros);
}

cudaError_t RoundedRows(const KernelContext& ctx, const Operand& operand,
                        const __nv_bfloat16** rounded) {
  return Round(ctx, operand, rounded, Tail::kIgnored);
}

cudaError_t WidenedRows(const KernelContext& ctx, const Operand& operand,
                        const float** widened) {
  return Widen(ctx, operand, widened, Tail::kIgnored);
}

cudaError_t StoreRounded(const KernelContext& ctx, const float* result,
                         const Operand& out) {
  return Convert(ctx, out, result, out.as<__nv_bfloat16>(), Tail::kIgnored);
}

}  // namespace strata::gpu
