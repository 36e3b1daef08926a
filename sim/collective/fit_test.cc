#include "sim/collective/fit.h"

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

// All-gathers of all sizes, with the times that the preset gives.
std::vector<MeasuredCollective> MadeUpMeasurements() {
  std::string csv = "device,op_name,nccl_dtype,num_gpus,message_size,latency\n";
  for (const int gpus : {2, 8}) {
    for (double elements = 256; elements < 1e9; elements *= 8) {
      absl::StrAppend(&csv, "H100,all_gather,half,", gpus, ",", elements,
                      ",1\n");
    }
  }
  std::vector<MeasuredCollective> rows = *ParseMeasurements(csv);
  const std::vector<double> times_us = *PredictAllUs(rows);
  for (size_t i = 0; i < rows.size(); ++i) rows[i].measured_us = times_us[i];
  return rows;
}

TEST(FitTest, FindsConstantsThatExplainTheMeasurements) {
  const std::vector<MeasuredCollective> rows = MadeUpMeasurements();
  const NodeConfig truth = *NodePreset("h100");
  NodeConfig start = truth;
  start.mutable_nccl()->set_launch_us(2 * truth.nccl().launch_us());
  NcclConstants::Protocol* simple = start.mutable_nccl()->mutable_simple();
  simple->set_efficiency(0.6 * truth.nccl().simple().efficiency());

  const absl::StatusOr<NodeConfig> fitted = FitConstants(start, rows, 15);

  ASSERT_THAT(fitted, IsOk());
  EXPECT_EQ(*MeanLogError(truth, rows), 0);
  EXPECT_GT(*MeanLogError(start, rows), 0.2);
  EXPECT_LT(*MeanLogError(*fitted, rows), 0.03);
  // What all-gathers do not depend on is as it was.
  EXPECT_EQ(fitted->nccl().point_to_point().launch_us(),
            truth.nccl().point_to_point().launch_us());
  EXPECT_EQ(fitted->deep_ep().DebugString(), truth.deep_ep().DebugString());
}

TEST(FitTest, LeavesWhatFitsAlone) {
  const std::vector<MeasuredCollective> rows = MadeUpMeasurements();
  const NodeConfig truth = *NodePreset("h100");

  const absl::StatusOr<NodeConfig> fitted = FitConstants(truth, rows, 2);

  ASSERT_THAT(fitted, IsOk());
  EXPECT_EQ(fitted->DebugString(), truth.DebugString());
}

TEST(FitTest, SaysWhichNodeCannotBe) {
  NodeConfig node = *NodePreset("h100");
  node.mutable_nccl()->mutable_ll()->set_efficiency(2);

  EXPECT_THAT(FitConstants(node, MadeUpMeasurements(), 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("nccl.ll.efficiency is 2")));
}

}  // namespace
}  // namespace strata::sim
