#include "sim/collective/link_calibration.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/fit.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kMeasured[] = "sim/cluster/measured/h100_links";

// What nccl_benchmark measures, with the times that `truth` gives.
std::vector<MeasuredCollective> RowsOf(const NodeConfig& truth,
                                       const std::vector<int>& gpus) {
  std::string csv = "device,op_name,nccl_dtype,num_gpus,message_size,latency\n";
  for (const char* op :
       {"all_reduce", "all_gather", "reduce_scatter", "alltoall"}) {
    for (const int n : gpus) {
      for (int64_t bytes = 16 << 10; bytes <= 1 << 30; bytes *= 4) {
        absl::StrAppend(&csv, "NVIDIA H100 80GB HBM3,", op, ",int8,", n, ",",
                        bytes, ",1\n");
      }
    }
  }
  std::vector<MeasuredCollective> rows = *ParseMeasurements(csv);
  const std::vector<double> times_us = *PredictAllUs(truth, rows);
  for (size_t i = 0; i < rows.size(); ++i) rows[i].measured_us = times_us[i];
  return rows;
}

// Over all rows.
ErrorSummary Errors(const std::vector<MeasuredCollective>& rows,
                    const std::vector<double>& predicted_us) {
  const auto label = [](const MeasuredCollective& row) { return row.op; };
  return SummarizeErrors(rows, predicted_us, label)[0];
}

TEST(CalibrateLinksTest, FindsConstantsThatMadeTheRows) {
  const NodeConfig preset = *NodePreset("h100");
  NodeConfig truth = preset;
  truth.mutable_nccl()->set_launch_us(7);
  truth.mutable_nccl()->mutable_simple()->set_efficiency(0.7);
  truth.mutable_nccl()->mutable_point_to_point()->set_efficiency(0.5);
  truth.mutable_nccl()->mutable_point_to_point()->set_launch_us(9);
  truth.mutable_nccl()->mutable_point_to_point()->set_channel_gb_per_s(15);
  truth.mutable_nccl()->mutable_point_to_point()->set_ll_part_kib(8);
  const std::vector<MeasuredCollective> rows = RowsOf(truth, {2, 4});

  const auto fit = CalibrateLinks("h100", rows);

  ASSERT_THAT(fit, IsOk());
  EXPECT_GT(Errors(rows, fit->preset_us).median, 0.1);
  EXPECT_EQ(ConstantOf(fit->node, kLlPart), 8);
  // What adds up, as a launch, a cost per peer and a copy at the end, has
  // a valley in which a coordinate search ends: times are held to less than the
  // tenth of constants, and point to point to its rate.
  EXPECT_LT(Errors(rows, fit->fitted_us).median, 0.01);
  EXPECT_LT(Errors(rows, fit->other_sizes_us).median, 0.02);
  EXPECT_LT(Errors(rows, fit->other_gpus_us).median, 0.03);
  for (const char* name : {"nccl.launch_us", "nccl.simple.efficiency",
                           "nccl.point_to_point.efficiency"}) {
    const double want = ConstantOf(truth, name);
    EXPECT_NEAR(ConstantOf(fit->node, name), want, 0.1 * want) << name;
  }
}

TEST(CalibrateLinksTest, LeavesThePresetWhereRowsSayNothingElse) {
  const NodeConfig preset = *NodePreset("h100");
  const std::vector<MeasuredCollective> rows = RowsOf(preset, {4});

  const auto fit = CalibrateLinks("h100", rows);

  ASSERT_THAT(fit, IsOk());
  EXPECT_EQ(fit->node.DebugString(), preset.DebugString());
  EXPECT_EQ(Errors(rows, fit->fitted_us).largest, 0);
  for (const LinkConstant& constant : fit->constants) {
    EXPECT_FALSE(constant.is_fitted) << constant.name;
  }
}

TEST(CalibrateLinksTest, SaysWhatNoRowDependsOn) {
  NodeConfig truth = *NodePreset("h100");
  truth.mutable_nccl()->set_launch_us(7);

  const auto fit = CalibrateLinks("h100", RowsOf(truth, {4}));

  ASSERT_THAT(fit, IsOk());
  EXPECT_EQ(fit->most_gpus, 4);
  // One number of GPUs: none to hold out.
  EXPECT_THAT(fit->other_gpus_us, IsEmpty());
  for (const LinkConstant& constant : fit->constants) {
    if (constant.name == "nccl.launch_us") {
      EXPECT_TRUE(constant.is_fitted);
      EXPECT_EQ(constant.num_rows, 27);  // All but all-to-all's.
    } else if (constant.name == "nccl.in_switch.launch_us" ||
               constant.name == "nccl.simple.net_step_us") {
      EXPECT_FALSE(constant.is_fitted) << constant.name;
      EXPECT_EQ(constant.num_rows, 0) << constant.name;
    }
  }
}

