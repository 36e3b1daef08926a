#include "sim/collective/collective.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective_example.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

const CollectiveKind kReduceAndGather[] = {CollectiveKind::kAllReduce,
                                           CollectiveKind::kAllGather,
                                           CollectiveKind::kReduceScatter};

// Closed forms of bytes over bandwidth, S = 72 MB: 450 GB/s of NVLink, 50 GB/s
// of each of 8 NICs. The copy costs S/n over 1e18 B/s: below a picosecond.
TEST(CollectiveTest, BytesOverBandwidthAreTheClosedForms) {
  const Cluster cluster = *Cluster::Create(Ideal("h100x32"));
  const CollectiveModel model(cluster);
  constexpr double kBytes = 72e6;
  const auto cost = [&](CollectiveKind kind, RankGroup group,
                        CollectiveAlgorithm algorithm) {
    return CostUs(model, Request(kind, kBytes, group, algorithm));
  };
  const RankGroup node = {0, 1, 8};
  const RankGroup all = {0, 1, 32};
  const RankGroup rail = {3, 8, 4};
  using Kind = CollectiveKind;
  using Algorithm = CollectiveAlgorithm;

  // Ring in a node: (n - 1) / n S over NVLink, twice for all-reduce.
  EXPECT_NEAR(cost(Kind::kAllGather, node, Algorithm::kRing), 140, 1e-3);
  EXPECT_NEAR(cost(Kind::kReduceScatter, node, Algorithm::kRing), 140, 1e-3);
  EXPECT_NEAR(cost(Kind::kAllReduce, node, Algorithm::kRing), 280, 1e-3);
  // Over 4 nodes an eighth of 31/32 S passes each NIC: 8.72 MB at 50 GB/s.
  EXPECT_NEAR(cost(Kind::kAllGather, all, Algorithm::kRing), 174.375, 1e-3);
  // One GPU a node has one NIC: 3/4 S.
  EXPECT_NEAR(cost(Kind::kAllGather, rail, Algorithm::kRing), 1080, 1e-3);
  // All-to-all in a node: 7/8 S; between nodes 24/32 S by each GPU's NIC.
  EXPECT_NEAR(cost(Kind::kAllToAll, node, Algorithm::kDirect), 140, 1e-3);
  EXPECT_NEAR(cost(Kind::kAllToAll, all, Algorithm::kDirect), 1080, 1e-3);
  // Exchanges: S/2, S/4, S/8 over NVLink, S/16 and S/32 over NICs.
  EXPECT_NEAR(cost(Kind::kReduceScatter, all, Algorithm::kHalvingDoubling),
              80 + 40 + 20 + 90 + 45, 1e-3);
  // 7/8 S over NVLink, then 3/4 of S/8 over each NIC.
  EXPECT_NEAR(cost(Kind::kAllGather, all, Algorithm::kHierarchical), 140 + 135,
              1e-3);
  EXPECT_NEAR(cost(Kind::kAllReduce, all, Algorithm::kHierarchical), 550, 1e-3);
  // 7/8 S within, then 3/4 S between.
  EXPECT_NEAR(cost(Kind::kAllToAll, all, Algorithm::kHierarchical), 140 + 1080,
              1e-3);
  // Of 4 nodes the busiest has 2 children in one tree, and a parent in each:
  // four edges (or its parent in one tree is missing: three), each S / 16 a
  // NIC.
  EXPECT_NEAR(cost(Kind::kAllReduce, all, Algorithm::kTree), 4 * 90, 1e-3);
  EXPECT_NEAR(cost(Kind::kAllReduce, node, Algorithm::kInSwitch), 160, 1e-3);
  EXPECT_NEAR(cost(Kind::kBroadcast, node, Algorithm::kRing), 160, 1e-3);
  EXPECT_NEAR(cost(Kind::kBroadcast, all, Algorithm::kRing), 180, 1e-3);
  EXPECT_NEAR(cost(Kind::kSendRecv, {0, 1, 2}, Algorithm::kDirect), 160, 1e-3);
  EXPECT_NEAR(cost(Kind::kSendRecv, {0, 8, 2}, Algorithm::kDirect), 1440, 1e-3);
}

