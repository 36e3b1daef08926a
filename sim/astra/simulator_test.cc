#include "sim/astra/simulator.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"

namespace strata::astra {
namespace {

using ::strata::chakra::CollectiveNode;
using ::strata::chakra::ComputeNode;
using ::strata::chakra::Nodes;
using ::strata::chakra::RecvNode;
using ::strata::chakra::SendNode;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
constexpr int64_t kMib = 1 << 20;
constexpr auto kAllReduce = ChakraProtoMsg::ALL_REDUCE;
constexpr auto kAllGather = ChakraProtoMsg::ALL_GATHER;
constexpr auto kReduceScatter = ChakraProtoMsg::REDUCE_SCATTER;
constexpr auto kAllToAll = ChakraProtoMsg::ALL_TO_ALL;

NetworkConfig Net(Topology topology, int num_ranks) {
  return {{{topology, num_ranks, /*bandwidth_gbps=*/50, /*latency_ns=*/500}}};
}

SystemConfig System(const std::string& algorithm, int splits = 1) {
  const std::string list = absl::StrCat("[\"", algorithm, "\"]");
  const absl::StatusOr<SystemConfig> system = ParseSystemConfig(
      absl::StrCat(
          R"({"scheduling-policy": "LIFO", "endpoint-delay": 10,
              "active-chunks-per-dimension": 1,
              "collective-optimization": "localBWAware",
              "local-mem-bw": 1600, "preferred-dataset-splits": )",
          splits, ", \"all-reduce-implementation\": ", list,
          ", \"all-gather-implementation\": ", list,
          ", \"reduce-scatter-implementation\": ", list,
          ", \"all-to-all-implementation\": ", list, "}"),
      "sys.json");
  EXPECT_THAT(system, IsOk());
  return *system;
}

absl::StatusOr<SimulationResult> Replay(
    const absl::StatusOr<chakra::Workload>& workload,
    const NetworkConfig& network, const SystemConfig& system, bool aware) {
  if (!workload.ok()) return workload.status();
  SimulationOptions options;
  options.congestion_aware = aware;
  return Simulate(*workload, network, system, RemoteMemoryConfig(), options);
}

// The cycles in which all ranks finish, or -1 if they differ.
int64_t Cycles(const absl::StatusOr<SimulationResult>& result) {
  EXPECT_THAT(result, IsOk());
  if (!result.ok()) return -1;
  for (const RankResult& rank : result->ranks) {
    if (rank.finish_ns != result->ranks[0].finish_ns) return -1;
  }
  return result->ranks[0].finish_ns;
}

std::vector<std::pair<int64_t, int64_t>> FinishAndExposed(
    const absl::StatusOr<SimulationResult>& result) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  EXPECT_THAT(result, IsOk());
  if (!result.ok()) return pairs;
  for (const RankResult& rank : result->ranks) {
    pairs.emplace_back(rank.finish_ns, rank.exposed_ns);
  }
  return pairs;
}

// One collective of 1 MiB in four chunks on a network of 50 GB/s and 500 ns:
// what ASTRA-sim printed.
struct Row {
  ChakraProtoMsg::CollectiveCommType type;
  int num_ranks;
  Topology topology;
  const char* algorithm;
  int64_t aware;
  int64_t unaware;
};

