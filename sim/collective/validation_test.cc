#include "sim/collective/validation.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/collective/collective.h"
#include "sim/collective/moe_dispatch.h"

namespace strata::sim {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

constexpr char kNcclColumns[] =
    "framework,version,device,op_name,kernel_source,nccl_dtype,num_gpus,"
    "message_size,latency\n";
constexpr char kLowLatencyColumns[] =
    "device,node_num,hidden_size,num_token,num_topk,num_experts,"
    "combine_avg_t_us,dispatch_avg_t_us\n";
constexpr char kNormalColumns[] =
    "device,node_num,hidden_size,num_token,num_topk,num_experts,dispatch_sms,"
    "dispatch_transmit_us,combine_sms,combine_transmit_us\n";

std::string Nccl(const std::string& fields) {
  return absl::StrCat(kNcclColumns, "x,2.29,", fields);
}

TEST(ParseMeasurementsTest, ReadsNccl) {
  const absl::StatusOr<std::vector<MeasuredCollective>> rows =
      ParseMeasurements(
          Nccl("NVIDIA H100 80GB HBM3,all_reduce,NCCL,half,8,1024,0.0157\n"
               "x,2.29,NVIDIA A100-SXM4,alltoall,NCCL,int8,2,512,0.0105\r\n"));

  ASSERT_THAT(rows, IsOk());
  ASSERT_THAT(*rows, SizeIs(2));
  const MeasuredCollective& first = (*rows)[0];
  EXPECT_EQ(first.line, 2);
  EXPECT_EQ(first.node_kind, "h100");
  EXPECT_EQ(first.op, "all_reduce half");
  EXPECT_EQ(first.collective.kind, CollectiveKind::kAllReduce);
  EXPECT_EQ(first.num_gpus, 8);
  EXPECT_EQ(first.bytes, 2048);
  EXPECT_NEAR(first.measured_us, 15.7, 1e-9);
  EXPECT_TRUE(first.collective.in_switch_type);
  const MeasuredCollective& second = (*rows)[1];
  EXPECT_EQ(second.node_kind, "a100");
  EXPECT_EQ(second.bytes, 512);
  EXPECT_FALSE(second.collective.in_switch_type);
}

TEST(ParseMeasurementsTest, ReadsUnevenExchangesAndRingsOfMessages) {
  const absl::StatusOr<std::vector<MeasuredCollective>> rows =
      ParseMeasurements(
          Nccl("NVIDIA H100,alltoallv:0.75:0.25,NCCL,int8,2,1000,0.1\n"
               "x,2.29,NVIDIA H100,sendrecv,NCCL,int8,3,512,0.1\n"));

  ASSERT_THAT(rows, IsOk());
  ASSERT_THAT(*rows, SizeIs(2));
  EXPECT_EQ((*rows)[0].op, "alltoallv int8");
  EXPECT_EQ((*rows)[0].collective.kind, CollectiveKind::kAllToAllV);
  EXPECT_THAT((*rows)[0].bytes_matrix, ElementsAre(750, 250, 750, 250));
  EXPECT_EQ((*rows)[1].op, "sendrecv int8");
  EXPECT_THAT((*rows)[1].bytes_matrix,
              ElementsAre(0, 512, 0, 0, 0, 512, 512, 0, 0));
  EXPECT_THAT(PredictAllUs(*rows), IsOk());
}

TEST(ParseMeasurementsTest, WantsAShareOfEachRank) {
  for (const char* op : {"alltoallv:0.5", "alltoallv:0.5:0.2", "alltoallv:1:x",
                         "alltoallv:-1:2", "alltoallv:nan:1"}) {
    EXPECT_THAT(ParseMeasurements(Nccl(
                    absl::StrCat("NVIDIA H100,", op, ",NCCL,int8,2,9,0.1\n"))),
                StatusIs(kInvalid, AllOf(HasSubstr("line 2"),
                                         HasSubstr("want 2 that add up to 1"))))
        << op;
  }
}

TEST(ParseMeasurementsTest, ReadsBothOfDeepEp) {
  const auto low = ParseMeasurements(absl::StrCat(
      kLowLatencyColumns, "NVIDIA H200,1,7168,128,8,256,67.7,35.1\n"));
  ASSERT_THAT(low, IsOk());
  ASSERT_THAT(*low, SizeIs(2));
  EXPECT_EQ((*low)[0].op, "DeepEP low latency dispatch");
  EXPECT_EQ((*low)[0].measured_us, 35.1);
  EXPECT_EQ((*low)[1].op, "DeepEP low latency combine");
  EXPECT_EQ((*low)[1].measured_us, 67.7);
  EXPECT_TRUE((*low)[1].is_combine);
  EXPECT_EQ((*low)[1].moe.kernel, MoeKernel::kLowLatency);

  const auto normal = ParseMeasurements(absl::StrCat(
      kNormalColumns, "NVIDIA H100,2,7168,4096,8,256,12,740,20,1414\n"));
  ASSERT_THAT(normal, IsOk());
  ASSERT_THAT(*normal, SizeIs(2));
  EXPECT_EQ((*normal)[0].num_gpus, 16);
  EXPECT_EQ((*normal)[0].moe.num_sms, 12);
  EXPECT_EQ((*normal)[1].moe.num_sms, 20);
  EXPECT_EQ((*normal)[1].measured_us, 1414);
}

TEST(ParseMeasurementsTest, NamesTheLineAndWhatItWants) {
  EXPECT_THAT(ParseMeasurements(""), StatusIs(kInvalid, HasSubstr("no line")));
  EXPECT_THAT(ParseMeasurements("a,b,c\n1,2,3\n"),
              StatusIs(kInvalid, HasSubstr("columns of neither")));
  EXPECT_THAT(ParseMeasurements(Nccl("NVIDIA H100,all_reduce,NCCL,half,8\n")),
              StatusIs(kInvalid, HasSubstr("line 2 has 7 fields; want 9")));
  EXPECT_THAT(
      ParseMeasurements(Nccl("NVIDIA V100,all_reduce,NCCL,half,8,1,1\n")),
      StatusIs(kInvalid, AllOf(HasSubstr("line 2: device is \"NVIDIA V100\""),
                               HasSubstr("a100"))));
  EXPECT_THAT(ParseMeasurements(Nccl("NVIDIA H100,reduce,NCCL,half,8,1,1\n")),
              StatusIs(kInvalid, HasSubstr("op_name is \"reduce\"")));
  EXPECT_THAT(
      ParseMeasurements(Nccl("NVIDIA H100,all_reduce,NCCL,fp8,8,1,1\n")),
      StatusIs(kInvalid, HasSubstr("nccl_dtype is \"fp8\"")));
  EXPECT_THAT(
      ParseMeasurements(Nccl("NVIDIA H100,all_reduce,NCCL,half,9,1,1\n")),
      StatusIs(kInvalid, HasSubstr("num_gpus is \"9\"")));
  EXPECT_THAT(
      ParseMeasurements(Nccl("NVIDIA H100,all_reduce,NCCL,half,8,-1,1\n")),
      StatusIs(kInvalid, HasSubstr("message_size is \"-1\"")));
  EXPECT_THAT(
      ParseMeasurements(Nccl("NVIDIA H100,all_reduce,NCCL,half,8,1,nan\n")),
      StatusIs(kInvalid, HasSubstr("latency is \"nan\"")));
  EXPECT_THAT(ParseMeasurements(absl::StrCat(
                  kLowLatencyColumns, "NVIDIA H200,1,7168,x,8,256,1,1\n")),
              StatusIs(kInvalid, HasSubstr("num_token is \"x\"")));
  EXPECT_THAT(ParseMeasurements(absl::StrCat(
                  kNormalColumns, "NVIDIA H200,1,7168,1,8,256,0,1,1,1\n")),
              StatusIs(kInvalid, HasSubstr("dispatch_sms is \"0\"")));
}

// Any bytes: an answer or an error, no crash.
TEST(ParseMeasurementsTest, SurvivesDamage) {
  const std::string whole =
      absl::StrCat(Nccl("NVIDIA H100,all_reduce,NCCL,half,8,1024,0.0157\n"),
                   "x,2.29,NVIDIA H100,alltoall,NCCL,int8,2,512,0.0105\n");
  Random random(/*seed=*/1, /*stream=*/0);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = whole.substr(0, random.UniformInt(whole.size() + 1));
    for (uint64_t n = random.UniformInt(4); n > 0 && !damaged.empty(); --n) {
      damaged[random.UniformInt(damaged.size())] = random.UniformInt(256);
    }
    const auto rows = ParseMeasurements(damaged);
    if (rows.ok()) {
      EXPECT_LE(rows->size(), 3);
    }
  }
}

