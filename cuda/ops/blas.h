// cuBLAS for row-major matrices.

#ifndef CUDA_OPS_BLAS_H_
#define CUDA_OPS_BLAS_H_

#include <cstdint>

#include "cublas_v2.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// c [m, n] = op(a) [m, k] * op(b) [k, n], `batch` times, at distances of
// stride_* elements. Row-major, ld* elements from row to row. With `scalars`,
// two floats on the device: scalars[0] times that, plus scalars[1] times what c
// holds, which may be anything where scalars[1] is 0.
struct GemmArgs {
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  float* c = nullptr;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  bool bf16 = false;    // a and b are; else F32.
  bool bf16_c = false;  // c is, if a and b are.
  const float* scalars = nullptr;
};

// Sums in F32, operands as ctx.precision says. The result is zero where k is 0.
cudaError_t Gemm(const KernelContext& ctx, const GemmArgs& args);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BLAS_H_
