#include "sim/collective/cached_share.h"

#include <cmath>

#include "gtest/gtest.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

constexpr double kMiB = 1 << 20;

// 30 of its MiB are usable.
NodeConfig Node() {
  NodeConfig node;
  node.mutable_gpu()->set_l2_mib(50);
  return node;
}

TEST(CachedShareTest, IsAllThatFitsAndLessAndLessBeyond) {
  const GpuConfig gpu = Node().gpu();

  EXPECT_EQ(CachedShare(gpu, 0), 1);
  EXPECT_EQ(CachedShare(gpu, 30 * kMiB), 1);
  EXPECT_NEAR(CachedShare(gpu, 31 * kMiB), 0.935, 0.002);
  EXPECT_NEAR(CachedShare(gpu, 45 * kMiB), 0.417, 0.001);
  EXPECT_NEAR(CachedShare(gpu, 60 * kMiB), 0.203, 0.001);
  EXPECT_LT(CachedShare(gpu, 1024 * kMiB), 1e-6);
  // The equation of the header.
  for (const double load : {1.01, 1.2, 3.0}) {
    const double share = CachedShare(gpu, load * 30 * kMiB);
    EXPECT_NEAR(share, std::exp(-(1 - share) * load), 1e-5) << load;
  }
}

TEST(CachedShareTest, IsNoneOfACacheThatIsNotKnown) {
  EXPECT_EQ(CachedShare(GpuConfig(), 1 * kMiB), 0);
}

TEST(ReadingTimeTest, IsThatOfTheCacheAndOfMemoryByTheirShares) {
  NodeConfig node = Node();
  EXPECT_EQ(ReadingTime(node, 1 * kMiB), 1);
  node.mutable_nccl()->set_cached_speedup(2);

  EXPECT_EQ(ReadingTime(node, 1 * kMiB), 0.5);
  EXPECT_NEAR(ReadingTime(node, 60 * kMiB), 1 - 0.203 / 2, 0.001);
  EXPECT_NEAR(ReadingTime(node, 1024 * kMiB), 1, 1e-6);
}

}  // namespace
}  // namespace strata::sim
