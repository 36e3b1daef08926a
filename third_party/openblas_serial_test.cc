// Two threads at once got each other's work buffers; see openblas_locks.cc.

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "cblas.h"
#include "gtest/gtest.h"

extern "C" char* openblas_get_corename();

namespace strata {
namespace {

// On a processor too new for it, OpenBLAS fell back to kernels of 2004; see
// openblas_core.cc.
TEST(OpenBlasTest, UsesVectorsOfTheProcessorThatItRunsOn) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no AVX2";

  EXPECT_STRNE(openblas_get_corename(), "Prescott");
  if (__builtin_cpu_supports("avx512bw")) {
    EXPECT_STRNE(openblas_get_corename(), "Haswell");
  }
}

TEST(OpenBlasTest, ThreadsAtOnceGetTheProductsThatOneThreadGets) {
  constexpr int kM = 32, kN = 50, kK = 24;
  constexpr int kInputs = 16, kRounds = 40000;
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> a(kInputs * kM * kK), b(kN * kK);
  for (float& x : a) x = normal(rng);
  for (float& x : b) x = normal(rng);
  const auto product = [&](int input) {
    std::vector<float> c(kM * kN);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kM, kN, kK, 1,
                &a[input * kM * kK], kK, b.data(), kK, 0, c.data(), kN);
    return c;
  };
  std::vector<std::vector<float>> want;
  for (int i = 0; i < kInputs; ++i) want.push_back(product(i));

  std::atomic<int> num_wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < kRounds; ++round) {
        const int input = (round * (2 * t + 1) + t) % kInputs;
        if (product(input) != want[input]) ++num_wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(num_wrong, 0);
}

}  // namespace
}  // namespace strata
