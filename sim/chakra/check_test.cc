#include "sim/chakra/check.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kAllReduce = ChakraProtoMsg::ALL_REDUCE;
constexpr auto kAllGather = ChakraProtoMsg::ALL_GATHER;

absl::Status Check(const std::vector<Nodes>& ranks,
                   const ProcessGroups& groups = {}) {
  absl::StatusOr<Workload> workload = ToWorkload(ranks);
  if (!workload.ok()) return workload.status();
  workload->groups = groups;
  return CheckWorkload(*workload);
}

TEST(LoadRankTest, SortsNodesAndResolvesDependenciesThatPointAhead) {
  ChakraProtoMsg::Node child = ComputeNode(9, 3, {5, 5});
  child.add_ctrl_deps(7);
  const absl::StatusOr<Workload> workload =
      ToWorkload({{child, ComputeNode(7, 2), ComputeNode(5, 1)}});

  ASSERT_THAT(workload, IsOk());
  const std::vector<TraceNode>& nodes = workload->ranks[0].nodes;
  ASSERT_THAT(nodes, SizeIs(3));
  EXPECT_EQ(nodes[0].id, 5);
  EXPECT_EQ(nodes[2].id, 9);
  EXPECT_EQ(nodes[2].duration_us, 3);
  EXPECT_THAT(nodes[2].parents, ElementsAre(0, 1));
}

TEST(LoadRankTest, RefusesDanglingAndDoubleIds) {
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  EXPECT_THAT(ToWorkload({{ComputeNode(1, 1, {4})}}),
              StatusIs(kDataLoss,
                       AllOf(HasSubstr("t.0.et, byte 8"),
                             HasSubstr("node 1 \"COMP1\" depends on node 4"))));
  EXPECT_THAT(
      ToWorkload({{ComputeNode(1, 1)}, {ComputeNode(3, 1), ComputeNode(3, 2)}}),
      StatusIs(kDataLoss, AllOf(HasSubstr("t.1.et, byte "), HasSubstr("node 3"),
                                HasSubstr("byte 8; ids must differ"))));
}

TEST(LoadRankTest, NamesTheNodeOfABadAttribute) {
  ChakraProtoMsg::Node node = ComputeNode(4, 1);
  AddInt64(node, "num_ops", -3);
  EXPECT_THAT(
      ToWorkload({{node}}),
      StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("node 4 \"COMP4\""),
                                                  HasSubstr("num_ops is -3"))));
  EXPECT_THAT(ToWorkload({{CollectiveNode(2, kAllReduce, 8, {}, "tp")}}),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("process group \"tp\" is no number")));
}

TEST(LoadRankTest, SaysAnUnknownTypeOnce) {
  ChakraProtoMsg::Node a = ComputeNode(1, 1);
  ChakraProtoMsg::Node b = ComputeNode(2, 1);
  a.set_type(static_cast<ChakraProtoMsg::NodeType>(8));
  b.set_type(static_cast<ChakraProtoMsg::NodeType>(8));

  const absl::StatusOr<Workload> workload = ToWorkload({{a, b}});

  ASSERT_THAT(workload, IsOk());
  EXPECT_THAT(workload->ranks[0].nodes, SizeIs(2));
  EXPECT_THAT(workload->ranks[0].notes,
              ElementsAre(AllOf(HasSubstr("t.0.et"), HasSubstr("node 1"),
                                HasSubstr("type 8"))));
}

