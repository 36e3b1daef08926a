#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective.h"
#include "sim/collective/collective_example.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"
#include "sim/network/flow_network.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

std::vector<double> RandomMatrix(int n, uint64_t seed) {
  Random random(seed, /*stream=*/0);
  std::vector<double> matrix(n * n);
  for (double& bytes : matrix) bytes = 1e6 * random.Uniform();
  return matrix;
}

TEST(AllToAllVTest, EqualsAllToAllWhereAllPairsAreAlike) {
  const Cluster cluster = *LoadCluster("h100x32");
  const CollectiveModel model(cluster);
  CollectiveRequest request = Request(CollectiveKind::kAllToAll, 32e6,
                                      {0, 1, 32}, CollectiveAlgorithm::kAuto);
  const double even = CostUs(model, request);
  const std::vector<double> matrix(32 * 32, 1e6);
  request.kind = CollectiveKind::kAllToAllV;
  request.bytes_matrix = matrix;

  EXPECT_NEAR(CostUs(model, request), even, 1e-6 * even);
}

TEST(AllToAllVTest, TheBusiestReceiverIsTheBottleneck) {
  const Cluster cluster = *Cluster::Create(Ideal("h100x16"));
  const CollectiveModel model(cluster);
  std::vector<double> matrix(16 * 16, 0);
  // Rank 9 gets 15 MB: 7 over NVLink, 8 by its rail.
  for (int i = 0; i < 16; ++i) matrix[i * 16 + 9] = 1e6;
  CollectiveRequest request;
  request.kind = CollectiveKind::kAllToAllV;
  request.group = {0, 1, 16};
  request.bytes_matrix = matrix;

  const absl::StatusOr<CollectiveCost> cost = model.Cost(request);

  ASSERT_THAT(cost, IsOk());
  EXPECT_NEAR(ToMicroseconds(cost->time), 8e6 / 50e3, 1e-3);
  EXPECT_THAT(cost->bottleneck, HasSubstr("NIC 1 of node"));
}

class Sink : public EventHandler {
 public:
  void OnEvent(Picoseconds now, uint64_t tag) override { last = now; }

  Picoseconds last = 0;
};

// The time until all flows, started at once and sharing links fairly, are done.
double MaxMinUs(const Cluster& cluster, const std::vector<double>& matrix) {
  const Topology topology(cluster);
  EventQueue queue;
  FlowNetwork network(topology, queue);
  Sink sink;
  const int n = cluster.num_ranks();
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      if (i != j) network.StartFlow(i, j, matrix[i * n + j], &sink, 0);
    }
  }
  queue.Run();
  return ToMicroseconds(sink.last);
}

// The bottleneck's time is a lower bound of every schedule, and is what flows
// whose rates are as their sizes take. Fair sharing wastes some of the
// bottleneck towards the end, the less the more flows there are.
TEST(AllToAllVTest, FairSharingTakesLittleLongerThanTheBottleneck) {
  for (const auto& [preset, most] :
       {std::pair("h100x8", 1.15), std::pair("h100x16", 1.1),
        std::pair("h100x32", 1.1)}) {
    ClusterConfig config = Ideal(preset);
    config.mutable_kind(0)->mutable_scale_up()->set_latency_us(0);
    config.mutable_kind(0)->mutable_nic()->set_latency_us(0);
    config.mutable_fabric()->set_switch_latency_us(0);
    const Cluster cluster = *Cluster::Create(config);
    const CollectiveModel model(cluster);
    const int n = cluster.num_ranks();
    for (uint64_t seed = 0; seed < 3; ++seed) {
      SCOPED_TRACE(absl::StrCat(preset, " seed ", seed));
      const std::vector<double> matrix = RandomMatrix(n, seed);
      CollectiveRequest request;
      request.kind = CollectiveKind::kAllToAllV;
      request.group = {0, 1, n};
      request.bytes_matrix = matrix;

      const double bound = CostUs(model, request);
      const double fair = MaxMinUs(cluster, matrix);

      EXPECT_GE(fair, bound * (1 - 1e-9));
      EXPECT_LE(fair, bound * most);
    }
  }
}

// Where all ranks do the same, fair sharing is the bottleneck's time.
TEST(AllToAllVTest, FairSharingOfEvenBytesIsTheBottleneck) {
  ClusterConfig config = Ideal("h100x16");
  config.mutable_kind(0)->mutable_scale_up()->set_latency_us(0);
  config.mutable_kind(0)->mutable_nic()->set_latency_us(0);
  config.mutable_fabric()->set_switch_latency_us(0);
  const Cluster cluster = *Cluster::Create(config);
  const std::vector<double> matrix(16 * 16, 1e6);
  const CollectiveModel model(cluster);

  const double bound =
      CostUs(model, Request(CollectiveKind::kAllToAll, 16e6, {0, 1, 16},
                            CollectiveAlgorithm::kDirect));

  // Ends are rounded up to a picosecond.
  EXPECT_NEAR(MaxMinUs(cluster, matrix), bound, 1e-5);
}

}  // namespace
}  // namespace strata::sim
