#include "sim/network/flow_network.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// A switch of 8 ports, 1 GB/s each, 1 us away.
Cluster Switch() {
  ClusterConfig config = *ClusterPreset("h100");
  DimensionConfig* dimension = config.add_dimension();
  dimension->set_kind(DimensionConfig::SWITCH);
  dimension->set_size(8);
  dimension->set_gb_per_s(1);
  dimension->set_latency_us(1);
  return *Cluster::Create(config);
}

class Recorder : public EventHandler {
 public:
  void OnEvent(Picoseconds now, uint64_t tag) override {
    ended.emplace_back(tag, ToMicroseconds(now));
  }

  std::vector<std::pair<uint64_t, double>> ended;  // Tag, microseconds.
};

struct TestNetwork {
  explicit TestNetwork(const Cluster& cluster)
      : topology(cluster), network(topology, queue) {}

  Topology topology;
  EventQueue queue;
  FlowNetwork network;
  Recorder recorder;
};

TEST(FlowNetworkTest, AFlowAloneTakesLatencyAndBytesOverBandwidth) {
  const Cluster cluster = Switch();
  TestNetwork test(cluster);

  // 5000 bytes at 1 GB/s: 5 us, and 1 us of latency.
  test.network.StartFlow(0, 1, 5000, &test.recorder, 7);
  test.network.StartFlow(2, 3, 0, &test.recorder, 8);
  test.network.StartFlow(4, 4, 1e9, &test.recorder, 9);
  test.queue.Run();

  EXPECT_THAT(test.recorder.ended,
              ElementsAre(Pair(9, 0.0), Pair(8, 1.0), Pair(7, 6.0)));
  EXPECT_EQ(test.network.num_active(), 0);
}

TEST(FlowNetworkTest, SharesALinkUntilOneEnds) {
  const Cluster cluster = Switch();
  TestNetwork test(cluster);

  // Into rank 2 at half a GB/s each until 2000 bytes are through after 4 us;
  // the other's second 2000 then take 2 us.
  test.network.StartFlow(0, 2, 4000, &test.recorder, 0);
  test.network.StartFlow(1, 2, 2000, &test.recorder, 1);
  test.queue.Run();

  EXPECT_THAT(test.recorder.ended, ElementsAre(Pair(1, 5.0), Pair(0, 7.0)));
}

TEST(FlowNetworkTest, AFlowThatJoinsSlowsTheOthers) {
  const Cluster cluster = Switch();
  TestNetwork test(cluster);

  test.network.StartFlow(0, 2, 4000, &test.recorder, 0);
  // At 3 us 2000 bytes of the first are through; the second joins.
  test.queue.RunUntil(FromMicroseconds(2));
  test.network.StartFlow(0, 2, 1000, &test.recorder, 1);
  test.queue.Run();

  EXPECT_THAT(test.recorder.ended, ElementsAre(Pair(1, 5.0), Pair(0, 6.0)));
}

TEST(FlowNetworkTest, FlowsThatShareNoLinkDoNotTouch) {
  const Cluster cluster = Switch();
  TestNetwork test(cluster);

  test.network.StartFlow(0, 1, 1000, &test.recorder, 0);
  test.network.StartFlow(1, 0, 1000, &test.recorder, 1);
  test.network.StartFlow(2, 3, 1000, &test.recorder, 2);
  test.queue.Run();

  EXPECT_THAT(test.recorder.ended,
              ElementsAre(Pair(0, 2.0), Pair(1, 2.0), Pair(2, 2.0)));
}

TEST(FlowNetworkTest, AProtocolUsesAShareOfALink) {
  const Cluster cluster = Switch();
  TestNetwork test(cluster);
  test.network.SetEfficiency(LinkKind::kDimension, 0.5);

  test.network.StartFlow(0, 1, 5000, &test.recorder, 0);
  test.queue.Run();

  EXPECT_THAT(test.recorder.ended, ElementsAre(Pair(0, 11.0)));
}

// Flows at random times between random GPUs of three nodes, with NVLink, NICs
// and an oversubscribed spine.
class RandomFlows : public EventHandler {
 public:
  RandomFlows(uint64_t seed, const Cluster& cluster, bool is_sparse)
      : topology_(cluster),
        network_(topology_, queue_),
        random_(seed, /*stream=*/0),
        through_(topology_.num_links(), 0),
        is_sparse_(is_sparse) {}

