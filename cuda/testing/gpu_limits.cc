#include "cuda/testing/gpu_limits.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/bfloat16.h"
#include "cublas_v2.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Seconds of what `enqueue` puts on the default stream; the best of some runs,
// of which the first two warm up.
double BestSeconds(const std::function<void()>& enqueue) {
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  float best = 1e9;
  for (int i = 0; i < 10; ++i) {
    cudaEventRecord(start);
    enqueue();
    cudaEventRecord(stop);
    cudaEventSynchronize(stop);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start, stop);
    if (i > 1) best = std::min(best, milliseconds);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return best * 1e-3;
}

}  // namespace

double CopyBandwidth() {
  static const double measured = [] {
    constexpr size_t kBytes = size_t{1} << 30;
    void *from = nullptr, *to = nullptr;
    CHECK(cudaMalloc(&from, kBytes) == cudaSuccess);
    CHECK(cudaMalloc(&to, kBytes) == cudaSuccess);
    const double seconds = BestSeconds(
        [&] { cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice); });
    cudaFree(from);
    cudaFree(to);
    return 2.0 * kBytes / seconds;
  }();
  return measured;
}

double BlasBf16Peak() {
  static const double measured = [] {
    constexpr int64_t n = 8192;
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<BFloat16> numbers(n * n);
    for (BFloat16& x : numbers) x = RoundToBFloat16(normal(rng));
    void *a = nullptr, *b = nullptr, *c = nullptr;
    const size_t bytes = numbers.size() * sizeof(BFloat16);
    CHECK(cudaMalloc(&a, bytes) == cudaSuccess);
    CHECK(cudaMalloc(&b, bytes) == cudaSuccess);
    CHECK(cudaMalloc(&c, 2 * bytes) == cudaSuccess);
    cudaMemcpy(a, numbers.data(), bytes, cudaMemcpyHostToDevice);
    cudaMemcpy(b, numbers.data(), bytes, cudaMemcpyHostToDevice);
    cublasHandle_t blas;
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
    const float one = 1, zero = 0;
    const double seconds = BestSeconds([&] {
      const cublasStatus_t status =
          cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, b,
                       CUDA_R_16BF, n, a, CUDA_R_16BF, n, &zero, c, CUDA_R_32F,
                       n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
      CHECK(status == CUBLAS_STATUS_SUCCESS) << cublasGetStatusString(status);
    });
    cublasDestroy(blas);
    for (void* const p : {a, b, c}) cudaFree(p);
    return 2.0 * n * n * n / seconds;
  }();
  return measured;
}

}  // namespace strata::gpu