TEST(CollectiveTest, OversubscriptionSlowsWhatCrossesTheSpine) {
  ClusterConfig config = Ideal("h100x64");
  config.mutable_fabric()->set_nodes_per_leaf(4);
  config.mutable_fabric()->set_oversubscription(8);
  const Cluster cluster = *Cluster::Create(config);
  const CollectiveModel model(cluster);

  CollectiveRequest request = Request(CollectiveKind::kAllToAll, 64e6,
                                      {0, 1, 64}, CollectiveAlgorithm::kDirect);
  const absl::StatusOr<CollectiveCost> cost = model.Cost(request);

  // Each rail's leaf sends 4 GPUs' halves of their 64 MB up: 128 MB over
  // 4 x 50 / 8 GB/s.
  ASSERT_THAT(cost, IsOk());
  EXPECT_NEAR(ToMicroseconds(cost->time), 5120, 1e-3);
  EXPECT_THAT(cost->bottleneck, HasSubstr("leaf"));
  // 8 x 7 MB to each other GPU of its node, its own and for the others' rails:
  // 7 MB within and 7/8 of 56 MB forwarded.
  EXPECT_NEAR(cost->intra_node_bytes_per_rank, 7e6 + 49e6, 1);
  EXPECT_NEAR(cost->inter_node_bytes_per_rank, 56e6, 1);
}

TEST(CollectiveTest, AddsTheProtocolsLatencies) {
  ClusterConfig config = Ideal("h100x16");
  NcclConstants& nccl = *config.mutable_kind(0)->mutable_nccl();
  nccl.set_launch_us(5);
  for (NcclConstants::Protocol* protocol :
       {nccl.mutable_ll(), nccl.mutable_ll128(), nccl.mutable_simple()}) {
    protocol->set_step_us(1);
    protocol->set_net_step_us(10);
    protocol->set_tree_step_us(20);
  }
  nccl.mutable_ll128()->set_step_us(2);
  nccl.mutable_simple()->set_step_us(3);
  const Cluster cluster = *Cluster::Create(config);
  const CollectiveModel model(cluster);
  const auto latency = [&](CollectiveAlgorithm algorithm, RankGroup group) {
    return ToMicroseconds(
        model.Cost(Request(CollectiveKind::kAllReduce, 8, group, algorithm))
            ->latency_time);
  };
  using Algorithm = CollectiveAlgorithm;

  EXPECT_NEAR(latency(Algorithm::kRing, {0, 1, 8}), 5 + 14, 1e-6);
  // Of 30 steps 2 / 16 are between nodes.
  EXPECT_NEAR(latency(Algorithm::kRing, {0, 1, 16}), 5 + 26.25 + 37.5, 1e-6);
  // Up and down: 7 within a node, one level of nodes.
  EXPECT_NEAR(latency(Algorithm::kTree, {0, 1, 16}), 5 + 14 + 40, 1e-6);
  EXPECT_NEAR(latency(Algorithm::kHalvingDoubling, {0, 1, 16}), 5 + 6 + 40,
              1e-6);
  EXPECT_NEAR(latency(Algorithm::kHierarchical, {0, 1, 16}), 5 + 14 + 20, 1e-6);
  // One GPU a node: the ring's steps are as dear as the tree's.
  EXPECT_NEAR(latency(Algorithm::kRing, {0, 8, 2}), 5 + 40, 1e-6);
}

