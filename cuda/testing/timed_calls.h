// Kernels timed by themselves: the loop of benchmarks whose cases are calls.
//
//   AddTimed("BM_Copy", /*flops=*/0, bytes, [=](Arrays& arrays) -> Call {
//     ... device memory from `arrays` ...
//     return [=](int64_t i) { return cudaMemcpyAsync(...); };
//   });

#ifndef CUDA_TESTING_TIMED_CALLS_H_
#define CUDA_TESTING_TIMED_CALLS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Device memory of one case.
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
  __nv_bfloat16* Normal(int64_t n);
  __nv_bfloat16* Zeros(int64_t n);

 private:
  std::vector<void*> blocks_;
};

std::vector<float> NormalFloats(int64_t n);

// What a case does the i-th time.
using Call = std::function<cudaError_t(int64_t i)>;
using MakeCall = std::function<Call(Arrays&)>;

// Microseconds that others took; 0 where that is not known.
struct Published {
  double h200 = 0, h100 = 0;
};

// Registers a case: 30 times `calls` calls one behind the other, between two
// events; counters are those of cuda/ops/kernel_benchmark.cc.
void AddTimed(const std::string& name, double flops, double bytes,
              const MakeCall& make, const Published& best = {}, int calls = 1);

}  // namespace strata::gpu

#endif  // CUDA_TESTING_TIMED_CALLS_H_
