// More of sm90_product.cuh's products with a in registers: n of 8, 16 and 32.

#ifndef CUDA_KERNELS_SM90_PRODUCT_REGISTERS_CUH_
#define CUDA_KERNELS_SM90_PRODUCT_REGISTERS_CUH_

#include <cstdint>

#include "cuda/kernels/sm90_product.cuh"

namespace strata::gpu {

#if STRATA_SM90A

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[4], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, %8, p, 1, 1, %10;\n}\n"
      : STRATA_SUMS_4(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[8], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, "
      "%4, %5, %6, %7}, {%8, %9, %10, %11}, %12, p, 1, 1, %14;\n}\n"
      : STRATA_SUMS_8(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[16], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, "
      "%4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, "
      "%19}, %20, p, 1, 1, %22;\n}\n"
      : STRATA_SUMS_16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

// Sums may be read, and changed, behind this, not before: products that end at
// a WaitForProducts() write them unseen.
template <int n>
__device__ __forceinline__ void KeepBehind(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_PRODUCT_REGISTERS_CUH_
