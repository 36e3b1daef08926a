#include "sim/replay/replay.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective.h"
#include "sim/engine/time.h"
#include "sim/replay/replay_summary.h"
#include "sim/replay/trace_plan.h"

namespace strata::sim {
namespace {

using ::strata::chakra::CollectiveNode;
using ::strata::chakra::ComputeNode;
using ::strata::chakra::Nodes;
using ::strata::chakra::RecvNode;
using ::strata::chakra::SendNode;
using ::strata::chakra::ToWorkload;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kMegabyte = 1'000'000;

// A switch of 1 GB/s and 1 us: a megabyte takes a millisecond.
ClusterConfig SwitchConfig(int ranks) {
  ClusterConfig config = *ClusterPreset("h100");
  config.mutable_nodes(0)->set_count((ranks + 7) / 8);
  if (ranks < 8) config.mutable_nodes(0)->set_gpus(ranks);
  DimensionConfig& dimension = *config.add_dimension();
  dimension.set_kind(DimensionConfig::SWITCH);
  dimension.set_size(ranks);
  dimension.set_gb_per_s(1);
  dimension.set_latency_us(1);
  return config;
}

class ReplayTest : public ::testing::Test {
 protected:
  // The workload and the cluster stay until the next call.
  absl::StatusOr<ReplayResult> Replay(const std::vector<Nodes>& ranks,
                                      const ReplayOptions& options = {}) {
    return ReplayOn(SwitchConfig(static_cast<int>(ranks.size())), ranks,
                    options);
  }

  absl::StatusOr<ReplayResult> ReplayOn(const ClusterConfig& config,
                                        const std::vector<Nodes>& ranks,
                                        const ReplayOptions& options = {}) {
    cluster_ = Cluster::Create(config);
    EXPECT_THAT(cluster_, IsOk());
    workload_ = ToWorkload(ranks);
    EXPECT_THAT(workload_, IsOk());
    workload_->groups = groups_;
    return ReplayTraces(*workload_, *cluster_, options);
  }

  static double Milliseconds(Picoseconds time) { return ToSeconds(time) * 1e3; }

  absl::StatusOr<Cluster> cluster_;
  absl::StatusOr<chakra::Workload> workload_;
  chakra::ProcessGroups groups_;
};

TEST_F(ReplayTest, ComputationsOfARankGoOneByOneTheLeastIdFirst) {
  const auto result = Replay(
      {{ComputeNode(5, 100), ComputeNode(2, 200), ComputeNode(7, 50, {2})},
       {ComputeNode(1, 10)}});

  ASSERT_THAT(result, IsOk());
  // By id: 2 to 200 us, then 5 (ready before 7) to 300, then 7.
  std::vector<double> ends;
  for (const NodeTime& time : result->times) {
    ends.push_back(ToMicroseconds(time.end));
  }
  EXPECT_THAT(ends, ElementsAre(200, 300, 350, 10));
  EXPECT_EQ(ToMicroseconds(result->total), 350);
}

TEST_F(ReplayTest, ACollectiveBeginsWhenItsLastRankJoins) {
  const auto result =
      Replay({{ComputeNode(0, 3000),
               CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, kMegabyte, {0})},
              {ComputeNode(0, 1000),
               CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, kMegabyte, {0})}});

  ASSERT_THAT(result, IsOk());
  const CollectiveModel model(*cluster_);
  CollectiveRequest request;
  request.bytes = kMegabyte;
  request.group.count = 2;
  const auto cost = model.Cost(request);
  ASSERT_THAT(cost, IsOk());
  EXPECT_EQ(result->total, FromMicroseconds(3000) + cost->time);
  const ReplaySummary summary = Summarise(*result);
  const auto part = [&](int rank, ReplayPart part) {
    return summary.ranks[rank].parts[static_cast<int>(part)];
  };
  EXPECT_EQ(part(0, ReplayPart::kLateRanks), 0);
  EXPECT_EQ(part(1, ReplayPart::kLateRanks), FromMicroseconds(2000));
  EXPECT_EQ(part(1, ReplayPart::kAllReduce), cost->time);
  EXPECT_EQ(part(0, ReplayPart::kAllReduce), cost->time);
  // Rank 1's wait is no part of what made it last.
  EXPECT_THAT(summary.path_in_words, HasSubstr("\"COMP0\" of rank 0 (3 ms)"));
}

