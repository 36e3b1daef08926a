#include "sim/replay/machine_times.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"
#include "sim/engine/time.h"
#include "sim/replay/replay.h"

namespace strata::sim {
namespace {

using ::strata::chakra::CollectiveNode;
using ::strata::chakra::ComputeNode;
using ::strata::chakra::Nodes;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// 40 us and FLOPs at 2 GFLOP/s, or bytes at 1 GB/s.
constexpr double kProductSeconds = 40e-6;
constexpr double kSecondsPerFlop = 1 / 2e9;
constexpr double kSecondsPerByte = 1 / 1e9;

ChakraProtoMsg::Node Computation(uint64_t id, const std::string& name,
                                 double flops, double bytes,
                                 const std::vector<uint64_t>& deps) {
  const double seconds = name == "Product a"
                             ? kProductSeconds + flops * kSecondsPerFlop
                             : bytes * kSecondsPerByte;
  ChakraProtoMsg::Node node =
      ComputeNode(id, static_cast<uint64_t>(std::llround(1e6 * seconds)), deps);
  node.set_name(name);
  chakra::AddInt64(node, "num_ops", static_cast<int64_t>(flops));
  chakra::AddInt64(node, "tensor_size", static_cast<int64_t>(bytes));
  return node;
}

// A rank that multiplies, copies and sums over two, sizes times `size`. A sum
// takes 20 us and 10 ns a byte; `wait` us of it are for the other rank.
Nodes Rank(double size, uint64_t wait) {
  Nodes nodes;
  nodes.push_back(Computation(0, "Product a", 1e6 * size, 3e4 * size, {}));
  nodes.push_back(Computation(1, "Copy b", 0, 2e5 * size, {0}));
  const auto bytes = static_cast<int64_t>(1e4 * size);
  nodes.push_back(
      CollectiveNode(2, ChakraProtoMsg::ALL_REDUCE, bytes, {1}, ""));
  nodes.back().set_duration_micros(wait + 20 +
                                   static_cast<uint64_t>(bytes) / 100);
  return nodes;
}

chakra::Workload Workload(double size) {
  auto workload = chakra::ToWorkload({Rank(size, 0), Rank(size, 500)});
  EXPECT_THAT(workload, IsOk());
  return *workload;
}

TEST(MachineTimesTest, PredictsSizesThatItHasNotSeen) {
  const auto times = FitMachineTimes({Workload(1), Workload(2), Workload(8)});
  ASSERT_THAT(times, IsOk());
  const OperatorTime& product = times->operators.at("Product");
  EXPECT_NEAR(times->operators.at("Copy").seconds_per_byte, kSecondsPerByte,
              1e-2 * kSecondsPerByte);
  EXPECT_NEAR(product.seconds, kProductSeconds, 1e-6);
  // Two steps and as many bytes as there are.
  EXPECT_NEAR(times->step_seconds, 10e-6, 0.2e-6);
  EXPECT_NEAR(times->seconds_per_byte, 10e-9, 0.2e-9);

  chakra::Workload other = Workload(5);
  for (chakra::TraceNode& node : other.ranks[0].nodes) node.duration_us = 1;
  for (chakra::TraceNode& node : other.ranks[1].nodes) node.duration_us = 1;
  EXPECT_EQ(SetOperatorTimes(*times, other), 0);
  const auto cluster = MachineCluster(*times, 2);
  ASSERT_THAT(cluster, IsOk());
  const auto result = ReplayTraces(other, *cluster, {});
  ASSERT_THAT(result, IsOk());
  const double want = kProductSeconds + 5e6 * kSecondsPerFlop +
                      1e6 * kSecondsPerByte + 20e-6 + 5e4 * 10e-9;
  EXPECT_NEAR(static_cast<double>(result->total) * 1e-12, want, 0.01 * want);
}

TEST(MachineTimesTest, OperatorsThatNobodyMeasuredKeepTheirTime) {
  const auto times = FitMachineTimes({Workload(1), Workload(2)});
  ASSERT_THAT(times, IsOk());
  chakra::Workload other = Workload(1);
  for (chakra::RankTrace& rank : other.ranks) rank.nodes[1].name = "Sort c";
  const uint64_t before = other.ranks[0].nodes[1].duration_us;
  // 200 us of a product's 540 and these.
  EXPECT_NEAR(SetOperatorTimes(*times, other), 200.0 / 740, 1e-9);
  EXPECT_EQ(other.ranks[0].nodes[1].duration_us, before);
}

TEST(MachineTimesTest, ComesBackFromJson) {
  const auto times = FitMachineTimes({Workload(1), Workload(2)});
  ASSERT_THAT(times, IsOk());
  const auto read = ParseMachineTimes(ToJson(*times), "m.json");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(ToJson(*read), ToJson(*times));
}

TEST(MachineTimesTest, WhatIsNoCalibrationIsAnError) {
  for (const char* const text :
       {"", "[]", "{}", R"({"operators": [], "network": {}})",
        R"({"operators": {}, "network": 1})",
        R"({"operators": {"A": 1},
            "network": {"step_seconds": 0, "seconds_per_byte": 0}})",
        R"({"operators": {"A": {"seconds": -1, "seconds_per_flop": 0,
                                "seconds_per_byte": 0}},
            "network": {"step_seconds": 0, "seconds_per_byte": 0}})"}) {
    EXPECT_THAT(ParseMachineTimes(text, "m.json"),
                StatusIs(kInvalid, HasSubstr("m.json")))
        << text;
  }
  EXPECT_THAT(FitMachineTimes({}), StatusIs(kInvalid, HasSubstr("duration")));
}

}  // namespace
}  // namespace strata::sim