TEST(CollectiveTest, AutoTakesTheBest) {
  const Cluster cluster = *LoadCluster("h100x1024");
  const CollectiveModel model(cluster);
  for (const double bytes : {1e3, 1e5, 1e7, 1e9}) {
    for (const RankGroup group :
         {RankGroup{0, 1, 8}, RankGroup{0, 1, 1024}, RankGroup{5, 8, 128}}) {
      CollectiveRequest request = Request(CollectiveKind::kAllReduce, bytes,
                                          group, CollectiveAlgorithm::kAuto);
      const absl::StatusOr<CollectiveCost> best = model.Cost(request);
      ASSERT_THAT(best, IsOk());
      EXPECT_NE(best->algorithm, CollectiveAlgorithm::kAuto);
      for (const auto algorithm :
           {CollectiveAlgorithm::kRing, CollectiveAlgorithm::kTree,
            CollectiveAlgorithm::kInSwitch}) {
        // Within one node a tree is a chain, and no candidate.
        if (algorithm == CollectiveAlgorithm::kTree && group.count == 8)
          continue;
        request.algorithm = algorithm;
        const absl::StatusOr<CollectiveCost> cost = model.Cost(request);
        if (!cost.ok()) continue;  // One GPU a node: no in-switch reduction.
        EXPECT_LE(best->time, cost->time);
      }
    }
  }
  // int8 cannot be added up in the switches.
  CollectiveRequest request = Request(CollectiveKind::kAllReduce, 1e9,
                                      {0, 1, 8}, CollectiveAlgorithm::kAuto);
  EXPECT_EQ(model.Cost(request)->algorithm, CollectiveAlgorithm::kInSwitch);
  request.in_switch_type = false;
  EXPECT_EQ(model.Cost(request)->algorithm, CollectiveAlgorithm::kRing);
}

TEST(CollectiveTest, NothingToDoTakesNoTime) {
  const Cluster cluster = *LoadCluster("h100x16");
  const CollectiveModel model(cluster);

  EXPECT_EQ(CostUs(model, Request(CollectiveKind::kAllReduce, 1e9, {3, 1, 1},
                                  CollectiveAlgorithm::kAuto)),
            0);
  EXPECT_EQ(CostUs(model, Request(CollectiveKind::kAllReduce, 0, {0, 1, 8},
                                  CollectiveAlgorithm::kAuto)),
            0);
}

TEST(CollectiveTest, AListOfRanksIsAGroupToo) {
  const Cluster cluster = *LoadCluster("h100x64");
  const CollectiveModel model(cluster);
  CollectiveRequest request = Request(CollectiveKind::kAllReduce, 1e7,
                                      {2, 8, 8}, CollectiveAlgorithm::kAuto);
  const double regular = CostUs(model, request);
  const std::vector<int> ranks = {2, 10, 18, 26, 34, 42, 50, 58};
  request.ranks = ranks;

  EXPECT_EQ(CostUs(model, request), regular);
}

// Folding looks at one node, unfolding at every transfer: the derivations share
// nothing but the links.
class FoldingTest : public ::testing::TestWithParam<std::string> {};

void ExpectSameFolded(const Cluster& cluster, const Topology& topology) {
  const CollectiveModel folded(topology);
  const CollectiveModel unfolded(topology, Folding::kUnfold);
  const int n = cluster.num_ranks();
  for (const RankGroup group :
       {RankGroup{0, 1, n}, RankGroup{1, 8, n / 8}, RankGroup{0, 2, n / 2},
        RankGroup{0, 1, 4}, RankGroup{0, 4, n / 4}, RankGroup{3, 5, 7}}) {
    if (group.first + group.stride * (group.count - 1) >= n) continue;
    for (const auto kind :
         {CollectiveKind::kAllReduce, CollectiveKind::kAllGather,
          CollectiveKind::kReduceScatter, CollectiveKind::kAllToAll,
          CollectiveKind::kBroadcast}) {
      for (const auto algorithm :
           {CollectiveAlgorithm::kAuto, CollectiveAlgorithm::kRing,
            CollectiveAlgorithm::kTree, CollectiveAlgorithm::kDirect,
            CollectiveAlgorithm::kHalvingDoubling,
            CollectiveAlgorithm::kHierarchical,
            CollectiveAlgorithm::kInSwitch}) {
        SCOPED_TRACE(absl::StrCat(NameOf(kind), " ", NameOf(algorithm), " of ",
                                  group.count, " ranks, stride ",
                                  group.stride));
        const CollectiveRequest request = Request(kind, 1e9, group, algorithm);
        const absl::StatusOr<CollectiveCost> a = folded.Cost(request);
        const absl::StatusOr<CollectiveCost> b = unfolded.Cost(request);
        ASSERT_EQ(a.status(), b.status());
        if (!a.ok()) continue;
        // Sums of thousands of terms, in another order: 1e-9 of the time.
        EXPECT_NEAR(a->time, b->time, 1e-9 * b->time + 1);
        EXPECT_EQ(a->algorithm, b->algorithm);
        EXPECT_NEAR(a->intra_node_bytes_per_rank, b->intra_node_bytes_per_rank,
                    1);
        EXPECT_NEAR(a->inter_node_bytes_per_rank, b->inter_node_bytes_per_rank,
                    1);
      }
    }
  }
}

