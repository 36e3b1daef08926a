#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sim/report/chrome_trace.h"
#include "sim/report/html_report.h"
#include "sim/report/step_report.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ReportTest : public ::testing::Test {
 protected:
  StepReport Make(const std::string& layout, const std::string& schedule) {
    StepReport report;
    report.scenario.model =
        "layers=8 hidden=512 heads=8 vocab=8000 experts=8 top_k=2 "
        "expert_ffn=512";
    report.scenario.cluster = "h100";
    report.scenario.layout = layout;
    report.scenario.schedule = schedule;
    report.inputs = *simulator_.Inputs(report.scenario);
    absl::StatusOr<StepResult> result = simulator_.Run(report.scenario);
    EXPECT_THAT(result, IsOk());
    report.result = *std::move(result);
    return report;
  }

  Simulator simulator_;
};

TEST_F(ReportTest, TheSummarySaysWhatAPersonAsks) {
  const std::string text = Summary(Make("pp4,ep2,gbs32,seq1024", "1f1b"));
  for (const char* wanted :
       {"step", "tokens/s/GPU", "MFU", "memory        fits", "pipeline idle",
        "critical path", "8 x "}) {
    EXPECT_THAT(text, HasSubstr(wanted));
  }
}

TEST_F(ReportTest, TheTraceHasASliceForEveryItem) {
  const StepReport report = Make("pp4,ep2,gbs32,seq1024", "dualpipe");
  const nlohmann::json trace =
      nlohmann::json::parse(ChromeTrace(report.result));
  size_t slices = 0;
  std::map<int, double> end;  // By stage; slices come in order.
  for (const nlohmann::json& event : trace["traceEvents"]) {
    if (event["ph"] == "X" && !event["args"].empty()) ++slices;
    if (event["ph"] != "X") continue;
    // Within the rounding of a sum of doubles, no slice reaches into the next.
    EXPECT_GE(event["ts"].get<double>(), end[event["pid"]] - 1e-6);
    end[event["pid"]] = event["ts"].get<double>() + event["dur"].get<double>();
  }
  size_t items = 0;
  for (const auto& device : report.result.schedule.items) {
    items += device.size();
  }
  EXPECT_EQ(slices, items);
}

TEST_F(ReportTest, ThePageNeedsNothingElse) {
  StepReport report = Make("pp4,ep2,gbs32,seq1024", "zb1p");
  report.result.warnings.push_back("<script>");
  BalancePoint point;
  point.spread_static = 0.2;
  const std::string html = HtmlReport(report, {point, point});
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("Spread of utilisation"));
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
  EXPECT_THAT(html, Not(HasSubstr("http")));
}

TEST_F(ReportTest, ComparingNamesWhatDiffersAndWhy) {
  const nlohmann::json a = ToJson(Make("pp4,ep2,gbs32,seq1024", "gpipe"));
  const nlohmann::json b = ToJson(Make("pp4,ep2,gbs32,seq1024", "zb1p"));

  const absl::StatusOr<std::string> text = Compare(a, b);

  ASSERT_THAT(text, IsOk());
  EXPECT_THAT(*text, HasSubstr("schedule: \"gpipe\" -> \"zb1p\""));
  EXPECT_THAT(*text, HasSubstr("pipeline idle"));
  EXPECT_THAT(*text, Not(HasSubstr("layout:")));
}

TEST_F(ReportTest, ComparingRejectsWhatIsNoResult) {
  const nlohmann::json a = ToJson(Make("ep8,gbs8,seq1024", "1f1b"));
  EXPECT_THAT(Compare(a, nlohmann::json::object()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no number \"seconds\"")));
  nlohmann::json broken = a;
  broken["parts"] = 3;
  EXPECT_THAT(Compare(a, broken), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("no list \"parts\"")));
  broken["parts"] = {3};
  EXPECT_THAT(Compare(a, broken), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("has no name")));
}

}  // namespace
}  // namespace strata::sim
