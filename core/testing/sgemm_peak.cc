#include "core/testing/sgemm_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/cpu/gemm.h"

namespace strata {

double SgemmPeak() {
  constexpr int64_t kN = 1024;
  const int num_threads = NumUsableCores();
  ThreadPool pool(num_threads);
  std::vector<std::vector<float>> operand(num_threads);
  for (std::vector<float>& x : operand) x.assign(3 * kN * kN, 0.5f);
  double best_seconds = 1e9;
  for (int repeat = 0; repeat < 15; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(num_threads, [&](int64_t i) {
      GemmArgs<float> g;
      g.m = g.n = g.k = g.lda = g.ldb = g.ldc = kN;
      g.a = operand[i].data();
      g.b = g.a + kN * kN;
      g.c = operand[i].data() + 2 * kN * kN;
      Gemm(g);
    });
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, seconds.count());
  }
  return num_threads * 2.0 * kN * kN * kN / best_seconds;
}

}  // namespace strata
