// Device memory that a case of a benchmark works on.

#ifndef CUDA_TESTING_BENCHMARK_ARRAYS_H_
#define CUDA_TESTING_BENCHMARK_ARRAYS_H_

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/bfloat16.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// What it makes is there as long as it is.
class Arrays {
 public:
  Arrays() = default;
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  ~Arrays() {
    for (void* const p : blocks_) cudaFree(p);
  }
  template <typename T>
  T* Make(int64_t n) {
    void* p = nullptr;
    CHECK(cudaMalloc(&p, n * sizeof(T)) == cudaSuccess) << n * sizeof(T);
    blocks_.push_back(p);
    return static_cast<T*>(p);
  }
  template <typename T>
  T* Copy(const std::vector<T>& host) {
    T* const p = Make<T>(host.size());
    cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return p;
  }
  // Normal numbers, a million and some of them over and over.
  __nv_bfloat16* Normal(int64_t n) {
    static const std::vector<BFloat16> numbers = [] {
      std::mt19937 rng(1);
      std::normal_distribution<float> normal;
      std::vector<BFloat16> made((1 << 20) + 7);
      for (BFloat16& x : made) x = RoundToBFloat16(normal(rng));
      return made;
    }();
    auto* const p = Make<BFloat16>(n);
    for (int64_t i = 0; i < n; i += numbers.size()) {
      const int64_t count = std::min<int64_t>(n - i, numbers.size());
      cudaMemcpy(p + i, numbers.data(), count * sizeof(BFloat16),
                 cudaMemcpyHostToDevice);
    }
    return reinterpret_cast<__nv_bfloat16*>(p);
  }

 private:
  std::vector<void*> blocks_;
};

}  // namespace strata::gpu

#endif  // CUDA_TESTING_BENCHMARK_ARRAYS_H_
