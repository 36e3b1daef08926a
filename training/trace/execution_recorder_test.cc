// What a recorder makes of calls and operators, by a clock of the test's own.

#include "training/trace/execution_recorder.h"

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "core/parallel/thread_communicator.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/check.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A rank of a test, with its clock.
struct TestRank {
  explicit TestRank(Communicator& group)
      : recorder(group.rank(), [this] { return now; }),
        world(Observed(group, recorder)) {}

  void RunNode(const Node& node, double microseconds, const Cost& cost) {
    recorder.Begin(node);
    now += 1e-6 * microseconds;
    recorder.End(node, cost);
  }

  double now = 5;
  ExecutionRecorder recorder;
  std::unique_ptr<Communicator> world;
};

absl::StatusOr<chakra::RankTrace> Load(int rank, const std::string& bytes) {
  absl::StatusOr<chakra::TraceReader> reader =
      chakra::TraceReader::FromBytes(chakra::TracePath("t", rank), bytes);
  if (!reader.ok()) return reader.status();
  return chakra::LoadRank(*std::move(reader));
}

class ExecutionRecorderTest : public ::testing::Test {
 protected:
  ExecutionRecorderTest() {
    op_.name = "Product";
    node_.op = &op_;
    node_.scope = "layer";
  }

  // What `body` does as each of `size` ranks, as a workload that fits together.
  template <typename Body>
  chakra::Workload Record(int size, const Body& body) {
    const auto group = ThreadCommunicators(size, absl::Seconds(60));
    std::vector<std::string> bytes(size);
    std::vector<std::thread> threads;
    for (int r = 0; r < size; ++r) {
      threads.emplace_back([&, r] {
        TestRank rank(*group[r]);
        body(rank);
        rank.recorder.Stop();
        bytes[r] = rank.recorder.Serialize();
      });
    }
    for (std::thread& thread : threads) thread.join();
    chakra::Workload workload;
    for (int r = 0; r < size; ++r) {
      auto trace = Load(r, bytes[r]);
      EXPECT_THAT(trace, IsOk());
      workload.ranks.push_back(*std::move(trace));
    }
    EXPECT_THAT(chakra::CheckWorkload(workload, chakra::TraceRules::kReplay),
                IsOk());
    return workload;
  }

  OpDef op_ = {};
  Node node_;
};

TEST_F(ExecutionRecorderTest, OperatorsAndWhatIsBetweenThem) {
  const chakra::Workload workload = Record(1, [&](TestRank& rank) {
    rank.RunNode(node_, 100, {});  // Before Start().
    rank.recorder.Start();
    rank.now += 7.6e-6;
    rank.RunNode(node_, 20,
                 {/*flops=*/300, /*bytes_read=*/40,
                  /*bytes_written=*/2});
    rank.RunNode(node_, 0.3, {});  // Less than a microsecond: none.
    rank.RunNode(node_, 5, {});
    EXPECT_NEAR(rank.now - 5, 132.9e-6, 1e-9);
  });
  const std::vector<chakra::TraceNode>& nodes = workload.ranks[0].nodes;
  ASSERT_THAT(nodes, SizeIs(3));
  EXPECT_EQ(nodes[0].name, "host");
  EXPECT_TRUE(nodes[0].is_cpu_op);
  EXPECT_EQ(nodes[0].duration_us, 7);
  EXPECT_EQ(nodes[1].name, "Product layer");
  EXPECT_FALSE(nodes[1].is_cpu_op);
  EXPECT_EQ(nodes[1].duration_us, 20);
  EXPECT_EQ(nodes[1].num_ops, 300);
  EXPECT_EQ(nodes[1].tensor_bytes, 42);
  EXPECT_THAT(nodes[1].parents, ElementsAre(0));
  // 32.9 less 27: what was cut off before is in it.
  EXPECT_EQ(nodes[2].duration_us, 5);
  EXPECT_THAT(nodes[2].parents, ElementsAre(1));
}

