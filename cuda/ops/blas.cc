#include "cuda/ops/blas.h"

#include "cublas_v2.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

cublasComputeType_t ComputeType(Precision precision) {
  switch (precision) {
    case Precision::kF32:
      break;
    case Precision::kTf32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case Precision::kBf16:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
  }
  return CUBLAS_COMPUTE_32F;
}

cudaError_t ToError(const KernelContext& ctx, cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
  ctx.complaint = cublasGetStatusString(status);
  return cudaErrorUnknown;
}

}  // namespace

// Row-major c is column-major c^T = op(b)^T op(a)^T, and a row-major operand is
// its own transpose in columns: so the operands change places, and
// transposition stays as it is.
cudaError_t Gemm(const KernelContext& ctx, const GemmArgs& args) {
  if (args.m == 0 || args.n == 0 || args.batch == 0) return cudaSuccess;
  if (args.k == 0 && args.scalars == nullptr) {
    const int64_t size = args.bf16_c ? 2 : 4;
    for (int64_t i = 0; i < args.batch; ++i) {
      const cudaError_t error = cudaMemset2DAsync(
          reinterpret_cast<char*>(args.c) + i * args.stride_c * size,
          args.ldc * size, 0, args.n * size, args.m, ctx.stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  const float as_is[2] = {1, 0};
  const float* const scalars = args.scalars != nullptr ? args.scalars : as_is;
  cublasSetPointerMode(ctx.blas, args.scalars != nullptr
                                     ? CUBLAS_POINTER_MODE_DEVICE
                                     : CUBLAS_POINTER_MODE_HOST);
  const cudaDataType_t type = args.bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const cublasComputeType_t compute =
      args.bf16 ? CUBLAS_COMPUTE_32F : ComputeType(ctx.precision);
  return ToError(
      ctx, cublasGemmStridedBatchedEx_64(
               ctx.blas, args.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
               args.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, args.n, args.m,
               args.k, scalars, args.b, type, args.ldb, args.stride_b, args.a,
               type, args.lda, args.stride_a, scalars + 1, args.c,
               args.bf16_c ? CUDA_R_16BF : CUDA_R_32F, args.ldc, args.stride_c,
               args.batch, compute, CUBLAS_GEMM_DEFAULT));
}

}  // namespace strata::gpu