// A copy in memory, whatever the links.
TEST_F(ReplayTest, AMessageToOneselfIsReadAndWrittenOnce) {
  ReplayOptions options;
  options.memory_share = 0.5;
  const auto result =
      Replay({{ComputeNode(0, 10), SendNode(1, 0, 0, 7, 64 * kMegabyte, {0}),
               RecvNode(2, 0, 0, 7, 64 * kMegabyte), ComputeNode(3, 5, {2})}},
             options);
  ASSERT_THAT(result, IsOk());
  const double seconds =
      15e-6 + 2 * 64e6 / (0.5e9 * cluster_->Gpu(0).memory_gb_per_s());
  EXPECT_EQ(result->total, FromSeconds(seconds));
}

TEST_F(ReplayTest, CommunicationThatSharesALinkTakesLonger) {
  // Two messages out of rank 0: a switch's port has both, 1 ms each alone.
  const auto result = Replay(
      {{SendNode(0, 0, 1, 1, kMegabyte), SendNode(1, 0, 2, 1, kMegabyte)},
       {RecvNode(0, 0, 1, 1, kMegabyte)},
       {RecvNode(0, 0, 2, 1, kMegabyte)}});
  ASSERT_THAT(result, IsOk());
  EXPECT_NEAR(Milliseconds(result->total), 2, 0.01);

  // Into ranks of their own from ranks of their own they do not meet.
  const auto apart = Replay({{SendNode(0, 0, 1, 1, kMegabyte)},
                             {RecvNode(0, 0, 1, 1, kMegabyte)},
                             {SendNode(0, 2, 3, 1, kMegabyte)},
                             {RecvNode(0, 2, 3, 1, kMegabyte)}});
  ASSERT_THAT(apart, IsOk());
  EXPECT_NEAR(Milliseconds(apart->total), 1, 0.01);
}

TEST_F(ReplayTest, CommunicationHidesBehindComputation) {
  const Nodes rank = {CollectiveNode(0, ChakraProtoMsg::ALL_GATHER, kMegabyte),
                      ComputeNode(1, 5000)};
  const auto result = Replay({rank, rank});

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(Milliseconds(result->total), 5);
  EXPECT_EQ(Summarise(*result).exposed_share, 0);
  EXPECT_EQ(Summarise(*result).utilisation, 1);
}

TEST_F(ReplayTest, AMessageIsBufferedUntilItIsReceived) {
  const auto result =
      Replay({{SendNode(0, 0, 1, 9, kMegabyte)},
              {ComputeNode(0, 4000), RecvNode(1, 0, 1, 9, kMegabyte, {0}),
               ComputeNode(2, 1000, {1})}});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(Milliseconds(result->total), 5);

  // And waited for if it is late.
  const auto late =
      Replay({{ComputeNode(0, 4000), SendNode(1, 0, 1, 9, kMegabyte, {0})},
              {RecvNode(0, 0, 1, 9, kMegabyte)}});
  ASSERT_THAT(late, IsOk());
  const ReplaySummary summary = Summarise(*late);
  EXPECT_EQ(
      Milliseconds(
          summary.ranks[1].parts[static_cast<int>(ReplayPart::kLateSend)]),
      4);
}

TEST_F(ReplayTest, GroupsOfTheTraceOrTheFileSayWhoJoins) {
  groups_ = {{1, {0, 1}}, {2, {2, 3}}};
  std::vector<Nodes> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.push_back({ComputeNode(0, rank < 2 ? 1000 : 9000),
                     CollectiveNode(1, ChakraProtoMsg::ALL_TO_ALL, kMegabyte,
                                    {0}, rank < 2 ? "1" : "2")});
  }
  const auto result = Replay(ranks);

  ASSERT_THAT(result, IsOk());
  const ReplaySummary summary = Summarise(*result);
  EXPECT_LT(Milliseconds(summary.ranks[0].end), 3);
  EXPECT_GT(Milliseconds(summary.ranks[2].end), 9);
}

