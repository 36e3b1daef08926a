#include "sim/network/topology.h"

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> RouteNames(const Topology& topology, int from,
                                    int to) {
  Route route;
  topology.FindRoute(from, to, route);
  std::vector<std::string> names;
  for (const LinkId id : route) names.push_back(topology.LinkName(id));
  return names;
}

// A cluster of 8 ranks with these dimensions.
Cluster WithDimensions(const std::string& dimensions) {
  ClusterConfig config = *ClusterPreset("h100");
  EXPECT_TRUE(
      google::protobuf::TextFormat::MergeFromString(dimensions, &config));
  absl::StatusOr<Cluster> cluster = Cluster::Create(config);
  EXPECT_THAT(cluster, IsOk());
  return *cluster;
}

TEST(TopologyTest, CrossesNvlinkWithinANode) {
  const Cluster cluster = *LoadCluster("h100x16");
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 1, 6),
              ElementsAre("NVLink of rank 1, out", "NVLink of rank 6, in"));
  EXPECT_THAT(RouteNames(topology, 3, 3), IsEmpty());
  EXPECT_EQ(topology.link(topology.NvlinkOut(1)).bytes_per_second, 450e9);
}

TEST(TopologyTest, StaysOnTheReceiversRailBetweenNodes) {
  const Cluster cluster = *LoadCluster("h100x16");
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 2, 10),
              ElementsAre("NIC 2 of node 0, out", "NIC 2 of node 1, in"));
  EXPECT_THAT(RouteNames(topology, 2, 13),
              ElementsAre("NVLink of rank 2, out", "NVLink of rank 5, in",
                          "NIC 5 of node 0, out", "NIC 5 of node 1, in"));
}

TEST(TopologyTest, PassesTheSpineBetweenLeaves) {
  // 33 nodes: the last one is under leaves of its own.
  const Cluster cluster = *LoadCluster("h100x264");
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 0, 31 * 8), SizeIs(2));
  EXPECT_THAT(RouteNames(topology, 3, 32 * 8 + 3),
              ElementsAre("NIC 3 of node 0, out", "leaf 3, up", "leaf 11, down",
                          "NIC 3 of node 32, in"));
  // As much bandwidth up as down: 32 NICs and 1.
  EXPECT_EQ(topology.link(topology.LeafUp(3)).bytes_per_second, 32 * 50e9);
  EXPECT_EQ(topology.link(topology.LeafDown(11)).bytes_per_second, 50e9);
  Route route;
  topology.FindRoute(3, 32 * 8 + 3, route);
  // Two NICs of 2 us, three switches of 0.3 us.
  EXPECT_EQ(topology.RouteLatency(route), FromMicroseconds(4.9));
}

TEST(TopologyTest, TakesItsOwnNicWhereNoGpuIsOnTheReceiversRail) {
  ClusterConfig config = *ClusterPreset("h100x16");
  config.mutable_nodes(0)->set_gpus(4);
  const Cluster cluster = *Cluster::Create(config);
  const Topology topology(cluster);
  ASSERT_EQ(cluster.num_ranks(), 8);
  // All on their own rails here.
  EXPECT_THAT(RouteNames(topology, 1, 6), SizeIs(4));

  // A node of 4 GPUs and one of 8: rail 7 has no GPU in the former.
  config.mutable_nodes(0)->set_count(1);
  *config.add_nodes() = config.nodes(0);
  config.mutable_nodes(1)->set_gpus(8);
  const Cluster mixed = *Cluster::Create(config);
  EXPECT_THAT(RouteNames(Topology(mixed), 1, 4 + 7),
              ElementsAre("NIC 1 of node 0, out", "leaf 1, up", "leaf 7, down",
                          "NIC 7 of node 1, in"));
}

TEST(TopologyTest, FatTreeNeedsNoRail) {
  ClusterConfig config = *ClusterPreset("h100x24");
  config.mutable_fabric()->set_kind(FabricConfig::FAT_TREE);
  config.mutable_fabric()->set_nodes_per_leaf(2);
  config.mutable_fabric()->set_oversubscription(4);
  const Cluster cluster = *Cluster::Create(config);
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 2, 13),
              ElementsAre("NIC 2 of node 0, out", "NIC 5 of node 1, in"));
  EXPECT_THAT(RouteNames(topology, 2, 16),
              ElementsAre("NIC 2 of node 0, out", "leaf 0, up", "leaf 1, down",
                          "NIC 0 of node 2, in"));
  // 16 NICs over 4.
  EXPECT_EQ(topology.link(topology.LeafUp(0)).bytes_per_second, 4 * 50e9);
}

TEST(TopologyTest, SlowsWhatBelongsToASlowRankOrNic) {
  ClusterConfig config = *ClusterPreset("h100x16");
  config.add_slowdown()->set_rank(9);
  config.mutable_slowdown(0)->set_factor(2);
  const Cluster cluster = *Cluster::Create(config);
  Topology topology(cluster);
  topology.SlowNic(0, 3, 10);

  EXPECT_EQ(topology.link(topology.NvlinkIn(9)).bytes_per_second, 225e9);
  EXPECT_EQ(topology.link(topology.NicOut(1, 1)).bytes_per_second, 25e9);
  EXPECT_EQ(topology.link(topology.NicIn(1, 1)).bytes_per_second, 25e9);
  EXPECT_EQ(topology.link(topology.NicOut(1, 0)).bytes_per_second, 50e9);
  EXPECT_EQ(topology.link(topology.NicOut(0, 3)).bytes_per_second, 5e9);
}

TEST(TopologyTest, WalksDimensionsInOrder) {
  // Rank = x + 4 y.
  const Cluster cluster = WithDimensions(
      "dimension { kind: RING size: 4 gb_per_s: 100 latency_us: 1 }"
      "dimension { kind: SWITCH size: 2 gb_per_s: 10 latency_us: 5 }");
  const Topology topology(cluster);

  // One step down the ring from 0 to 3, then to the other half.
  EXPECT_THAT(
      RouteNames(topology, 0, 7),
      ElementsAre("dimension 0, rank 0, link 1", "dimension 1, rank 3, link 0",
                  "dimension 1, rank 7, link 1"));
  // Half way round both ways are as long: up.
  EXPECT_THAT(RouteNames(topology, 5, 7),
              ElementsAre("dimension 0, rank 5, link 0",
                          "dimension 0, rank 6, link 0"));
  Route route;
  topology.FindRoute(0, 7, route);
  EXPECT_EQ(topology.RouteLatency(route), FromMicroseconds(6));
}

TEST(TopologyTest, AMeshDoesNotWrap) {
  const Cluster cluster =
      WithDimensions("dimension { kind: MESH size: 8 gb_per_s: 1 }");
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 0, 7), SizeIs(7));
  EXPECT_THAT(RouteNames(topology, 2, 1),
              ElementsAre("dimension 0, rank 2, link 1"));
}

TEST(TopologyTest, FullyConnectedHasALinkForEachPair) {
  const Cluster cluster =
      WithDimensions("dimension { kind: FULLY_CONNECTED size: 8 gb_per_s: 1 }");
  const Topology topology(cluster);

  EXPECT_THAT(RouteNames(topology, 2, 7),
              ElementsAre("dimension 0, rank 2, link 7"));
}

}  // namespace
}  // namespace strata::sim