TEST_P(FoldingTest, ChangesNoResult) {
  ClusterConfig config = *ClusterPreset(GetParam());
  // Leaves of three nodes, so that groups cross spines unevenly.
  config.mutable_fabric()->set_nodes_per_leaf(3);
  config.mutable_fabric()->set_oversubscription(3);
  const Cluster cluster = *Cluster::Create(config);

  ExpectSameFolded(cluster, Topology(cluster));
}

TEST_P(FoldingTest, ChangesNoResultWithStragglers) {
  ClusterConfig config = *ClusterPreset(GetParam());
  RankSlowdown* slowdown = config.add_slowdown();
  slowdown->set_rank(1);
  slowdown->set_factor(3);
  const Cluster cluster = *Cluster::Create(config);
  Topology topology(cluster);
  topology.SlowNic(cluster.num_nodes() - 1, 2, 7);

  ExpectSameFolded(cluster, topology);
}

TEST_P(FoldingTest, ChangesNoResultInAFatTree) {
  ClusterConfig config = *ClusterPreset(GetParam());
  config.mutable_fabric()->set_kind(FabricConfig::FAT_TREE);
  config.mutable_fabric()->set_nodes_per_leaf(2);
  config.mutable_fabric()->set_oversubscription(4);
  config.mutable_kind(0)->mutable_nic()->set_count(4);  // Two GPUs share one.
  const Cluster cluster = *Cluster::Create(config);

  ExpectSameFolded(cluster, Topology(cluster));
}

INSTANTIATE_TEST_SUITE_P(Clusters, FoldingTest,
                         ::testing::Values("h100x8", "h100x16", "h800x56",
                                           "h100x64", "a100x128"));

TEST(CollectiveTest, AStragglerSlowsItsGroupAndNoOther) {
  ClusterConfig config = *ClusterPreset("h100x16");
  const Cluster healthy = *Cluster::Create(config);
  config.add_slowdown()->set_rank(5);
  config.mutable_slowdown(0)->set_factor(2);
  const Cluster cluster = *Cluster::Create(config);
  const auto cost = [](const Cluster& of, RankGroup group) {
    return CostUs(CollectiveModel(of),
                  Request(CollectiveKind::kAllGather, 1e9, group,
                          CollectiveAlgorithm::kRing));
  };

  EXPECT_GT(cost(cluster, {0, 1, 8}), 1.8 * cost(healthy, {0, 1, 8}));
  EXPECT_EQ(cost(cluster, {8, 1, 8}), cost(healthy, {8, 1, 8}));
}

// A cluster of 64 ranks with dimensions only; the constants of NCCL play no
// part.
Cluster Torus() {
  ClusterConfig config = *ClusterPreset("h100x64");
  for (const auto& [kind, size, rate] :
       {std::tuple(DimensionConfig::RING, 4, 100.0),
        std::tuple(DimensionConfig::RING, 4, 50.0),
        std::tuple(DimensionConfig::SWITCH, 4, 10.0)}) {
    DimensionConfig* dimension = config.add_dimension();
    dimension->set_kind(kind);
    dimension->set_size(size);
    dimension->set_gb_per_s(rate);
    dimension->set_latency_us(1);
  }
  return *Cluster::Create(config);
}

TEST(CollectiveTest, ReducesDimensionByDimension) {
  const Cluster cluster = Torus();
  const CollectiveModel model(cluster);

  const double us =
      CostUs(model, Request(CollectiveKind::kReduceScatter, 64e6, {0, 1, 64},
                            CollectiveAlgorithm::kHierarchical));

  // 3/4 of 64 MB at 100 GB/s in 3 steps; 3/4 of 16 MB at 50 GB/s in 3; 3/4 of
  // 4 MB at 10 GB/s in one.
  EXPECT_NEAR(us, 480 + 3 + 240 + 3 + 300 + 1, 1e-3);
  EXPECT_NEAR(
      CostUs(model, Request(CollectiveKind::kAllReduce, 64e6, {0, 1, 64},
                            CollectiveAlgorithm::kHierarchical)),
      2 * us, 1e-3);
}