TEST_F(ReplayTest, ComputationsWithoutDurationTakeTheRoofline) {
  ChakraProtoMsg::Node flops = ComputeNode(0, 0);
  // 989.4 TFLOP/s at 75 %: a millisecond.
  chakra::AddInt64(flops, "num_ops", int64_t{742'050'000'000});
  ChakraProtoMsg::Node bytes = ComputeNode(1, 0);
  // 3350 GB/s at 85 %: two.
  chakra::AddInt64(bytes, "num_ops", 1);
  chakra::AddInt64(bytes, "tensor_size", int64_t{5'695'000'000});
  ChakraProtoMsg::Node recorded = ComputeNode(2, 7000);
  chakra::AddInt64(recorded, "num_ops", int64_t{742'050'000'000});
  const std::vector<Nodes> ranks = {{flops, bytes, recorded}, {}};

  const auto result = Replay(ranks);
  ASSERT_THAT(result, IsOk());
  EXPECT_NEAR(Milliseconds(result->total), 1 + 2 + 7, 1e-6);
  EXPECT_THAT(result->notes, ElementsAre(HasSubstr("2 computations")));

  ReplayOptions options;
  options.roofline = true;
  const auto all = Replay(ranks, options);
  ASSERT_THAT(all, IsOk());
  EXPECT_NEAR(Milliseconds(all->total), 1 + 2 + 1, 1e-6);
}

TEST_F(ReplayTest, ASlowRankTakesLongerAndOthersWait) {
  ClusterConfig config = SwitchConfig(2);
  RankSlowdown& slow = *config.add_slowdown();
  slow.set_rank(1);
  slow.set_factor(3);
  const Nodes rank = {ComputeNode(0, 1000),
                      CollectiveNode(1, ChakraProtoMsg::BARRIER, 0, {0})};
  const auto result = ReplayOn(config, {rank, rank});

  ASSERT_THAT(result, IsOk());
  const ReplaySummary summary = Summarise(*result);
  EXPECT_EQ(
      Milliseconds(
          summary.ranks[0].parts[static_cast<int>(ReplayPart::kLateRanks)]),
      2);
}

TEST_F(ReplayTest, RanksThatWaitForEachOtherAreNamedBeforeAnythingRuns) {
  // Rank 0 reduces and then sends what rank 1 wants before it reduces.
  const auto result =
      Replay({{CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, 64),
               SendNode(2, 0, 1, 6, 8, {1})},
              {RecvNode(3, 0, 1, 6, 8),
               CollectiveNode(4, ChakraProtoMsg::ALL_REDUCE, 64, {3})}});

  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("t.0.et: rank 0, node 1 \"COLL1\""),
                             HasSubstr("t.1.et: rank 1, node 3 \"RECV3\""),
                             HasSubstr("node 2 \"SEND2\""))));
}

TEST_F(ReplayTest, WhatDoesNotFitTogetherIsNamed) {
  EXPECT_THAT(Replay({{SendNode(1, 0, 1, 6, 8)}, {}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("SEND1"), HasSubstr("rank 1"))));
  EXPECT_THAT(Replay({{CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, 64)}, {}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("COLL1"), HasSubstr("rank 1 has 0"))));
  // A broadcast is a collective as others.
  EXPECT_THAT(
      Replay({{CollectiveNode(1, ChakraProtoMsg::BROADCAST, 64)}, {}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 1 has 0")));
  const auto unknown = static_cast<ChakraProtoMsg::CollectiveCommType>(42);
  EXPECT_THAT(Replay({{CollectiveNode(1, unknown, 64)},
                      {CollectiveNode(1, unknown, 64)}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("COLL1"), HasSubstr("type"))));
  EXPECT_THAT(
      Replay(
          {{CollectiveNode(1, ChakraProtoMsg::ALL_TO_ALL, int64_t{1} << 62)},
           {CollectiveNode(1, ChakraProtoMsg::ALL_TO_ALL, int64_t{1} << 62)}}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("COLL1"), HasSubstr("bytes"))));
  groups_ = {{1, {0, 1, 1}}};
  const Nodes twice = {
      CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, 64, {}, "1")};
  EXPECT_THAT(Replay({twice, twice}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("COLL1"), HasSubstr("rank 1 twice"))));
  workload_ = ToWorkload(std::vector<Nodes>(3));
  cluster_ = Cluster::Create(SwitchConfig(2));
  EXPECT_THAT(ReplayTraces(*workload_, *cluster_, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("3 ranks"), HasSubstr("2 GPUs"))));
}