constexpr Row kRows[] = {
    {kAllReduce, 4, Topology::kRing, "ring", 43000, 43000},
    {kAllReduce, 4, Topology::kRing, "direct", 37880, 18360},
    {kAllReduce, 4, Topology::kRing, "halvingDoubling", 51728, 41968},
    {kAllReduce, 8, Topology::kFullyConnected, "ring", 64440, 64440},
    {kAllReduce, 8, Topology::kFullyConnected, "direct", 9240, 9240},
    {kAllReduce, 8, Topology::kFullyConnected, "halvingDoubling", 47168, 47168},
    {kAllReduce, 8, Topology::kSwitch, "ring", 126600, 92440},
    {kAllReduce, 8, Topology::kSwitch, "direct", 47400, 13240},
    {kAllReduce, 8, Topology::kSwitch, "halvingDoubling", 93336, 59168},
    {kAllReduce, 8, Topology::kRing, "direct", 57160, 21240},
    {kAllGather, 8, Topology::kRing, "ring", 151016, 151016},
    {kAllGather, 8, Topology::kRing, "direct", 199360, 27608},
    {kAllGather, 8, Topology::kRing, "halvingDoubling", 248516, 150872},
    {kAllGather, 4, Topology::kFullyConnected, "direct", 21608, 21608},
    {kAllGather, 4, Topology::kSwitch, "halvingDoubling", 125296, 66708},
    {kReduceScatter, 8, Topology::kRing, "ring", 33080, 33080},
    {kReduceScatter, 8, Topology::kRing, "direct", 28720, 10760},
    {kReduceScatter, 8, Topology::kRing, "halvingDoubling", 44164, 31964},
    {kReduceScatter, 4, Topology::kSwitch, "ring", 42880, 28240},
    {kReduceScatter, 8, Topology::kSwitch, "halvingDoubling", 47048, 29964},
    {kAllToAll, 8, Topology::kRing, "ring", 125480, 125480},
    {kAllToAll, 8, Topology::kRing, "direct", 28480, 10520},
    {kAllToAll, 4, Topology::kFullyConnected, "direct", 6960, 6960},
    {kAllToAll, 8, Topology::kSwitch, "ring", 249800, 181480},
    {kAllToAll, 8, Topology::kSwitch, "direct", 23600, 6520},
};

TEST(SimulateTest, TakesTheCyclesThatAstraSimPrinted) {
  for (const Row& row : kRows) {
    const auto workload =
        chakra::CollectiveWorkload(row.num_ranks, row.type, kMib);
    const NetworkConfig network = Net(row.topology, row.num_ranks);
    const SystemConfig system = System(row.algorithm, /*splits=*/4);
    SCOPED_TRACE(absl::StrCat(chakra::CollectiveName(row.type), " ",
                              row.num_ranks, " ", row.algorithm, " ",
                              static_cast<int>(row.topology)));
    EXPECT_EQ(Cycles(Replay(workload, network, system, true)), row.aware);
    EXPECT_EQ(Cycles(Replay(workload, network, system, false)), row.unaware);
  }
}

// What ASTRA-sim's repository publishes for its 1 MiB examples.
TEST(SimulateTest, TakesThePublishedCycles) {
  SystemConfig system = System("ring", /*splits=*/4);
  const auto all_reduce = chakra::CollectiveWorkload(8, kAllReduce, kMib);
  EXPECT_EQ(Cycles(Replay(all_reduce, Net(Topology::kRing, 8), system, false)),
            64440);
  system.local_memory_gbps = 50;
  EXPECT_EQ(Cycles(Replay(all_reduce, Net(Topology::kRing, 8), system, false)),
            117780);
  EXPECT_EQ(Cycles(Replay(chakra::CollectiveWorkload(16, kAllGather, kMib),
                          Net(Topology::kRing, 16), system, true)),
            323560);
}

TEST(SimulateTest, OverlapsComputeWithACollective) {
  const auto workload = chakra::ToWorkload(std::vector<Nodes>(
      4, {ComputeNode(1, 30), CollectiveNode(2, kAllReduce, kMib),
          ComputeNode(3, 5, {1, 2})}));
  const SystemConfig system = System("ring");
  const auto expect = [&](Topology topology, bool aware, int64_t finish,
                          int64_t exposed) {
    EXPECT_THAT(
        FinishAndExposed(Replay(workload, Net(topology, 4), system, aware)),
        Each(std::pair<int64_t, int64_t>(finish, exposed)));
  };
  expect(Topology::kRing, true, 38829, 3829);
  expect(Topology::kRing, false, 38829, 3829);
  expect(Topology::kSwitch, true, 71121, 36121);
  expect(Topology::kSwitch, false, 41829, 6829);
}

// Rank r computes 10 us once rank r - 1 has sent it 1 MiB, and sends on.
TEST(SimulateTest, PassesMessagesAlong) {
  std::vector<Nodes> ranks;
  for (int r = 0; r < 4; ++r) {
    Nodes nodes;
    if (r > 0) nodes.push_back(RecvNode(1, r - 1, r, r, kMib));
    nodes.push_back(r > 0 ? ComputeNode(2, 10, {1}) : ComputeNode(2, 10));
    if (r < 3) nodes.push_back(SendNode(3, r, r + 1, r + 1, kMib, {2}));
    ranks.push_back(nodes);
  }
  const auto workload = chakra::ToWorkload(ranks);
  const SystemConfig system = System("ring");
  using P = std::pair<int64_t, int64_t>;
  EXPECT_THAT(
      FinishAndExposed(Replay(workload, Net(Topology::kRing, 4), system, true)),
      ElementsAre(P(30031, 20031), P(60062, 50062), P(90093, 80093),
                  P(100093, 90093)));
  EXPECT_THAT(FinishAndExposed(
                  Replay(workload, Net(Topology::kSwitch, 4), system, true)),
              ElementsAre(P(50062, 40062), P(100124, 90124), P(150186, 140186),
                          P(160186, 150186)));
  EXPECT_THAT(FinishAndExposed(
                  Replay(workload, Net(Topology::kSwitch, 4), system, false)),
              ElementsAre(P(30531, 20531), P(61062, 51062), P(91593, 81593),
                          P(101593, 91593)));
}

