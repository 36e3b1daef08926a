#include "core/cpu/gemm.h"

#include <cstdint>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/testing/allocation_counter.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(GemmTest, ProductsAtOnceAllocateNothingOnceBuffersAreReserved) {
  constexpr int kThreads = 6;
  constexpr int64_t kSize = 128;  // Not small: small ones take no buffer.
  const std::vector<float> a(kSize * kSize, 1), b(kSize * kSize, 1);
  std::vector<float> c(kThreads * kSize * kSize);
  ThreadPool pool(kThreads);
  ReserveGemmBuffers(kThreads);

  AllocationCounter allocations;
  pool.ParallelFor(2000, [&](int64_t i, int worker) {
    GemmArgs<float> g;
    g.m = g.n = g.k = g.lda = g.ldb = g.ldc = kSize;
    g.a = a.data();
    g.b = b.data();
    g.c = c.data() + worker * kSize * kSize;
    Gemm(g);
  });
  const int64_t count = allocations.count();

  EXPECT_EQ(count, 0) << allocations.first_bytes();
  EXPECT_EQ(c[0], kSize);
}

}  // namespace
}  // namespace strata