TEST_F(ExecutionRecorderTest, NobodyWaitsForASend) {
  const chakra::Workload workload = Record(2, [&](TestRank& rank) {
    rank.recorder.Start();
    std::vector<float> data(6);
    const Payload payload = PayloadOf(absl::MakeSpan(data));
    if (rank.world->rank() == 0) {
      rank.RunNode(node_, 10, {});
      ASSERT_THAT(rank.world->Send(payload, 1), IsOk());
      rank.RunNode(node_, 10, {});
    } else {
      ASSERT_THAT(rank.world->Receive(payload, 0), IsOk());
      rank.RunNode(node_, 30, {});
    }
  });
  const std::vector<chakra::TraceNode>& sender = workload.ranks[0].nodes;
  ASSERT_THAT(sender, SizeIs(3));
  EXPECT_EQ(sender[1].type, ChakraProtoMsg::COMM_SEND_NODE);
  EXPECT_EQ(sender[1].comm_bytes, 24);
  EXPECT_THAT(sender[1].parents, ElementsAre(0));
  EXPECT_THAT(sender[2].parents, ElementsAre(0));
  const std::vector<chakra::TraceNode>& receiver = workload.ranks[1].nodes;
  ASSERT_THAT(receiver, SizeIs(2));
  EXPECT_EQ(receiver[0].type, ChakraProtoMsg::COMM_RECV_NODE);
  EXPECT_THAT(receiver[0].parents, IsEmpty());
  EXPECT_THAT(receiver[1].parents, ElementsAre(0));
}

// Two sums of a lane beside three operators, of which the last waits for both.
TEST_F(ExecutionRecorderTest, WhatRunsBesideOthersIsBesideThem) {
  Node sum;
  sum.op = &op_;
  sum.attrs = {{"group", std::string("world")}};
  const chakra::Workload workload = Record(2, [&](TestRank& rank) {
    rank.recorder.Start();
    rank.RunNode(node_, 10, {});  // 0
    rank.recorder.Start(sum, {});
    rank.RunNode(node_, 10, {});  // 1
    rank.recorder.Start(sum, {});
    rank.RunNode(node_, 10, {});  // 2
    std::thread lane([&] {
      std::vector<float> data(6);
      for (int i = 0; i < 2; ++i) {  // 3, 4
        ASSERT_THAT(rank.world->AllReduce(PayloadOf(absl::MakeSpan(data)),
                                          ReduceOp::kSum),
                    IsOk());
      }
    });
    lane.join();
    for (int i = 0; i < 2; ++i) {
      rank.recorder.Wait(sum);
      rank.recorder.Join(sum);
    }
    rank.RunNode(node_, 10, {});  // 5
  });
  for (const chakra::RankTrace& trace : workload.ranks) {
    const std::vector<chakra::TraceNode>& nodes = trace.nodes;
    ASSERT_THAT(nodes, SizeIs(6));
    EXPECT_THAT(nodes[2].parents, ElementsAre(1));
    EXPECT_EQ(nodes[3].type, ChakraProtoMsg::COMM_COLL_NODE);
    EXPECT_THAT(nodes[3].parents, ElementsAre(0));
    EXPECT_THAT(nodes[4].parents, ElementsAre(1, 3));
    EXPECT_THAT(nodes[5].parents, ElementsAre(2, 3, 4));
  }
}