// 1F1B: `warmup` forwards, then a forward and a backward in turn. Messages are
// of one byte, tagged 2m for the forward of micro-batch m and 2m + 1 for its
// backward.
Nodes OneForwardOneBackward(int stage, int num_stages, int num_micro) {
  Nodes nodes;
  uint64_t id = 1;
  uint64_t last = 0;  // The computation before.
  const auto compute = [&](int us, int from, int to, int tag) {
    std::vector<uint64_t> deps;
    if (last != 0) deps.push_back(last);
    if (from >= 0 && from < num_stages) {
      nodes.push_back(RecvNode(id, from, stage, tag, 1));
      deps.push_back(id++);
    }
    nodes.push_back(ComputeNode(id, us, deps));
    last = id++;
    if (to < 0 || to >= num_stages) return;
    nodes.push_back(SendNode(id++, stage, to, tag, 1, {last}));
  };
  int forward = 0;
  int backward = 0;
  const int warmup = std::min(num_stages - stage, num_micro);
  while (backward < num_micro) {
    const bool goes_forward =
        forward < num_micro && forward - backward < warmup;
    if (goes_forward) {
      compute(100, stage - 1, stage + 1, 2 * forward++);
    } else {
      compute(200, stage + 1, stage - 1, 2 * backward++ + 1);
    }
  }
  return nodes;
}

TEST(SimulateTest, RunsAPipelineOfFourStages) {
  std::vector<Nodes> ranks;
  for (int stage = 0; stage < 4; ++stage) {
    ranks.push_back(OneForwardOneBackward(stage, 4, 8));
  }
  const auto workload = chakra::ToWorkload(ranks);
  using P = std::pair<int64_t, int64_t>;
  EXPECT_THAT(FinishAndExposed(Replay(workload, Net(Topology::kRing, 4),
                                      System("ring"), true)),
              ElementsAre(P(3308000, 908000), P(3108000, 708000),
                          P(2907500, 507500), P(2707000, 307000)));
  EXPECT_THAT(FinishAndExposed(Replay(workload, Net(Topology::kSwitch, 4),
                                      System("ring"), false)),
              ElementsAre(P(3316000, 916000), P(3116000, 716000),
                          P(2915000, 515000), P(2714000, 314000)));
}

TEST(SimulateTest, RunsGroupsAndThenAllRanks) {
  std::vector<Nodes> ranks;
  for (int r = 0; r < 8; ++r) {
    ranks.push_back({CollectiveNode(1, kAllReduce, kMib, {}, r < 4 ? "1" : "2"),
                     CollectiveNode(2, kAllReduce, kMib, {1})});
  }
  auto workload = chakra::ToWorkload(ranks);
  ASSERT_THAT(workload, IsOk());
  workload->groups = {{1, {0, 1, 2, 3}}, {2, {4, 5, 6, 7}}};
  using P = std::pair<int64_t, int64_t>;
  EXPECT_THAT(FinishAndExposed(Replay(workload, Net(Topology::kRing, 8),
                                      System("ring"), true)),
              ElementsAre(P(97362, 97362), P(97872, 97872), P(98382, 98382),
                          P(98382, 98382), P(97362, 97362), P(97872, 97872),
                          P(98382, 98382), P(98382, 98382)));
  EXPECT_THAT(FinishAndExposed(Replay(workload, Net(Topology::kRing, 8),
                                      System("ring"), false)),
              ElementsAre(P(77854, 77854), P(77854, 77854), P(78854, 78854),
                          P(78854, 78854), P(77854, 77854), P(77854, 77854),
                          P(78854, 78854), P(78854, 78854)));
}

