// The network, system and remote memory files.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"

namespace strata::astra {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(NetworkConfigTest, ReadsListsInBracketsAndOfLines) {
  const std::string texts[] = {
      "# Of a node.\ntopology: [ Switch, Ring ]  # two\nnpus_count: [8, 2]\n"
      "bandwidth: [ 400.0, 50.0 ]\nlatency: [ 936.25, 1000 ]\n",
      "---\ntopology:\n  - Switch\n  - \"Ring\"\nnpus_count:\n- 8\n- 2\n"
      "bandwidth: [ 400.0,\n  50.0 ]\nlatency: [ 936.25, 1000, ]\n"};
  for (const std::string& text : texts) {
    const absl::StatusOr<NetworkConfig> config =
        ParseNetworkConfig(text, "n.yml");
    ASSERT_THAT(config, IsOk());
    ASSERT_THAT(config->dimensions, SizeIs(2));
    EXPECT_EQ(config->num_ranks(), 16);
    EXPECT_EQ(config->dimensions[0].topology, Topology::kSwitch);
    EXPECT_EQ(config->dimensions[1].topology, Topology::kRing);
    EXPECT_EQ(config->dimensions[0].bandwidth_gbps, 400);
    EXPECT_EQ(config->dimensions[1].latency_ns, 1000);
    EXPECT_EQ(config->dimensions[0].latency_ns, 936.25);
  }
}

TEST(NetworkConfigTest, NamesTheLineThatIsWrong) {
  const auto error = [](const std::string& text) {
    return ParseNetworkConfig(text, "n.yml").status();
  };
  const std::string rest =
      "npus_count: [ 4 ]\nbandwidth: [ 50 ]\nlatency: [ 500 ]\n";
  EXPECT_THAT(error(""), StatusIs(kInvalid, HasSubstr("n.yml lacks topology")));
  EXPECT_THAT(error("topology: [ Ring ]\n"),
              StatusIs(kInvalid, HasSubstr("lacks npus_count")));
  EXPECT_THAT(error("topology: [ Mesh ]\n" + rest),
              StatusIs(kInvalid, HasSubstr("n.yml, line 1: topology is "
                                           "\"Mesh\"; want Ring")));
  EXPECT_THAT(error("topology: Ring\n" + rest),
              StatusIs(kInvalid, HasSubstr("line 1: topology is \"Ring\"; want "
                                           "a list")));
  EXPECT_THAT(error("topology: [ ]\n" + rest),
              StatusIs(kInvalid, HasSubstr("has 0 dimensions; want 1 to 8")));
  EXPECT_THAT(error("topology: [ Ring, Ring ]\n" + rest),
              StatusIs(kInvalid, HasSubstr("line 2: npus_count has 1 items, "
                                           "topology 2")));
  EXPECT_THAT(error("topology: [ Ring ]\ntopology: [ Ring ]\n" + rest),
              StatusIs(kInvalid, HasSubstr("line 2: topology stands there")));
  EXPECT_THAT(error("Ring\n"), StatusIs(kInvalid, HasSubstr("want \"key: [")));
  EXPECT_THAT(error("- Ring\n"),
              StatusIs(kInvalid, HasSubstr("list item without a key")));
  EXPECT_THAT(error("topology: [ Ring\n"),
              StatusIs(kInvalid, HasSubstr("no closing bracket")));

  const auto with = [&](const char* npus, const char* bandwidth,
                        const char* latency) {
    return error(std::string("topology: [ Ring, Ring ]\nnpus_count: [ ") +
                 npus + ", 2 ]\nbandwidth: [ " + bandwidth +
                 ", 1 ]\nlatency: [ " + latency + ", 1 ]\n");
  };
  EXPECT_THAT(with("2", "50", "0"), IsOk());
  EXPECT_THAT(with("1", "50", "0"), StatusIs(kInvalid, HasSubstr("line 2")));
  EXPECT_THAT(with("2.5", "50", "0"), StatusIs(kInvalid, HasSubstr("whole")));
  EXPECT_THAT(with("32768", "50", "0"), IsOk());
  EXPECT_THAT(with("32769", "50", "0"),
              StatusIs(kInvalid, HasSubstr("65536 ranks")));
  EXPECT_THAT(with("tbd", "50", "0"),
              StatusIs(kInvalid, HasSubstr("\"tbd\"; want a number")));
  EXPECT_THAT(with("2", "0", "0"), StatusIs(kInvalid, HasSubstr("line 3")));
  EXPECT_THAT(with("2", "nan", "0"), StatusIs(kInvalid, HasSubstr("nan")));
  EXPECT_THAT(with("2", "50", "-1"), StatusIs(kInvalid, HasSubstr("line 4")));
}

TEST(SystemConfigTest, ReadsWhatChangesCycles) {
  const absl::StatusOr<SystemConfig> config = ParseSystemConfig(
      R"({"scheduling-policy": "FIFO", "endpoint-delay": 10.9,
          "active-chunks-per-dimension": 2, "preferred-dataset-splits": 4,
          "all-reduce-implementation": ["direct12", "oneHalvingDoubling"],
          "all-to-all-implementation": ["doubleBinaryTree"],
          "collective-optimization": "localBWAware", "local-mem-bw": 3350,
          "boost-mode": 0, "roofline-enabled": 1, "peak-perf": 700,
          "track-local-mem": 1, "inter-dimension-scheduling": "ascending"})",
      "s.json");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->scheduling_policy, SchedulingPolicy::kFifo);
  EXPECT_EQ(config->endpoint_delay_ns, 10);
  EXPECT_EQ(config->active_chunks, 2);
  EXPECT_EQ(config->preferred_splits, 4);
  ASSERT_THAT(config->all_reduce, SizeIs(2));
  EXPECT_EQ(config->all_reduce[0].kind, AlgorithmKind::kDirect);
  EXPECT_EQ(config->all_reduce[0].window, 12);
  EXPECT_FALSE(config->all_reduce[0].all_ranks);
  EXPECT_EQ(config->all_reduce[1].kind, AlgorithmKind::kHalvingDoubling);
  EXPECT_TRUE(config->all_reduce[1].all_ranks);
  EXPECT_EQ(config->all_to_all[0].kind, AlgorithmKind::kDoubleBinaryTree);
  EXPECT_TRUE(config->local_bw_aware);
  EXPECT_TRUE(config->roofline);
  EXPECT_EQ(config->local_memory_gbps, 3350);
}

