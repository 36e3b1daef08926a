#include "sim/cluster/load_cluster.h"

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<Cluster> FromFile(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/cluster.textproto";
  if (absl::Status status = WriteFileAtomically(path, text); !status.ok()) {
    return status;
  }
  return LoadCluster(path);
}

TEST(LoadClusterTest, MakesWholeNodesOfAPreset) {
  const absl::StatusOr<Cluster> cluster = LoadCluster("h800x2048");

  ASSERT_THAT(cluster, IsOk());
  EXPECT_EQ(cluster->name(), "h800x2048");
  EXPECT_EQ(cluster->num_ranks(), 2048);
  EXPECT_EQ(cluster->num_nodes(), 256);
  EXPECT_EQ(cluster->NodeOf(2047), 255);
  EXPECT_EQ(cluster->FirstRank(255), 2040);
  EXPECT_EQ(cluster->Gpu(2047).name(), "H800 SXM 80GB");
  // $2 a GPU; 8 x 700 W and a host of 4600 W a node.
  EXPECT_EQ(cluster->dollars_per_hour(), 2 * 2048);
  EXPECT_EQ(cluster->watts(), 256 * (8 * 700 + 4600));
}

TEST(LoadClusterTest, EveryPresetLoadsFromOneGpuTo16384) {
  for (const std::string& name : NodePresetNames()) {
    SCOPED_TRACE(name);
    for (const int gpus : {1, 7, 8, 16, 16384}) {
      const absl::StatusOr<Cluster> cluster =
          LoadCluster(name + "x" + std::to_string(gpus));
      ASSERT_THAT(cluster, IsOk());
      EXPECT_EQ(cluster->num_ranks(), gpus);
    }
    ASSERT_THAT(LoadCluster(name), IsOk());
    EXPECT_EQ(LoadCluster(name)->num_ranks(), 8);
  }
}

TEST(LoadClusterTest, NamesThePresetsWhereThereIsNone) {
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const auto lists_presets =
      AllOf(HasSubstr("a100, h100, h200, h800, b200, a3high"),
            HasSubstr("h800x2048"));

  EXPECT_THAT(LoadCluster("h900"), StatusIs(kNotFound, lists_presets));
  EXPECT_THAT(LoadCluster(""), StatusIs(kNotFound, lists_presets));
  EXPECT_THAT(LoadCluster("h100x"), StatusIs(kNotFound, lists_presets));
  EXPECT_THAT(LoadCluster("h100x8x8"), StatusIs(kNotFound, lists_presets));
  // Does not fit an int.
  EXPECT_THAT(LoadCluster("h100x99999999999"),
              StatusIs(kNotFound, lists_presets));
}

TEST(LoadClusterTest, RejectsNumbersOfGpusThatAreNotWholeNodes) {
  EXPECT_THAT(LoadCluster("h100x0"), StatusIs(kInvalid, HasSubstr("0 GPUs")));
  EXPECT_THAT(LoadCluster("h100x-8"), StatusIs(kInvalid, HasSubstr("-8 GPUs")));
  EXPECT_THAT(LoadCluster("h100x12"),
              StatusIs(kInvalid, HasSubstr("want 1 to 8, or a multiple of 8")));
  EXPECT_THAT(LoadCluster("h100x1048576"), IsOk());
  EXPECT_THAT(LoadCluster("h100x1048584"),
              StatusIs(kInvalid, HasSubstr("1048584 GPUs")));
}

TEST(LoadClusterTest, ReadsAFileWithDifferentNodes) {
  const absl::StatusOr<Cluster> cluster = FromFile(R"(
    name: "mixed"
    nodes { kind: "h100" count: 2 }
    nodes { kind: "a100" count: 3 gpus: 4 }
    fabric { nodes_per_leaf: 8 oversubscription: 2 switch_latency_us: 0.5 }
    slowdown { rank: 17 factor: 1.5 }
  )");

  ASSERT_THAT(cluster, IsOk());
  EXPECT_EQ(cluster->num_ranks(), 2 * 8 + 3 * 4);
  EXPECT_EQ(cluster->num_nodes(), 5);
  EXPECT_EQ(cluster->NodeOf(15), 1);
  EXPECT_EQ(cluster->NodeOf(16), 2);
  EXPECT_EQ(cluster->NodeOf(27), 4);
  EXPECT_EQ(cluster->NumGpus(4), 4);
  EXPECT_NE(cluster->KindOf(1), cluster->KindOf(2));
  EXPECT_EQ(cluster->Gpu(16).bf16_tflops(), 312);
  EXPECT_EQ(cluster->Slowdown(17), 1.5);
  EXPECT_EQ(cluster->Slowdown(16), 1);
}