// Hand-worked: hop(x) = floor(500 + x / (50 * 2^30 / 1e9)), a charge E of 10.
TEST(SimulateTest, RunsADoubleBinaryTree) {
  // Four ranks, one chunk. Tree with the last rank as root: 3 - 1 - {0, 2}.
  // Up: E; hop; E + r; hop; E + r. Down: hop; E + r; hop; E.
  // 1 MiB: hop = floor(500 + 19531.25) = 20031; r = 3 * 655 = 1965.
  const int64_t cycles = 5 * 10 + 4 * 20031 + 3 * 1965;
  const absl::StatusOr<SimulationResult> result = Replay(
      chakra::CollectiveWorkload(4, kAllReduce, kMib),
      Net(Topology::kFullyConnected, 4), System("doubleBinaryTree"), true);
  ASSERT_THAT(result, IsOk());
  // The root ends before it sends down, rank 1 before it sends to the leaves.
  EXPECT_EQ(result->ranks[0].finish_ns, cycles);
  EXPECT_EQ(result->ranks[1].finish_ns, cycles - 20031 - 10);
  EXPECT_EQ(result->ranks[2].finish_ns, cycles);
  EXPECT_EQ(result->ranks[3].finish_ns, cycles - 2 * 20031 - 1965 - 20);
}

TEST(SimulateTest, RunsAWindowOfDirectMessages) {
  // All-to-all of 8 ranks in one chunk of 128 KiB a pair, fully connected:
  // seven messages one after the other. hop = floor(500 + 2441.4) = 2941.
  const auto workload = chakra::CollectiveWorkload(8, kAllToAll, kMib);
  const NetworkConfig network = Net(Topology::kFullyConnected, 8);
  EXPECT_EQ(Cycles(Replay(workload, network, System("direct1"), true)),
            7 * (2941 + 10) + 10);
  // Two at once: the seventh goes alone, in the fourth turn.
  EXPECT_EQ(Cycles(Replay(workload, network, System("direct2"), true)),
            4 * (2941 + 10) + 10);
  EXPECT_EQ(Cycles(Replay(workload, network, System("direct7"), true)),
            2941 + 20);
  EXPECT_EQ(Cycles(Replay(workload, network, System("direct"), true)),
            2941 + 20);
}

TEST(SimulateTest, ReducesScattersAndGathersOverDimensions) {
  // Two rings of 4 and 2 ranks at 50 and 25 GB/s. An all-reduce of 1 MiB in one
  // chunk: reduce-scatter of 3 steps of 256 KiB, all-reduce of 2 steps of 128
  // KiB, all-gather of 3 steps of 256 KiB.
  // hop0 = floor(500 + 4882.8) = 5382, r0 = 3 * 163 = 489;
  // hop1 = floor(500 + 4882.8) = 5382, r1 = 3 * 81 = 243.
  const NetworkConfig network = {
      {{Topology::kRing, 4, 50, 500}, {Topology::kRing, 2, 25, 500}}};
  SystemConfig system = System("ring");
  for (Implementations* const list : {&system.all_reduce, &system.all_gather}) {
    list->push_back(list->front());
  }
  const auto workload = chakra::CollectiveWorkload(8, kAllReduce, kMib);
  EXPECT_EQ(Cycles(Replay(workload, network, system, false)),
            (3 * 5382 + 4 * 10 + 3 * 489) + (2 * 5382 + 3 * 10 + 243) +
                (3 * 5382 + 4 * 10));
  EXPECT_THAT(Replay(workload, network, system, true),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("one dimension, not 2")));

  // "baseline" all-reduces the whole in each dimension: 6 steps of 256 KiB, 2
  // of 512 KiB: hop1 = floor(500 + 19531.25) = 20031, r1 = 3 * 327 = 981.
  system.local_bw_aware = false;
  EXPECT_EQ(Cycles(Replay(workload, network, system, false)),
            (6 * 5382 + 7 * 10 + 3 * 489) + (2 * 20031 + 3 * 10 + 981));

  // An all-gather begins with the last dimension: 1 step of 1 MiB at 25 GB/s,
  // 39062.5 ns, then 3 of 2 MiB at 50 GB/s, the same.
  EXPECT_EQ(Cycles(Replay(chakra::CollectiveWorkload(8, kAllGather, kMib),
                          network, system, false)),
            (39562 + 2 * 10) + (3 * 39562 + 4 * 10));
}