TEST(LoadRankTest, TakesProcessGroupsFromPyTorchsMetadata) {
  for (const char* const values :
       {R"(["[{"pg_name": "3", "ranks": [0, 2]}]"])",
        R"(["[{\"pg_name\": \"3\", \"ranks\": [0, 2]}]"])"}) {
    ChakraProtoMsg::Node node;
    node.set_type(ChakraProtoMsg::METADATA_NODE);
    node.mutable_inputs()->set_values(values);

    const absl::StatusOr<Workload> workload = ToWorkload({{node}});

    ASSERT_THAT(workload, IsOk());
    ASSERT_NE(workload->FindGroup(0, 3), nullptr) << values;
    EXPECT_THAT(*workload->FindGroup(0, 3), ElementsAre(0, 2));
  }
}

TEST(ProcessGroupsTest, ReadsGroupsAndNamesWhatIsWrong) {
  const absl::StatusOr<ProcessGroups> groups =
      ParseProcessGroups(R"({"1": [0, 1], "2": [3, 2]})", "g.json", 4);
  ASSERT_THAT(groups, IsOk());
  EXPECT_THAT(groups->at(2), ElementsAre(3, 2));

  const auto error = [](const std::string& text) {
    return ParseProcessGroups(text, "g.json", 4).status();
  };
  EXPECT_THAT(error("[]"), StatusIs(kInvalid, HasSubstr("g.json is no JSON")));
  EXPECT_THAT(error("{"), StatusIs(kInvalid, HasSubstr("g.json is no JSON")));
  EXPECT_THAT(error(R"({"0": [1]})"),
              StatusIs(kInvalid, HasSubstr("group \"0\" is no number")));
  EXPECT_THAT(error(R"({"1": []})"),
              StatusIs(kInvalid, HasSubstr("group 1 is no list")));
  EXPECT_THAT(error(R"({"1": [4]})"),
              StatusIs(kInvalid, HasSubstr("rank 4; want 0 to 3")));
  EXPECT_THAT(error(R"({"1": ["a"]})"),
              StatusIs(kInvalid, HasSubstr("want 0 to 3")));
  EXPECT_THAT(error(R"({"1": [2, 2]})"),
              StatusIs(kInvalid, HasSubstr("rank 2 twice")));
}

TEST(CheckTest, AcceptsWhatFitsTogether) {
  EXPECT_THAT(
      Check({{SendNode(1, 0, 1, 7, 64), CollectiveNode(2, kAllReduce, 8),
              CollectiveNode(3, kAllGather, 8, {}, "1")},
             {RecvNode(9, 0, 1, 7, 64), CollectiveNode(4, kAllReduce, 8)},
             {CollectiveNode(2, kAllGather, 8, {}, "1"),
              CollectiveNode(4, kAllReduce, 8)}},
            {{1, {2, 0}}}),
      IsOk());
}

TEST(CheckTest, NamesACycle) {
  EXPECT_THAT(
      Check({{ComputeNode(1, 1), ComputeNode(2, 1, {1, 4}),
              ComputeNode(3, 1, {2}), ComputeNode(4, 1, {3})}}),
      StatusIs(kInvalid,
               AllOf(HasSubstr("t.0.et: rank 0, node 2 \"COMP2\" waits for"),
                     HasSubstr("node 4 \"COMP4\", that on node 3"),
                     HasSubstr("that on node 2 \"COMP2\""))));
  EXPECT_THAT(Check({{ComputeNode(5, 1, {5})}}),
              StatusIs(kInvalid, HasSubstr("depends on node 5 \"COMP5\"")));
}

TEST(CheckTest, NamesBothEndsOfAPairThatDoesNotFit) {
  // Nobody receives.
  EXPECT_THAT(
      Check({{SendNode(1, 0, 1, 7, 64)}, {ComputeNode(1, 1)}}),
      StatusIs(
          kInvalid,
          AllOf(HasSubstr("t.0.et: rank 0, node 1 \"SEND1\" sends to rank "
                          "1 64 bytes with tag 7"),
                HasSubstr("has 0 receives for 1 sends"), HasSubstr("t.1.et"))));
  // Nobody sends, with that tag.
  EXPECT_THAT(
      Check({{SendNode(1, 0, 1, 7, 64)},
             {RecvNode(1, 0, 1, 7, 64), RecvNode(2, 0, 1, 8, 64)}}),
      StatusIs(kInvalid, AllOf(HasSubstr("t.1.et: rank 1, node 2 \"RECV2\" "
                                         "receives from rank 0"),
                               HasSubstr("has 0 sends for 1 receives"))));
  // Other sizes.
  EXPECT_THAT(
      Check({{SendNode(1, 0, 1, 7, 64), SendNode(2, 0, 1, 7, 32)},
             {RecvNode(1, 0, 1, 7, 64), RecvNode(2, 0, 1, 7, 48)}}),
      StatusIs(kInvalid,
               AllOf(HasSubstr("rank 0, node 2 \"SEND2\" sends 32 bytes"),
                     HasSubstr("node 2 \"RECV2\" of rank 1 receives 48"))));
}

TEST(CheckTest, NamesWhatACommunicationNodeLacks) {
  const auto without = [](ChakraProtoMsg::Node node, const char* name) {
    for (int i = 0; i < node.attr_size(); ++i) {
      if (node.attr(i).name() == name) {
        node.mutable_attr()->DeleteSubrange(i, 1);
        break;
      }
    }
    return node;
  };
  const auto error = [&](const ChakraProtoMsg::Node& node) {
    return Check({{node}, {ComputeNode(1, 1)}});
  };
  EXPECT_THAT(error(without(SendNode(1, 0, 1, 7, 64), "comm_dst")),
              StatusIs(kInvalid, HasSubstr("lacks the attribute comm_dst")));
  EXPECT_THAT(error(without(SendNode(1, 0, 1, 7, 64), "comm_size")),
              StatusIs(kInvalid, HasSubstr("lacks the attribute comm_size")));
  EXPECT_THAT(error(without(RecvNode(1, 1, 0, 7, 64), "comm_tag")),
              StatusIs(kInvalid, HasSubstr("lacks the attribute comm_tag")));
  EXPECT_THAT(error(without(CollectiveNode(1, kAllReduce, 8), "comm_type")),
              StatusIs(kInvalid, HasSubstr("lacks the attribute comm_type")));
  EXPECT_THAT(error(SendNode(1, 0, 2, 7, 64)),
              StatusIs(kInvalid, HasSubstr("comm_dst 2; want another rank")));
  EXPECT_THAT(error(SendNode(1, 0, 0, 7, 64)),
              StatusIs(kInvalid, HasSubstr("comm_dst 0; want another rank")));
  EXPECT_THAT(error(SendNode(1, 1, 0, 7, 64)),
              StatusIs(kInvalid, HasSubstr("comm_src 1; want its own rank")));
  ChakraProtoMsg::Node on_cpu = without(SendNode(1, 0, 1, 7, 64), "is_cpu_op");
  AddBool(on_cpu, "is_cpu_op", true);
  EXPECT_THAT(error(on_cpu),
              StatusIs(kInvalid, HasSubstr("is_cpu_op is true")));
}

// A replay takes what a rank with several stages sends to itself.
TEST(CheckTest, AReplayTakesMessagesToOneself) {
  const auto check = [](const Nodes& nodes) {
    const auto workload = ToWorkload({nodes});
    EXPECT_THAT(workload, IsOk());
    return CheckWorkload(*workload, TraceRules::kReplay);
  };
  EXPECT_THAT(check({SendNode(1, 0, 0, 7, 64), RecvNode(2, 0, 0, 7, 64)}),
              IsOk());
  EXPECT_THAT(check({SendNode(1, 0, 0, 7, 64)}),
              StatusIs(kInvalid, HasSubstr("0 receives for 1 sends")));
  EXPECT_THAT(check({SendNode(1, 0, 1, 7, 64)}),
              StatusIs(kInvalid, HasSubstr("comm_dst 1; want a rank, 0 to 0")));
}

TEST(CheckTest, NamesWhoDoesNotJoinACollective) {
  EXPECT_THAT(
      Check({{CollectiveNode(3, kAllReduce, 8)}, {ComputeNode(1, 1)}}),
      StatusIs(kInvalid,
               AllOf(HasSubstr("t.0.et: rank 0, node 3 \"COLL3\" joins "
                               "ALL_REDUCE of 8 bytes in the group of all "
                               "ranks"),
                     HasSubstr("rank 1 has 0 such"), HasSubstr("t.1.et"))));
  // A size that differs is said.
  EXPECT_THAT(
      Check({{CollectiveNode(3, kAllReduce, 8)},
             {CollectiveNode(5, kAllReduce, 16)}}),
      StatusIs(kInvalid, HasSubstr("its node 5 \"COLL5\" has 16 bytes")));
  // Once too often, on a later rank.
  EXPECT_THAT(Check({{CollectiveNode(1, kAllReduce, 8)},
                     {CollectiveNode(1, kAllReduce, 8),
                      CollectiveNode(2, kAllReduce, 8)}}),
              StatusIs(kInvalid,
                       AllOf(HasSubstr("rank 1, node 2"), HasSubstr("(2 such)"),
                             HasSubstr("rank 0 has 1 such"))));
}

TEST(CheckTest, NamesUnknownGroupsAndStrangersInThem) {
  const std::vector<Nodes> ranks = {{CollectiveNode(1, kAllReduce, 8, {}, "5")},
                                    {ComputeNode(1, 1)}};
  EXPECT_THAT(Check(ranks),
              StatusIs(kInvalid, AllOf(HasSubstr("rank 0, node 1 \"COLL1\""),
                                       HasSubstr("process group 5, which is "
                                                 "defined neither"))));
  EXPECT_THAT(Check(ranks, {{5, {1}}}),
              StatusIs(kInvalid, HasSubstr("of which its rank is no member")));
}

}  // namespace
}  // namespace strata::chakra