  void OnEvent(Picoseconds now, uint64_t tag) override {
    EXPECT_GE(now, last_);
    last_ = now;
    if (tag == kStart) {
      Start();
      return;
    }
    ended_at_[tag] = now;
    for (LinkId id = 0; id < topology_.num_links(); ++id) {
      // Sums of at most 200 rates: 1e-12 covers their roundings.
      EXPECT_LE(network_.RateOf(id), network_.Capacity(id) * (1 + 1e-12));
    }
  }

  std::vector<Picoseconds> Run() {
    for (int i = 0; i < kNumFlows; ++i) {
      queue_.Schedule(FromMicroseconds(is_sparse_ ? 1e6 * i : i / 20), this,
                      kStart);
    }
    queue_.Run();
    return ended_at_;
  }

  const Topology& topology() const { return topology_; }
  const FlowNetwork& network() const { return network_; }
  double through(LinkId id) const { return through_[id]; }

 private:
  static constexpr int kNumFlows = 200;
  static constexpr uint64_t kStart = 1 << 20;

  void Start() {
    const int ranks = topology_.cluster().num_ranks();
    const int from = random_.UniformInt(ranks);
    const int to = random_.UniformInt(ranks);
    const double bytes = 1e6 * random_.Uniform();
    Route route;
    topology_.FindRoute(from, to, route);
    for (const LinkId id : route) through_[id] += bytes;
    const uint64_t tag = ended_at_.size();
    ended_at_.push_back(-1);
    network_.StartFlow(from, to, bytes, this, tag);
  }

  Topology topology_;
  EventQueue queue_;
  FlowNetwork network_;
  Random random_;
  std::vector<double> through_;  // [links] Bytes of the flows' routes.
  std::vector<Picoseconds> ended_at_;
  Picoseconds last_ = 0;
  bool is_sparse_;
};

Cluster Nodes(double bandwidth) {
  ClusterConfig config = *ClusterPreset("h100x24");
  config.mutable_kind(0)->mutable_nic()->set_gb_per_s(50 * bandwidth);
  config.mutable_kind(0)->mutable_scale_up()->set_gb_per_s(450 * bandwidth);
  config.mutable_fabric()->set_nodes_per_leaf(2);
  config.mutable_fabric()->set_oversubscription(4);
  return *Cluster::Create(config);
}

TEST(FlowNetworkTest, ConservesBytesAndKeepsToCapacity) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Cluster cluster = Nodes(1);
    RandomFlows flows(seed, cluster, /*is_sparse=*/false);

    const std::vector<Picoseconds> ended = flows.Run();

    EXPECT_EQ(std::count(ended.begin(), ended.end(), -1), 0);
    EXPECT_EQ(flows.network().num_active(), 0);
    for (LinkId id = 0; id < flows.topology().num_links(); ++id) {
      // An end is rounded up to a picosecond, in which a link of 450 GB/s
      // carries half a byte: 200 flows, 100 bytes.
      EXPECT_NEAR(flows.network().BytesCarried(id), flows.through(id), 100);
    }
  }
}

TEST(FlowNetworkTest, RepeatsItself) {
  const Cluster cluster = Nodes(1);

  EXPECT_EQ(RandomFlows(3, cluster, false).Run(),
            RandomFlows(3, cluster, false).Run());
}

// With contention more bandwidth can slow a flow (another one then ends
// sooner elsewhere and competes); without, never.
TEST(FlowNetworkTest, MoreBandwidthNeverSlowsFlowsWithoutContention) {
  const Cluster slow = Nodes(1);
  const Cluster swift = Nodes(1.3);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto before = RandomFlows(seed, slow, /*is_sparse=*/true).Run();
    const auto after = RandomFlows(seed, swift, /*is_sparse=*/true).Run();
    ASSERT_EQ(before.size(), after.size());
    for (size_t i = 0; i < before.size(); ++i) EXPECT_LE(after[i], before[i]);
  }
}

}  // namespace
}  // namespace strata::sim