TEST(PredictTest, SaysWhichLineCannotBe) {
  // 256 experts do not divide over 24 GPUs.
  const auto rows = ParseMeasurements(absl::StrCat(
      kLowLatencyColumns, "NVIDIA H200,3,7168,128,8,256,67.7,35.1\n"));
  ASSERT_THAT(rows, IsOk());

  EXPECT_THAT(
      PredictAllUs(*rows),
      StatusIs(kInvalid, AllOf(HasSubstr("line 2"), HasSubstr("24 ranks"))));
}

// Some of the measured rows, one of each regime. The model is fitted to all of
// them with a median error of 3 to 5 %; a tenth has more than 15 %, so single
// rows are held to 25 %: twice off, as by a wrong unit, fails.
TEST(PredictTest, IsNearMeasurements) {
  const std::string csv = absl::StrCat(
      Nccl("NVIDIA H100 80GB HBM3,all_reduce,NCCL,half,8,1024,0.0157\n"),
      "x,2.29,NVIDIA H100 80GB HBM3,all_reduce,NCCL,half,8,268435456,2.1111\n",
      "x,2.29,NVIDIA H100 80GB HBM3,all_reduce,NCCL,int8,8,536870912,2.6775\n",
      "x,2.29,NVIDIA H100 80GB HBM3,all_gather,NCCL,half,2,268435456,1.0386\n",
      "x,2.29,NVIDIA H100 80GB HBM3,all_gather,NCCL,half,8,1048576,0.0222\n",
      "x,2.29,NVIDIA H100 80GB HBM3,alltoall,NCCL,half,4,268435456,1.397\n",
      "x,2.29,NVIDIA H200,reduce_scatter,NCCL,half,8,268435456,1.3933\n",
      "x,2.27,NVIDIA A100-SXM4-80GB,all_gather,NCCL,half,8,268435456,2.288\n",
      "x,2.27,NVIDIA A100-SXM4-80GB,all_reduce,NCCL,half,2,256,0.010\n");
  const auto rows = ParseMeasurements(csv);
  ASSERT_THAT(rows, IsOk());

  const auto predicted = PredictAllUs(*rows);

  ASSERT_THAT(predicted, IsOk());
  for (size_t i = 0; i < rows->size(); ++i) {
    const double measured = (*rows)[i].measured_us;
    EXPECT_NEAR((*predicted)[i], measured, 0.25 * measured)
        << "line " << (*rows)[i].line;
  }
}

TEST(SummarizeErrorsTest, GivesMediansByLabel) {
  std::vector<MeasuredCollective> rows(4);
  for (MeasuredCollective& row : rows) row.measured_us = 100;
  rows[3].op = "b";
  for (int i = 0; i < 3; ++i) rows[i].op = "a";

  const std::vector<ErrorSummary> summaries =
      SummarizeErrors(rows, std::vector<double>{110, 80, 100, 150},
                      [](const MeasuredCollective& row) { return row.op; });

  ASSERT_THAT(summaries, SizeIs(3));
  EXPECT_EQ(summaries[0].label, "all");
  EXPECT_EQ(summaries[0].count, 4);
  // 0, 0.1, 0.2, 0.5: the mean of the middle two.
  EXPECT_NEAR(summaries[0].median, 0.15, 1e-12);
  EXPECT_NEAR(summaries[0].largest, 0.5, 1e-12);
  EXPECT_EQ(summaries[1].label, "a");
  EXPECT_NEAR(summaries[1].median, 0.1, 1e-12);
  EXPECT_EQ(summaries[2].label, "b");
  EXPECT_NEAR(summaries[2].median, 0.5, 1e-12);
}

}  // namespace
}  // namespace strata::sim