TEST(LoadClusterTest, TakesWhatAKindDoesNotSayFromThePresetItIsLike) {
  const absl::StatusOr<Cluster> cluster = FromFile(R"(
    nodes { kind: "slow" count: 2 }
    kind { name: "slow" like: "h100" nic { count: 4 gb_per_s: 25 } }
    fabric { nodes_per_leaf: 8 oversubscription: 1 }
  )");

  ASSERT_THAT(cluster, IsOk());
  EXPECT_EQ(cluster->num_ranks(), 16);
  EXPECT_EQ(cluster->Gpu(0).bf16_tflops(), 989.4);
  EXPECT_EQ(cluster->Node(0).name(), "slow");
  EXPECT_EQ(cluster->Node(0).nic().count(), 4);
  EXPECT_EQ(cluster->Node(0).nic().gb_per_s(), 25);
  EXPECT_EQ(cluster->Node(0).nic().latency_us(), 2);
  EXPECT_EQ(cluster->CalibratedKind(0), "h100");

  const absl::StatusOr<Cluster> cloud = FromFile(R"(
    nodes { kind: "mine" count: 1 }
    kind { name: "mine" like: "a3high" }
  )");
  ASSERT_THAT(cloud, IsOk());
  EXPECT_EQ(cloud->num_ranks(), 8);
  EXPECT_EQ(cloud->Node(0).nic().count(), 4);
  EXPECT_EQ(cloud->CalibratedKind(0), "h100");
  EXPECT_THAT(
      FromFile("nodes { kind: \"a\" count: 1 } "
               "kind { name: \"a\" like: \"h900\" }"),
      StatusIs(absl::StatusCode::kNotFound,
               AllOf(HasSubstr("kind \"a\" is like"), HasSubstr("h900"))));
}

TEST(LoadClusterTest, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(
      LoadCluster("/nowhere/x.textproto"),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/x.textproto")));
  EXPECT_THAT(
      FromFile("nodes {\n  knid: \"h100\"\n}"),
      StatusIs(kInvalid, AllOf(HasSubstr("cluster.textproto"),
                               HasSubstr("line 2"), HasSubstr("knid"))));
  EXPECT_THAT(FromFile("nodes { kind: \"h900\" count: 1 }"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("cluster.textproto"), HasSubstr("h900"),
                             HasSubstr("a100, h100"))));
  EXPECT_THAT(FromFile(""), StatusIs(kInvalid, HasSubstr("no nodes")));
}

