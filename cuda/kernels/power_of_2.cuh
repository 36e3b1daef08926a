// 2^x for softmax, in one instruction.

#ifndef CUDA_KERNELS_POWER_OF_2_CUH_
#define CUDA_KERNELS_POWER_OF_2_CUH_

namespace strata::gpu {

// Within 2 units in the last place. Results below 2^-126 are 0, where exp2f()
// takes three more instructions to keep them: a softmax's largest term is 1.
__device__ __forceinline__ float PowerOf2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_POWER_OF_2_CUH_