TEST(SimulateTest, LeavesOutDimensionsThatAreNotInvolved) {
  const NetworkConfig network = {
      {{Topology::kRing, 4, 50, 500}, {Topology::kRing, 2, 25, 500}}};
  SystemConfig system = System("ring");
  system.all_reduce.push_back(system.all_reduce.front());
  ChakraProtoMsg::Node node = CollectiveNode(1, kAllReduce, kMib);
  ChakraProtoMsg::AttributeProto* const attribute = node.add_attr();
  attribute->set_name("involved_dim");
  for (const bool value : {false, true}) {
    attribute->mutable_bool_list()->add_values(value);
  }
  // Two steps of 512 KiB at 25 GB/s.
  EXPECT_EQ(Cycles(Replay(chakra::ToWorkload(std::vector<Nodes>(8, {node})),
                          network, system, false)),
            2 * 20031 + 3 * 10 + 981);
}

TEST(SimulateTest, ChargesTheEndpointDelayOnlyToCollectivesOfAllRanks) {
  SystemConfig system = System("ring");
  system.endpoint_delay_ns = 1000;
  // 4 ranks: 6 steps of 256 KiB, 7 charges, 3 reductions of 489 ns.
  EXPECT_EQ(Cycles(Replay(chakra::CollectiveWorkload(4, kAllReduce, kMib),
                          Net(Topology::kRing, 4), system, false)),
            6 * 5382 + 7 * 1000 + 3 * 489);

  // A group of two of the four: 2 steps of 512 KiB, hop 10265, r = 981.
  auto workload =
      chakra::ToWorkload({{CollectiveNode(1, kAllReduce, kMib, {}, "1")},
                          {CollectiveNode(1, kAllReduce, kMib, {}, "1")},
                          {ComputeNode(1, 1)},
                          {ComputeNode(1, 1)}});
  ASSERT_THAT(workload, IsOk());
  workload->groups = {{1, {0, 1}}};
  const auto result = Replay(workload, Net(Topology::kRing, 4), system, false);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->ranks[0].finish_ns, 2 * 10265 + 3 * 10 + 981);
}