TEST(CalibrateLinksTest, WritesAClusterWithWhatWasFitted) {
  NodeConfig truth = *NodePreset("h100");
  truth.mutable_nccl()->set_launch_us(7);
  // Over one number of GPUs a launch and its steps would only add up.
  const auto fit = CalibrateLinks("a3high", RowsOf(truth, {2, 4}));
  ASSERT_THAT(fit, IsOk());
  const std::string path = ::testing::TempDir() + "/mine.textproto";

  const std::string text = LinkClusterText(*fit, "mine", "First.\n\nLast.");
  ASSERT_THAT(WriteFileAtomically(path, text), IsOk());
  const absl::StatusOr<Cluster> cluster = LoadCluster(path);

  EXPECT_THAT(text, AllOf(HasSubstr("# First.\n#\n# Last.\n"),
                          Not(HasSubstr("in_switch"))));
  ASSERT_THAT(cluster, IsOk());
  EXPECT_EQ(cluster->num_ranks(), 4);
  EXPECT_EQ(cluster->CalibratedKind(0), "h100");
  EXPECT_NEAR(cluster->Node(0).nccl().launch_us(), 7, 0.1);
  EXPECT_EQ(cluster->Node(0).nic().count(), 4);  // a3high's.
}

TEST(CalibrateLinksTest, NamesTheRowThatCannotBe) {
  const std::vector<MeasuredCollective> good = RowsOf(*NodePreset("h100"), {4});
  const auto fail = [&](auto change) {
    std::vector<MeasuredCollective> rows = good;
    change(rows);
    return CalibrateLinks("h100", rows);
  };

  EXPECT_THAT(CalibrateLinks("h300", good),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("h300")));
  EXPECT_THAT(CalibrateLinks("h100", {}),
              StatusIs(kInvalid, HasSubstr("no rows")));
  EXPECT_THAT(
      CalibrateLinks("a100", good),
      StatusIs(kInvalid, HasSubstr("line 2: measured on h100; want a100")));
  EXPECT_THAT(fail([](auto& rows) { rows.resize(2); }),
              StatusIs(kInvalid, HasSubstr("rows of 2 sizes; want 3")));
  EXPECT_THAT(fail([](auto& rows) { rows[3].is_moe = true; }),
              StatusIs(kInvalid, HasSubstr("line 5")));
  EXPECT_THAT(fail([](auto& rows) { rows[4].num_gpus = 1; }),
              StatusIs(kInvalid, HasSubstr("line 6: 1 GPU")));
  // 1 GiB over 450 GB/s is 2386 us: faster is in other units.
  EXPECT_THAT(fail([](auto& rows) { rows[8].measured_us = 2000; }),
              StatusIs(kInvalid, AllOf(HasSubstr("line 10: all_reduce int8"),
                                       HasSubstr("at least 2386"))));
  EXPECT_THAT(fail([](auto& rows) { rows[0].measured_us *= 1000; }),
              StatusIs(kInvalid, AllOf(HasSubstr("line 2"),
                                       HasSubstr("want within 100 times"))));
}

// The file beside the rows is what
//   strata calibrate --collectives h100_links.csv
//       --collectives h100_links_blind.csv --like h100
// makes of them.
TEST(CalibrateLinksTest, MakesTheFileOfTheMeasuredHost) {
  std::vector<MeasuredCollective> rows;
  for (const char* suffix : {".csv", "_blind.csv"}) {
    const auto csv = ReadFile(absl::StrCat(kMeasured, suffix));
    ASSERT_THAT(csv, IsOk());
    const auto more = ParseMeasurements(*csv);
    ASSERT_THAT(more, IsOk());
    rows.insert(rows.end(), more->begin(), more->end());
  }

  const auto fit = CalibrateLinks("h100", rows);
  const auto cluster = LoadCluster(absl::StrCat(kMeasured, ".textproto"));

  ASSERT_THAT(fit, IsOk());
  ASSERT_THAT(cluster, IsOk());
  EXPECT_EQ(cluster->num_ranks(), 4);
  // To what another compiler's last bits may change of a search that takes or
  // leaves a step.
  for (const LinkConstant& constant : fit->constants) {
    EXPECT_NEAR(ConstantOf(cluster->Node(0), constant.name), constant.value,
                0.02 * constant.value)
        << constant.name;
  }
  EXPECT_LT(*MeanLogError(fit->node, rows),
            0.7 * *MeanLogError(*NodePreset("h100"), rows));
}

// Of the rows of another run, which a measured host's file is not fitted to.
ErrorSummary ErrorsOfRun(const std::string& suffix) {
  const auto csv = ReadFile(absl::StrCat(kMeasured, suffix));
  EXPECT_THAT(csv, IsOk());
  const auto rows = ParseMeasurements(*csv);
  EXPECT_THAT(rows, IsOk());
  const auto cluster = LoadCluster(absl::StrCat(kMeasured, ".textproto"));
  EXPECT_THAT(cluster, IsOk());
  const auto predicted_us = PredictAllUs(cluster->Node(0), *rows);
  EXPECT_THAT(predicted_us, IsOk());
  return Errors(*rows, *predicted_us);
}

TEST(CalibrateLinksTest, TheMeasuredHostsFilePredictsOtherRuns) {
  const ErrorSummary first = ErrorsOfRun("_first.csv");
  EXPECT_EQ(first.count, 72);
  EXPECT_LT(first.median, 0.03);
  EXPECT_LT(first.percentile_90, 0.1);
  // Uneven exchanges and rings of messages too, of sizes without fits.
  const ErrorSummary third = ErrorsOfRun("_third.csv");
  EXPECT_EQ(third.count, 126);
  EXPECT_LT(third.median, 0.03);
  EXPECT_LT(third.percentile_90, 0.09);
}

}  // namespace
}  // namespace strata::sim
