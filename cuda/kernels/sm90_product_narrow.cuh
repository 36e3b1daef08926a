// Products of a warpgroup as sm90_product.cuh has them, with n of 16 and 32: of
// few columns, where a, the larger operand, is read once. Both operands lie in
// shared memory.

#ifndef CUDA_KERNELS_SM90_PRODUCT_NARROW_CUH_
#define CUDA_KERNELS_SM90_PRODUCT_NARROW_CUH_

#include <cstdint>

#include "cuda/kernels/sm90_product.cuh"

namespace strata::gpu {

// Columns of b, of kernels that have 16, 32 and 64, for so many.
constexpr int NarrowColumns(int64_t columns) {
  return columns <= 16 ? 16 : columns <= 32 ? 32 : 64;
}

#if STRATA_SM90A

template <int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[8], uint64_t a, uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, "
      "%4, %5, %6, %7}, %8, %9, p, 1, 1, %11, %12;\n}\n"
      : STRATA_SUMS_8(0)
      : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));
}

template <int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[16], uint64_t a, uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, "
      "%4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, "
      "1, %19, %20;\n}\n"
      : STRATA_SUMS_16(0)
      : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));
}

// d += a * b over the 64 indices that a row of a tile holds, of both operands;
// a group of products by itself.
template <int n>
__device__ __forceinline__ void MultiplyTiles(float (&d)[n], const void* a,
                                              const void* b) {
  const uint64_t of_a = Describe(a), of_b = Describe(b);
  BeginProducts();
#pragma unroll
  for (int q = 0; q < kSwizzleColumns / 16; ++q) {
    Multiply<kInner, kInner>(d, Advance(of_a, q * kStep16<kInner>),
                             Advance(of_b, q * kStep16<kInner>), /*add=*/1);
  }
  EndProducts();
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_PRODUCT_NARROW_CUH_