// Over random requests: more bandwidth never costs time, more bytes never save
// any, and a request has one answer.
TEST(CollectivePropertyTest, IsMonotoneAndDeterministic) {
  const Cluster cluster = *LoadCluster("h100x64");
  ClusterConfig config = *ClusterPreset("h100x64");
  config.mutable_kind(0)->mutable_nic()->set_gb_per_s(70);
  config.mutable_kind(0)->mutable_scale_up()->set_gb_per_s(600);
  const Cluster swifter_cluster = *Cluster::Create(config);
  const CollectiveModel model(cluster);
  const CollectiveModel swifter(swifter_cluster);
  Random random(/*seed=*/5, /*stream=*/0);
  for (int i = 0; i < 300; ++i) {
    std::vector<int> ranks(64);
    std::iota(ranks.begin(), ranks.end(), 0);
    for (int r = 63; r > 0; --r) {
      std::swap(ranks[r], ranks[random.UniformInt(r + 1)]);
    }
    ranks.resize(2 + random.UniformInt(63));
    CollectiveRequest request;
    request.kind = static_cast<CollectiveKind>(random.UniformInt(4));
    request.ranks = ranks;
    request.bytes = std::exp(25 * random.Uniform());
    const double cost = CostUs(model, request);

    EXPECT_EQ(CostUs(model, request), cost);
    EXPECT_LE(CostUs(swifter, request), cost);
    request.bytes *= 1.5;
    EXPECT_GE(CostUs(model, request), cost);
  }
}

// What is sent is received: over random groups, by every algorithm.
TEST(CollectivePropertyTest, MovesTheBytesThatTheAlgorithmMust) {
  const Cluster cluster = *LoadCluster("h100x64");
  const CollectiveModel model(cluster);
  for (const auto kind : kReduceAndGather) {
    for (const RankGroup group :
         {RankGroup{0, 1, 8}, RankGroup{0, 1, 64}, RankGroup{0, 8, 8}}) {
      const double n = group.count;
      for (const auto algorithm :
           {CollectiveAlgorithm::kRing, CollectiveAlgorithm::kDirect,
            CollectiveAlgorithm::kHalvingDoubling}) {
        const absl::StatusOr<CollectiveCost> cost =
            model.Cost(Request(kind, 1e6, group, algorithm));
        ASSERT_THAT(cost, IsOk());
        // Each rank has to send (n - 1) / n of the buffer, twice for
        // all-reduce (Patarasuk and Yuan 2009); bytes for another rail cross
        // NVLink too.
        const double least =
            (n - 1) / n * 1e6 * (kind == CollectiveKind::kAllReduce ? 2 : 1);
        EXPECT_GE(
            cost->intra_node_bytes_per_rank + cost->inter_node_bytes_per_rank,
            least * (1 - 1e-9));
        EXPECT_LE(cost->intra_node_bytes_per_rank, least * (1 + 1e-9));
        EXPECT_LE(cost->inter_node_bytes_per_rank, least * (1 + 1e-9));
      }
    }
  }
}

