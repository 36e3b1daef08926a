// Benchmarks that a program of one or several sets runs.

#ifndef CUDA_TESTING_BENCHMARK_SET_H_
#define CUDA_TESTING_BENCHMARK_SET_H_

#include <vector>

namespace strata::gpu {

// A constant of a benchmark's source file: benchmark_main calls `add`, which
// registers the file's benchmarks, once options are read.
class BenchmarkSet {
 public:
  using Add = void (*)();

  explicit BenchmarkSet(Add add) { All().push_back(add); }

  // In no particular order.
  static std::vector<Add>& All() {
    static auto* all = new std::vector<Add>;
    return *all;
  }
};

}  // namespace strata::gpu

#endif  // CUDA_TESTING_BENCHMARK_SET_H_