TEST(SimulateTest, TakesTheRooflinesTime) {
  SystemConfig system = System("ring");
  system.roofline = true;
  system.peak_tflops = 900;
  const auto compute = [](int64_t flops, int64_t bytes) {
    ChakraProtoMsg::Node node = ComputeNode(1, 77);
    chakra::AddInt64(node, "num_ops", flops);
    chakra::AddUint64(node, "tensor_size", bytes);
    return chakra::ToWorkload(std::vector<Nodes>(2, {node}));
  };
  const NetworkConfig network = Net(Topology::kRing, 2);
  // 900e12 / 1600e9 = 562.5 FLOPs a byte divide the two regimes.
  EXPECT_EQ(
      Cycles(Replay(compute(9'000'000'000, 1'000'000), network, system, false)),
      10'000);
  EXPECT_EQ(
      Cycles(Replay(compute(1'000'000, 16'000'000), network, system, false)),
      10'000);
  // Without bytes it takes no time; nodes behind it start all the same.
  EXPECT_EQ(Cycles(Replay(compute(1'000'000, 0), network, system, false)), 0);
  EXPECT_THAT(
      Replay(chakra::ToWorkload(std::vector<Nodes>(2, {ComputeNode(1, 1)})),
             network, system, false),
      StatusIs(
          absl::StatusCode::kInvalidArgument,
          AllOf(HasSubstr("rank 0, node 1 \"COMP1\""), HasSubstr("num_ops"))));
}

TEST(SimulateTest, ServesRemoteMemoryInTurn) {
  ChakraProtoMsg::Node node = ComputeNode(1, 0);
  node.set_type(ChakraProtoMsg::MEM_LOAD_NODE);
  chakra::AddUint64(node, "tensor_size", 1000);
  const auto workload = chakra::ToWorkload(std::vector<Nodes>(2, {node}));
  ASSERT_THAT(workload, IsOk());
  RemoteMemoryConfig memory;
  memory.latency_ns = 50;
  memory.bandwidth_gbps = 10;
  const auto run = [&](MemoryKind kind) {
    memory.kind = kind;
    return Simulate(*workload, Net(Topology::kRing, 2), System("ring"), memory,
                    SimulationOptions());
  };
  using P = std::pair<int64_t, int64_t>;
  EXPECT_THAT(FinishAndExposed(run(MemoryKind::kPool)),
              ElementsAre(P(150, 150), P(300, 300)));
  EXPECT_THAT(FinishAndExposed(run(MemoryKind::kPerRank)),
              ElementsAre(P(150, 150), P(150, 150)));
  EXPECT_THAT(run(MemoryKind::kNone),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("want a remote memory file")));
}

// A rank has one slot for communication, so it runs one collective at a time
// and no policy has anything to choose from.
TEST(SimulateTest, TakesTheSameTimeUnderAllSchedulingPolicies) {
  SystemConfig system = System("ring", /*splits=*/4);
  const auto workload = chakra::ToWorkload(
      std::vector<Nodes>(4, {CollectiveNode(1, kAllReduce, kMib),
                             CollectiveNode(2, kAllGather, kMib)}));
  const NetworkConfig network = Net(Topology::kRing, 4);
  for (const SchedulingPolicy policy :
       {SchedulingPolicy::kLifo, SchedulingPolicy::kFifo,
        SchedulingPolicy::kExplicit}) {
    system.scheduling_policy = policy;
    // The rows of one collective each, one after the other.
    EXPECT_EQ(Cycles(Replay(workload, network, system, true)), 43000 + 64744);
  }
}

TEST(SimulateTest, RunsSeveralChunksAtOnce) {
  SystemConfig system = System("ring", /*splits=*/4);
  system.active_chunks = 4;
  const auto workload = chakra::CollectiveWorkload(4, kAllGather, kMib);
  const NetworkConfig network = Net(Topology::kRing, 4);
  // Four chunks of 256 KiB on links of their own: as one of the four alone.
  EXPECT_EQ(Cycles(Replay(workload, network, system, false)),
            3 * 5382 + 4 * 10);
  // On one link, a step of all four takes what their bytes take; the latency
  // and the charge are hidden but for the first chunk's.
  EXPECT_EQ(Cycles(Replay(workload, network, system, true)),
            3 * 4 * 4882 + 10 + 500 + 10);
}

TEST(SimulateTest, SaysWhoWaitsForWhomInADeadlock) {
  // Each waits for the other's message before it sends its own.
  const auto crossed = chakra::ToWorkload(
      {{RecvNode(1, 1, 0, 5, 64), SendNode(2, 0, 1, 6, 64, {1})},
       {RecvNode(3, 0, 1, 6, 64), SendNode(4, 1, 0, 5, 64, {3})}});
  EXPECT_THAT(
      Replay(crossed, Net(Topology::kRing, 2), System("ring"), true),
      StatusIs(absl::StatusCode::kAborted,
               AllOf(HasSubstr("deadlock at 0 ns"),
                     HasSubstr("rank 0 waits in node 1 \"RECV1\" (t.0.et) for "
                               "64 bytes with tag 5 from rank 1"),
                     HasSubstr("rank 1 waits in node 3 \"RECV3\" (t.1.et)"),
                     HasSubstr("rank 0: see above"))));
  // A collective that one rank cannot reach, since its turn on the wire is
  // behind a message that nobody sends before the collective.
  const auto mixed = chakra::ToWorkload(
      {{CollectiveNode(1, kAllReduce, 64), SendNode(2, 0, 1, 6, 64, {1})},
       {RecvNode(3, 0, 1, 6, 64), CollectiveNode(4, kAllReduce, 64, {3})}});
  EXPECT_THAT(
      Replay(mixed, Net(Topology::kRing, 2), System("ring"), false),
      StatusIs(absl::StatusCode::kAborted,
               AllOf(HasSubstr("node 1 \"COLL1\" (t.0.et) for rank 1 to join "
                               "ALL_REDUCE of 64 bytes"),
                     HasSubstr("rank 1 waits in node 3 \"RECV3\""))));
}

TEST(SimulateTest, SaysWhichCollectivesComeInAnotherOrder) {
  const auto workload = chakra::ToWorkload(
      {{CollectiveNode(1, kAllReduce, 64), CollectiveNode(2, kAllGather, 64)},
       {CollectiveNode(1, kAllGather, 64), CollectiveNode(2, kAllReduce, 64)}});
  EXPECT_THAT(Replay(workload, Net(Topology::kRing, 2), System("ring"), true),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("collective 1 of all ranks differs"),
                             HasSubstr("rank 1, node 1 \"COLL1\" (ALL_GATHER"),
                             HasSubstr("rank 0, node 1 \"COLL1\" (ALL_REDUCE"),
                             HasSubstr("t.1.et"))));
}

TEST(SimulateTest, RefusesWhatItDoesNotSimulate) {
  const NetworkConfig network = Net(Topology::kRing, 6);
  const auto error = [&](ChakraProtoMsg::CollectiveCommType type,
                         const std::string& algorithm, int64_t bytes,
                         int splits) {
    return Replay(chakra::CollectiveWorkload(6, type, bytes), network,
                  System(algorithm, splits), false)
        .status();
  };
  EXPECT_THAT(error(ChakraProtoMsg::BARRIER, "ring", 8, 1),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("t.0.et: rank 0, node 0 \"COLL0\""),
                             HasSubstr("is a BARRIER"))));
  EXPECT_THAT(error(kAllToAll, "halvingDoubling", 8, 1),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("has no all-to-all")));
  EXPECT_THAT(error(kAllReduce, "doubleBinaryTree", 8, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("power of two of ranks, not 6")));
  EXPECT_THAT(error(kAllGather, "ring", 3, 4),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("3 bytes cannot be cut")));
  EXPECT_THAT(error(kAllReduce, "ring", int64_t{1} << 47, 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2^46")));
  SystemConfig bare = System("ring");
  bare.all_reduce.clear();
  EXPECT_THAT(Replay(chakra::CollectiveWorkload(6, kAllReduce, 8), network,
                     bare, false),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("lacks all-reduce-implementation")));
  EXPECT_THAT(Replay(chakra::CollectiveWorkload(4, kAllReduce, 8), network,
                     System("ring"), false),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("network has 6 ranks, the workload 4")));
}