TEST(CollectiveErrorTest, SaysWhatIsWrong) {
  const Cluster cluster = *LoadCluster("h100x16");
  const CollectiveModel model(cluster);
  const auto cost = [&](CollectiveKind kind, double bytes, RankGroup group,
                        CollectiveAlgorithm algorithm) {
    return model.Cost(Request(kind, bytes, group, algorithm)).status();
  };
  constexpr auto kAuto = CollectiveAlgorithm::kAuto;
  constexpr auto kAllReduce = CollectiveKind::kAllReduce;
  const RankGroup all = {0, 1, 16};

  EXPECT_THAT(cost(kAllReduce, 1, {0, 1, 0}, kAuto),
              StatusIs(kInvalid, HasSubstr("0 ranks; want 1 to 16")));
  EXPECT_THAT(cost(kAllReduce, 1, {0, 1, 17}, kAuto),
              StatusIs(kInvalid, HasSubstr("17 ranks; want 1 to 16")));
  EXPECT_THAT(cost(kAllReduce, 1, {8, 1, 9}, kAuto),
              StatusIs(kInvalid, HasSubstr("want ranks 0 to 15")));
  EXPECT_THAT(cost(kAllReduce, 1, {0, 0, 2}, kAuto),
              StatusIs(kInvalid, HasSubstr("in steps of 0")));
  EXPECT_THAT(cost(kAllReduce, 1, {0, 1 << 30, 16}, kAuto),
              StatusIs(kInvalid, HasSubstr("want ranks 0 to 15")));
  EXPECT_THAT(cost(kAllReduce, -1, all, kAuto),
              StatusIs(kInvalid, HasSubstr("-1 bytes")));
  EXPECT_THAT(
      cost(kAllReduce, std::numeric_limits<double>::quiet_NaN(), all, kAuto),
      StatusIs(kInvalid, HasSubstr("nan bytes")));
  EXPECT_THAT(cost(kAllReduce, 1e30, all, kAuto),
              StatusIs(kInvalid, HasSubstr("want 0 to")));
  EXPECT_THAT(cost(CollectiveKind::kSendRecv, 1, all, kAuto),
              StatusIs(kInvalid, HasSubstr("16 ranks; want 2")));
  EXPECT_THAT(
      cost(CollectiveKind::kSendRecv, 1, {0, 1, 2}, CollectiveAlgorithm::kRing),
      StatusIs(kInvalid, HasSubstr("no ring algorithm")));
  EXPECT_THAT(
      cost(CollectiveKind::kAllToAll, 1, all, CollectiveAlgorithm::kRing),
      StatusIs(kInvalid, HasSubstr("no ring algorithm for all-to")));
  EXPECT_THAT(
      cost(kAllReduce, 1, {0, 1, 6}, CollectiveAlgorithm::kHalvingDoubling),
      StatusIs(kInvalid, HasSubstr("6 ranks are no power of two")));
  EXPECT_THAT(
      cost(kAllReduce, 1, {0, 1, 8}, CollectiveAlgorithm::kHierarchical),
      StatusIs(kInvalid, HasSubstr("two nodes or more")));
  EXPECT_THAT(cost(kAllReduce, 1, {0, 1, 4}, CollectiveAlgorithm::kInSwitch),
              StatusIs(kInvalid, HasSubstr("not for 4 of a node's GPUs")));
}

TEST(CollectiveErrorTest, RejectsListsAndMatricesThatDoNotFit) {
  const Cluster cluster = *LoadCluster("h100x16");
  const CollectiveModel model(cluster);
  CollectiveRequest request;
  request.bytes = 1;
  std::vector<int> ranks = {0, 3, 3};
  request.ranks = ranks;
  EXPECT_THAT(model.Cost(request),
              StatusIs(kInvalid, HasSubstr("rank 3 is in the group twice")));
  ranks = {0, 16};
  request.ranks = ranks;
  EXPECT_THAT(model.Cost(request), StatusIs(kInvalid, HasSubstr("rank 16")));
  ranks = {-1, 2};
  request.ranks = ranks;
  EXPECT_THAT(model.Cost(request), StatusIs(kInvalid, HasSubstr("rank -1")));

  ranks = {0, 1};
  request.ranks = ranks;
  request.kind = CollectiveKind::kAllToAllV;
  std::vector<double> matrix = {0, 1, 1};
  request.bytes_matrix = matrix;
  EXPECT_THAT(model.Cost(request),
              StatusIs(kInvalid, HasSubstr("3 numbers; want 2 x 2")));
  matrix = {0, 1, -1, 0};
  request.bytes_matrix = matrix;
  EXPECT_THAT(model.Cost(request),
              StatusIs(kInvalid, AllOf(HasSubstr("bytes_matrix[1][0]"),
                                       HasSubstr("-1 bytes"))));
}

}  // namespace
}  // namespace strata::sim