TEST(SystemConfigTest, NamesTheKeyThatIsWrong) {
  const auto error = [](const std::string& text) {
    return ParseSystemConfig(text, "s.json").status();
  };
  EXPECT_THAT(error("{}"), IsOk());
  EXPECT_THAT(error("["), StatusIs(kInvalid, HasSubstr("s.json is no JSON")));
  EXPECT_THAT(error(R"({"scheduling-policy": "X"})"),
              StatusIs(kInvalid, AllOf(HasSubstr("scheduling-policy is \"X\""),
                                       HasSubstr("LIFO, FIFO, EXPLICIT"))));
  EXPECT_THAT(error(R"({"preferred-dataset-splits": 0})"),
              StatusIs(kInvalid, HasSubstr("preferred-dataset-splits is 0")));
  EXPECT_THAT(error(R"({"endpoint-delay": "10"})"),
              StatusIs(kInvalid, HasSubstr("endpoint-delay is \"10\"")));
  EXPECT_THAT(error(R"({"all-reduce-implementation": "ring"})"),
              StatusIs(kInvalid, HasSubstr("want a list")));
  for (const char* const name : {"rings", "direct0", "directx", "direct-1"}) {
    EXPECT_THAT(error(std::string(R"({"all-reduce-implementation": [")") +
                      name + "\"]}"),
                StatusIs(kInvalid, HasSubstr(name)));
  }
  EXPECT_THAT(error(R"({"roofline-enabled": 1})"),
              StatusIs(kInvalid, HasSubstr("wants peak-perf")));
  EXPECT_THAT(error(R"({"model-shared-bus": 1})"),
              StatusIs(kUnimplemented, HasSubstr("model-shared-bus")));
  EXPECT_THAT(error(R"({"all-reduce-implementation-custom": ["x"]})"),
              StatusIs(kUnimplemented, HasSubstr("custom is not simulated")));
  EXPECT_THAT(error(R"({"per-node-custom-implementation": "x"})"),
              StatusIs(kUnimplemented, HasSubstr("per-node-custom")));
}

TEST(RemoteMemoryConfigTest, ReadsItsKinds) {
  const auto parse = [](const std::string& text) {
    return ParseRemoteMemoryConfig(text, "m.json");
  };
  EXPECT_EQ(parse(R"({"memory-type": "NO_MEMORY_EXPANSION"})")->kind,
            MemoryKind::kNone);
  const absl::StatusOr<RemoteMemoryConfig> pool = parse(
      R"({"memory-type": "MEMORY_POOL", "remote-mem-latency": 7.5,
          "remote-mem-bw": 10.5})");
  ASSERT_THAT(pool, IsOk());
  EXPECT_EQ(pool->kind, MemoryKind::kPool);
  EXPECT_EQ(pool->latency_ns, 7);
  EXPECT_EQ(pool->bandwidth_gbps, 10);
  EXPECT_THAT(parse(R"({"memory-type": "X"})"),
              StatusIs(kInvalid, HasSubstr("memory-type is \"X\"")));
  EXPECT_THAT(parse(R"({"memory-type": "MEMORY_POOL"})"),
              StatusIs(kInvalid, HasSubstr("remote-mem-bw")));
  EXPECT_THAT(parse(R"({"memory-type": "PER_NODE_MEMORY_EXPANSION",
                        "remote-mem-bw": 10})"),
              StatusIs(kInvalid, HasSubstr("num-nodes")));
}

}  // namespace
}  // namespace strata::astra
