#include "sim/report/replay_report.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/replay/replay.h"
#include "sim/replay/replay_summary.h"
#include "sim/report/step_report.h"

namespace strata::sim {
namespace {

using ::strata::chakra::CollectiveNode;
using ::strata::chakra::ComputeNode;
using ::strata::chakra::Nodes;
using ::strata::chakra::RecvNode;
using ::strata::chakra::SendNode;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class ReplayReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ChakraProtoMsg::Node named = ComputeNode(0, 1000);
    named.set_name("<script>\xff\"\x01");  // A trace's names are any bytes.
    Nodes first = {named,
                   CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, 1 << 20, {0}),
                   CollectiveNode(2, ChakraProtoMsg::ALL_TO_ALL, 1 << 20, {0}),
                   SendNode(3, 0, 1, 7, 1 << 20)};
    Nodes second = {ComputeNode(0, 500),
                    CollectiveNode(1, ChakraProtoMsg::ALL_REDUCE, 1 << 20),
                    CollectiveNode(2, ChakraProtoMsg::ALL_TO_ALL, 1 << 20),
                    RecvNode(3, 0, 1, 7, 1 << 20)};
    cluster_ = LoadCluster("h100");
    ASSERT_THAT(cluster_, IsOk());
    workload_ = chakra::ToWorkload({first, second});
    ASSERT_THAT(workload_, IsOk());
    result_ = ReplayTraces(*workload_, *cluster_, {});
    ASSERT_THAT(result_, IsOk());
    report_.traces = "t";
    report_.cluster_name = "h100";
    report_.cluster = &*cluster_;
    report_.result = &*result_;
    report_.summary = Summarise(*result_);
  }

  absl::StatusOr<Cluster> cluster_;
  absl::StatusOr<chakra::Workload> workload_;
  absl::StatusOr<ReplayResult> result_;
  ReplayReport report_;
};

TEST_F(ReplayReportTest, TheSummarySaysWhatAPersonAsks) {
  const std::string text = Summary(report_);
  for (const char* wanted :
       {"time ", "utilisation", "exposed", "cost", "compute", "all-reduce",
        "waiting for late ranks", "critical path: ", "8 GPUs",
        "6 of the 8 GPUs have nothing to do"}) {
    EXPECT_THAT(text, HasSubstr(wanted));
  }
}

TEST_F(ReplayReportTest, JsonIsWhatCompareReads) {
  const Json json = Json::parse(ToJson(report_).dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));

  EXPECT_EQ(json["ranks"].size(), 2);
  double sum = 0;
  for (const Json& part : json["parts"]) sum += part["seconds"].get<double>();
  EXPECT_NEAR(sum, json["seconds"].get<double>(), 1e-12);
  EXPECT_THAT(Compare(json, json), IsOk());
}

// The Trace Event format: complete events have ts and dur in microseconds, and
// those of one thread nest; here none overlaps. A flow's ends have one id.
TEST_F(ReplayReportTest, TheTraceIsATraceEventFile) {
  const Json trace = Json::parse(ChromeTrace(report_));

  std::map<std::pair<int, int>, std::vector<std::pair<double, double>>> slices;
  std::map<int, std::string> flows;
  size_t num_slices = 0;
  for (const Json& event : trace["traceEvents"]) {
    const std::string phase = event["ph"];
    if (phase == "X") {
      ++num_slices;
      const double begin = event["ts"];
      slices[{event["pid"], event["tid"]}].push_back(
          {begin, begin + event["dur"].get<double>()});
      EXPECT_GE(event["dur"].get<double>(), 0);
    } else if (phase == "M") {
      EXPECT_TRUE(event.contains("args"));
    } else {
      flows[event["id"]] += phase;
    }
  }
  EXPECT_EQ(num_slices, result_->times.size());
  ASSERT_EQ(flows.size(), 1);
  EXPECT_EQ(flows.begin()->second, "sf");
  for (auto& [thread, of_thread] : slices) {
    std::sort(of_thread.begin(), of_thread.end());
    for (size_t i = 1; i < of_thread.size(); ++i) {
      EXPECT_GE(of_thread[i].first, of_thread[i - 1].second - 1e-7);
    }
  }
}

TEST_F(ReplayReportTest, ThePageNeedsNothingElse) {
  const std::string html = HtmlReport(report_);
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("Ranks over time"));
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
  EXPECT_THAT(html, Not(HasSubstr("http")));
}

}  // namespace
}  // namespace strata::sim