TEST_F(ExecutionRecorderTest, CollectivesInTheirGroups) {
  const chakra::Workload workload = Record(4, [&](TestRank& rank) {
    const int number = rank.world->rank();
    // {0, 2} and {1, 3}; and groups of one, which send nothing.
    const auto pair = rank.world->Split(number % 2, number, "pair");
    const auto alone = rank.world->Split(number, 0, "alone");
    ASSERT_THAT(pair, IsOk());
    ASSERT_THAT(alone, IsOk());
    rank.recorder.Start();
    std::vector<float> data(6);
    const Payload payload = PayloadOf(absl::MakeSpan(data));
    ASSERT_THAT(rank.world->AllReduce(payload, ReduceOp::kSum), IsOk());
    ASSERT_THAT((*alone)->AllReduce(payload, ReduceOp::kSum), IsOk());
    ASSERT_THAT((*pair)->Broadcast(payload, /*root=*/1), IsOk());
    ASSERT_THAT(
        (*pair)->AllGather({data.data(), 3, DType::kF32}, {3, 3}, payload),
        IsOk());
    ASSERT_THAT(rank.world->Barrier(), IsOk());
  });
  for (int r = 0; r < 4; ++r) {
    const chakra::RankTrace& rank = workload.ranks[r];
    ASSERT_THAT(rank.nodes, SizeIs(5));  // One says who is in the pair.
    EXPECT_EQ(rank.nodes[1].comm_type, ChakraProtoMsg::ALL_REDUCE);
    EXPECT_EQ(rank.nodes[1].comm_bytes, 24);
    EXPECT_EQ(rank.nodes[1].group, 0);
    EXPECT_EQ(rank.nodes[2].comm_type, ChakraProtoMsg::BROADCAST);
    EXPECT_THAT(rank.groups.at(rank.nodes[2].group),
                ElementsAre(r % 2, r % 2 + 2));
    EXPECT_EQ(rank.nodes[3].comm_type, ChakraProtoMsg::ALL_GATHER);
    EXPECT_EQ(rank.nodes[3].comm_bytes, 12);  // A shard.
    EXPECT_EQ(rank.nodes[4].comm_type, ChakraProtoMsg::BARRIER);
  }
  EXPECT_NE(workload.ranks[0].nodes[2].group, workload.ranks[1].nodes[2].group);
}

// Uneven and empty pieces: a message for each that is not empty.
TEST_F(ExecutionRecorderTest, AnAllToAllIsMessages) {
  const chakra::Workload workload = Record(3, [&](TestRank& rank) {
    rank.recorder.Start();
    rank.RunNode(node_, 10, {});
    // From r to s r + s elements, none to oneself or from 0 to 1.
    const int r = rank.world->rank();
    std::vector<int64_t> send(3), receive(3);
    for (int s = 0; s < 3; ++s) {
      send[s] = r == s || (r == 0 && s == 1) ? 0 : r + s;
      receive[s] = r == s || (s == 0 && r == 1) ? 0 : r + s;
    }
    std::vector<double> in(send[0] + send[1] + send[2]);
    std::vector<double> out(receive[0] + receive[1] + receive[2]);
    ASSERT_THAT(rank.world->AllToAll(PayloadOf(absl::MakeSpan(in)), send,
                                     receive, PayloadOf(absl::MakeSpan(out))),
                IsOk());
    rank.RunNode(node_, 10, {});
  });
  const auto kinds = [&](int r) {
    std::vector<std::string> kinds;
    for (const chakra::TraceNode& node : workload.ranks[r].nodes) {
      kinds.push_back(node.name);
    }
    return kinds;
  };
  const std::string product = "Product layer", exchange = "AllToAll world";
  EXPECT_THAT(kinds(0),
              ElementsAre(product, exchange, exchange, exchange, product));
  EXPECT_EQ(workload.ranks[0].nodes[1].comm_dst, 2);
  EXPECT_EQ(workload.ranks[0].nodes[1].comm_bytes, 16);
  // It goes on when all has come.
  EXPECT_THAT(workload.ranks[0].nodes[4].parents, ElementsAre(2, 3));
  EXPECT_THAT(kinds(1),
              ElementsAre(product, exchange, exchange, exchange, product));
  EXPECT_THAT(kinds(2), ElementsAre(product, exchange, exchange, exchange,
                                    exchange, product));
}

}  // namespace
}  // namespace strata
