// The product of sm90_product.cuh for n = 192: keys' heads of latent attention.

#ifndef CUDA_KERNELS_SM90_PRODUCT_192_CUH_
#define CUDA_KERNELS_SM90_PRODUCT_192_CUH_

#include <cstdint>

#include "cuda/kernels/sm90_product.cuh"

namespace strata::gpu {

#if STRATA_SM90A

#define STRATA_NAMES_96                                                    \
  STRATA_NAMES_64                                                          \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "    \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, " \
  "%91, %92, %93, %94, %95"

// a in registers.
template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[96], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %101, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" STRATA_NAMES_96
      "}, {%96, %97, %98, %99}, %100, p, 1, 1, %102;\n}\n"
      : STRATA_SUMS_64(0), STRATA_SUMS_32(64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_PRODUCT_192_CUH_