TEST_F(ReplayTest, TimeBeyondAHundredDaysIsAnError) {
  const auto result = Replay({{ComputeNode(0, uint64_t{1} << 43),
                               ComputeNode(1, uint64_t{1} << 42, {0})}});
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("106 days")));
}

// Random workloads of layers: computations, collectives of all or of halves,
// messages to the next rank. Whatever they are: no rank computes two things at
// once, what depends waits, parts add up to the total on every rank, and the
// path covers all of the time.
TEST_F(ReplayTest, HoldsWhatAlwaysHolds) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed, /*stream=*/0);
    constexpr int kRanks = 8;
    groups_ = {{1, {0, 1, 2, 3}}, {2, {4, 5, 6, 7}}};
    std::vector<Nodes> ranks(kRanks);
    uint64_t id = 0;
    for (int layer = 0; layer < 12; ++layer) {
      const uint64_t kind = random.UniformInt(4);
      const auto type = static_cast<ChakraProtoMsg::CollectiveCommType>(
          random.UniformInt(ChakraProtoMsg::CollectiveCommType_MAX + 1));
      const int64_t bytes = static_cast<int64_t>(random.UniformInt(kMegabyte));
      ++id;
      for (int rank = 0; rank < kRanks; ++rank) {
        std::vector<uint64_t> deps;
        if (id > 1 && random.UniformInt(3) > 0) deps.push_back(id * 2 - 2);
        if (kind == 0) {
          ranks[rank].push_back(
              ComputeNode(id * 2, random.UniformInt(2000), deps));
        } else if (kind == 1) {
          ranks[rank].push_back(
              CollectiveNode(id * 2, type, bytes, deps, rank < 4 ? "1" : "2"));
        } else if (kind == 2) {
          ranks[rank].push_back(CollectiveNode(id * 2, type, bytes, deps));
        } else {
          ranks[rank].push_back(SendNode(id * 2, rank, (rank + 1) % kRanks,
                                         static_cast<int>(id), bytes, deps));
          ranks[rank].push_back(RecvNode(id * 2 + 1,
                                         (rank + kRanks - 1) % kRanks, rank,
                                         static_cast<int>(id), bytes, deps));
        }
      }
    }
    const auto result = Replay(ranks);
    ASSERT_THAT(result, IsOk());

    const TracePlan& plan = result->plan;
    for (int rank = 0; rank < kRanks; ++rank) {
      Picoseconds computed_until = 0;
      std::vector<const NodeTime*> computations;
      for (NodeIndex n = plan.first_node[rank]; n < plan.first_node[rank + 1];
           ++n) {
        const NodeTime& time = result->times[n];
        EXPECT_LE(time.joined, time.met);
        EXPECT_LE(time.met, time.start);
        EXPECT_LE(time.start, time.end);
        for (const uint32_t parent : plan.Node(n).parents) {
          EXPECT_GE(time.joined,
                    result->times[plan.first_node[rank] + parent].end);
        }
        if (plan.role[n] == NodeRole::kCompute) computations.push_back(&time);
      }
      std::sort(computations.begin(), computations.end(),
                [](const NodeTime* a, const NodeTime* b) {
                  return a->start < b->start;
                });
      for (const NodeTime* time : computations) {
        EXPECT_GE(time->start, computed_until);
        computed_until = time->end;
      }
    }
    const ReplaySummary summary = Summarise(*result);
    for (const RankSummary& rank : summary.ranks) {
      EXPECT_EQ(
          std::accumulate(rank.parts.begin(), rank.parts.end(), Picoseconds{0}),
          result->total);
    }
    Picoseconds path = 0;
    for (const PathStep& step : summary.path) {
      EXPECT_GE(step.time, 0);
      path += step.time;
    }
    EXPECT_EQ(path, result->total);

    const auto again = Replay(ranks);
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(again->total, result->total) << "a run is the same every time";
  }
}

}  // namespace
}  // namespace strata::sim