TEST(LoadClusterTest, RejectsValuesThatMakeNoSense) {
  const std::string one = "nodes { kind: \"h100\" count: 1 } ";
  const std::string two = "nodes { kind: \"h100\" count: 2 } ";
  EXPECT_THAT(FromFile(two), StatusIs(kInvalid, HasSubstr("neither a fabric")));
  EXPECT_THAT(FromFile("nodes { kind: \"h100\" count: 0 }"),
              StatusIs(kInvalid, HasSubstr("nodes[0].count is 0; want 1")));
  EXPECT_THAT(FromFile("nodes { kind: \"h100\" count: 1 gpus: 9 }"),
              StatusIs(kInvalid, HasSubstr("nodes[0].gpus is 9")));
  EXPECT_THAT(FromFile("nodes { kind: \"h100\" count: 131073 } "
                       "fabric { nodes_per_leaf: 1 oversubscription: 1 }"),
              StatusIs(kInvalid, HasSubstr("1048584 GPUs")));
  EXPECT_THAT(FromFile(two + "fabric { nodes_per_leaf: 0 }"),
              StatusIs(kInvalid, HasSubstr("fabric.nodes_per_leaf is 0")));
  EXPECT_THAT(
      FromFile(two + "fabric { nodes_per_leaf: 1 oversubscription: 0.5 }"),
      StatusIs(kInvalid, HasSubstr("fabric.oversubscription is 0.5")));
  EXPECT_THAT(FromFile(two + "fabric { nodes_per_leaf: 1 oversubscription: 1 "
                             "kind: 7 }"),
              StatusIs(kInvalid, HasSubstr("7")));
  EXPECT_THAT(
      FromFile(one + "slowdown { rank: 8 factor: 2 }"),
      StatusIs(kInvalid, HasSubstr("slowdown[0].rank is 8; want 0 to")));
  EXPECT_THAT(FromFile(one + "slowdown { rank: 0 factor: 0.5 }"),
              StatusIs(kInvalid, HasSubstr("slowdown[0].factor is 0.5")));
  EXPECT_THAT(FromFile(one + "slowdown { rank: 0 factor: nan }"),
              StatusIs(kInvalid, HasSubstr("slowdown[0].factor is nan")));
  EXPECT_THAT(FromFile(one + "dimension { size: 4 gb_per_s: 1 }"),
              StatusIs(kInvalid, HasSubstr("multiply to 4 ranks; the nodes "
                                           "have 8 GPUs")));
  EXPECT_THAT(FromFile(one + "dimension { size: 8 }"),
              StatusIs(kInvalid, HasSubstr("dimension[0].gb_per_s is 0")));
  EXPECT_THAT(FromFile(one + "dimension { size: 1000000 gb_per_s: 1 } "
                             "dimension { size: 1000000 gb_per_s: 1 }"),
              StatusIs(kInvalid, HasSubstr("multiply to at least")));
}

// Every number of a node lies in a range: what falls out of it is named.
TEST(ClusterTest, NamesTheFieldOfAKindThatIsOutOfRange) {
  const absl::StatusOr<ClusterConfig> preset = ClusterPreset("h100");
  ASSERT_THAT(preset, IsOk());
  const auto create = [&](auto change) {
    ClusterConfig config = *preset;
    change(*config.mutable_kind(0));
    return Cluster::Create(config);
  };
  EXPECT_THAT(create([](NodeConfig& node) {
                node.mutable_scale_up()->set_gb_per_s(-1);
              }),
              StatusIs(kInvalid, HasSubstr("kind[0].scale_up.gb_per_s is -1")));
  EXPECT_THAT(
      create([](NodeConfig& node) { node.mutable_nic()->set_count(0); }),
      StatusIs(kInvalid, HasSubstr("kind[0].nic.count is 0")));
  EXPECT_THAT(create([](NodeConfig& node) {
                node.mutable_gpu()->set_memory_gb_per_s(
                    std::numeric_limits<double>::infinity());
              }),
              StatusIs(kInvalid, HasSubstr("gpu.memory_gb_per_s is inf")));
  EXPECT_THAT(create([](NodeConfig& node) {
                node.mutable_nccl()->mutable_ll()->set_efficiency(1.5);
              }),
              StatusIs(kInvalid, HasSubstr("nccl.ll.efficiency is 1.5")));
  EXPECT_THAT(
      create([](NodeConfig& node) {
        node.mutable_nccl()->set_cached_speedup(0.5);
      }),
      StatusIs(kInvalid, HasSubstr("nccl.cached_speedup is 0.5; want 1 to")));
  EXPECT_THAT(
      create([](NodeConfig& node) { node.mutable_tuner()->set_channels(0); }),
      StatusIs(kInvalid, HasSubstr("tuner.channels is 0")));
  EXPECT_THAT(create([](NodeConfig& node) { node.set_name("other"); }),
              StatusIs(kInvalid, HasSubstr("nodes[0].kind is \"h100\"; there "
                                           "are other")));
}

}  // namespace
}  // namespace strata::sim
