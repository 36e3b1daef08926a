// What NCCL's choices within a node do to a collective's time.

#include <cmath>
#include <vector>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/collective.h"
#include "sim/collective/collective_example.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

constexpr double kKiB = 1 << 10;
constexpr double kMiB = 1 << 20;
constexpr double kPort = 450e3;  // Bytes a microsecond.

NcclConstants& Nccl(ClusterConfig& config) {
  return *config.mutable_kind(0)->mutable_nccl();
}

CollectiveCost Cost(const ClusterConfig& config, CollectiveKind kind,
                    double bytes) {
  const Cluster cluster = *Cluster::Create(config);
  const auto cost = CollectiveModel(cluster).Cost(Request(
      kind, bytes, {0, 1, cluster.num_ranks()}, CollectiveAlgorithm::kAuto));
  EXPECT_THAT(cost, IsOk());
  return cost.value_or(CollectiveCost());
}

// Each rank's message to the next.
double RingOfMessagesUs(const ClusterConfig& config, double bytes) {
  const Cluster cluster = *Cluster::Create(config);
  const int n = cluster.num_ranks();
  std::vector<double> matrix(n * n, 0);
  for (int i = 0; i < n; ++i) matrix[i * n + (i + 1) % n] = bytes;
  CollectiveRequest request;
  request.kind = CollectiveKind::kAllToAllV;
  request.group = {0, 1, n};
  request.bytes_matrix = matrix;
  return CostUs(CollectiveModel(cluster), request);
}

TEST(NcclCostTest, ARingTakesTheProtocolThatNcclTakesNotTheBest) {
  ClusterConfig config = Ideal("h100x4");
  Nccl(config).set_launch_us(5);
  Nccl(config).mutable_ll()->set_step_us(1);
  Nccl(config).mutable_ll128()->set_step_us(2);
  Nccl(config).mutable_ll128()->set_base_us(100);
  Nccl(config).mutable_simple()->set_step_us(3);
  Nccl(config).mutable_simple()->set_base_us(1000);
  const auto latency = [&](double bytes) {
    return ToMicroseconds(
        Cost(config, CollectiveKind::kAllReduce, bytes).latency_time);
  };

  EXPECT_NEAR(latency(1 * kMiB), 5 + 6, 1e-6);
  EXPECT_NEAR(latency(4 * kMiB), 5 + 100 + 12, 1e-6);
  EXPECT_NEAR(latency(16 * kMiB), 5 + 1000 + 18, 1e-6);
  // A node of which NCCL's view is not known has the best one.
  config.mutable_kind(0)->clear_tuner();
  EXPECT_NEAR(latency(16 * kMiB), 5 + 6, 1e-6);
}

// 512 threads with 8 bytes each are 4 KiB of each of four ranks' parts.
TEST(NcclCostTest, ABlockOfFewerThreadsStartsSooner) {
  ClusterConfig config = Ideal("h100x4");
  Nccl(config).mutable_ll()->set_threads_us(2);
  const auto latency = [&](double bytes) {
    return ToMicroseconds(
        Cost(config, CollectiveKind::kAllGather, bytes).latency_time);
  };

  EXPECT_NEAR(latency(4 * kKiB), 0.5, 1e-6);
  EXPECT_NEAR(latency(16 * kKiB), 2, 1e-6);
  EXPECT_NEAR(latency(64 * kKiB), 2, 1e-6);
}

// A message of two ranks has 16 channels, one of four has 8, until a channel
// would have more than 16 MiB.
TEST(NcclCostTest, AMessageIsAsFastAsItsChannels) {
  ClusterConfig two = Ideal("h100x2");
  ClusterConfig four = Ideal("h100x4");
  for (ClusterConfig* config : {&two, &four}) {
    Nccl(*config).mutable_point_to_point()->set_channel_gb_per_s(5);
    // Flagged words are slower than chunks here.
    Nccl(*config).mutable_point_to_point()->set_ll_gb_per_s(0.1);
  }
  // Channels and the port are each in the other's way at times.
  const auto time_us = [](double bytes, int channels) {
    const double by_channels = bytes / channels / 5e3;
    return std::pow(std::pow(by_channels, 4) + std::pow(bytes / kPort, 4),
                    0.25);
  };

  EXPECT_NEAR(RingOfMessagesUs(two, 64 * kMiB), time_us(64 * kMiB, 16), 1e-3);
  EXPECT_NEAR(RingOfMessagesUs(four, 64 * kMiB), time_us(64 * kMiB, 8), 1e-3);
  EXPECT_NEAR(RingOfMessagesUs(two, 1024 * kMiB), time_us(1024 * kMiB, 32),
              1e-2);
  EXPECT_EQ(RingOfMessagesUs(four, 1024 * kMiB),
            RingOfMessagesUs(two, 1024 * kMiB));
}

TEST(NcclCostTest, TheLastChunkIsCopiedWhenAllAreThere) {
  ClusterConfig config = Ideal("h100x2");
  Nccl(config).mutable_point_to_point()->set_ll_gb_per_s(0.001);
  const double small = RingOfMessagesUs(config, 1 * kMiB);
  const double large = RingOfMessagesUs(config, 64 * kMiB);
  Nccl(config).set_channel_copy_gb_per_s(32);

  // 64 KiB of each of 16 channels; of 4 MiB of each the last chunk.
  EXPECT_NEAR(RingOfMessagesUs(config, 1 * kMiB) - small, 64 * kKiB / 32e3,
              1e-5);
  EXPECT_NEAR(RingOfMessagesUs(config, 64 * kMiB) - large, 512 * kKiB / 32e3,
              1e-5);
}

TEST(NcclCostTest, ARingsLastSliceIsCopiedToo) {
  ClusterConfig config = Ideal("h100x4");
  const auto time_us = [&](double bytes) {
    return ToMicroseconds(Cost(config, CollectiveKind::kAllGather, bytes).time);
  };
  const double middle = time_us(96 * kMiB);
  const double large = time_us(1024 * kMiB);
  const double small = time_us(1 * kMiB);
  Nccl(config).set_channel_copy_gb_per_s(32);

  // A rank's part is 1 MiB for each of 24 channels, in two slices.
  EXPECT_NEAR(time_us(96 * kMiB) - middle, 512 * kKiB / 32e3, 1e-5);
  EXPECT_NEAR(time_us(1024 * kMiB) - large, 1024 * kKiB / 32e3, 1e-5);
  EXPECT_EQ(time_us(1 * kMiB), small);  // LL has no slices.
}

}  // namespace
}  // namespace strata::sim