TEST(SimulateTest, RefusesTimesBeyondItsRange) {
  EXPECT_THAT(Replay(chakra::ToWorkload(std::vector<Nodes>(
                         2, {ComputeNode(1, uint64_t{1} << 52),
                             ComputeNode(2, uint64_t{1} << 52, {1})})),
                     Net(Topology::kRing, 2), System("ring"), false),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("2^62 ns")));
  EXPECT_THAT(Replay(chakra::ToWorkload(std::vector<Nodes>(
                         2, {ComputeNode(1, (uint64_t{1} << 52) + 1)})),
                     Net(Topology::kRing, 2), System("ring"), false),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("at most 2^52 us")));
}

// Random layered workloads: what is bought more bandwidth never ends later when
// nothing shares a link, and no rank computes more than the time it took.
TEST(SimulateTest, NeverSlowsDownWithMoreBandwidth) {
  for (int round = 0; round < 20; ++round) {
    Random random(/*seed=*/round, /*stream=*/3);
    std::vector<Nodes> ranks(4);
    int64_t compute_ns[4] = {0, 0, 0, 0};
    for (uint64_t id = 1; id <= 12; ++id) {
      const bool communicates = random.UniformInt(3) == 0;
      const auto bytes = static_cast<int64_t>(1 + random.UniformInt(1 << 22));
      for (int r = 0; r < 4; ++r) {
        const std::vector<uint64_t> deps =
            id > 1 ? std::vector<uint64_t>{id - 1} : std::vector<uint64_t>{};
        if (communicates) {
          ranks[r].push_back(CollectiveNode(id, kAllReduce, bytes, deps));
        } else {
          const uint64_t us = 1 + random.UniformInt(50);
          ranks[r].push_back(ComputeNode(id, us, deps));
          compute_ns[r] += static_cast<int64_t>(us) * 1000;
        }
      }
    }
    const auto workload = chakra::ToWorkload(ranks);
    NetworkConfig network = Net(Topology::kFullyConnected, 4);
    const auto slow = Replay(workload, network, System("ring"), true);
    network.dimensions[0].bandwidth_gbps *= 2;
    const auto fast = Replay(workload, network, System("ring"), true);

    ASSERT_THAT(slow, IsOk());
    ASSERT_THAT(fast, IsOk());
    for (int r = 0; r < 4; ++r) {
      EXPECT_LE(fast->ranks[r].finish_ns, slow->ranks[r].finish_ns);
      EXPECT_EQ(slow->ranks[r].finish_ns - slow->ranks[r].exposed_ns,
                compute_ns[r]);
      EXPECT_GE(slow->ranks[r].exposed_ns, 0);
    }
  }
}

}  // namespace
}  // namespace strata::astra
