#include "training/demo/report.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::DoubleNear;

DemoRun RunWith(double bits_per_byte) {
  DemoRun run;
  run.validation.bits_per_byte = bits_per_byte;
  DomainMetrics domain;
  domain.name = "prose";
  domain.bits_per_byte = bits_per_byte + 1;
  run.validation.domains.push_back(domain);
  return run;
}

DemoReport ReportOf(const std::vector<double>& hierarchical,
                    const std::vector<double>& flat) {
  DemoReport report;
  for (const double bits : hierarchical) {
    report.hierarchical.runs.push_back(RunWith(bits));
  }
  for (const double bits : flat) report.flat.runs.push_back(RunWith(bits));
  return report;
}

TEST(SpreadOfTest, IsMeanAndDeviationOfTheSample) {
  // Squares of the distances from 4: 4 + 0 + 4, over n - 1 = 2.
  const Spread spread = SpreadOf(std::vector<double>{2, 4, 6});

  EXPECT_THAT(spread.mean, DoubleNear(4, 1e-12));
  EXPECT_THAT(spread.deviation, DoubleNear(2, 1e-12));
}

TEST(SpreadOfTest, HasNoDeviationForOneValue) {
  const Spread spread = SpreadOf(std::vector<double>{3});

  EXPECT_EQ(spread.mean, 3);
  EXPECT_EQ(spread.deviation, 0);
}

TEST(VerdictTest, ComparesTheMeansAndNeverHidesAWorseModel) {
  EXPECT_TRUE(VerdictOf(ReportOf({2.0, 2.2}, {2.1, 2.3})).no_worse);
  EXPECT_TRUE(VerdictOf(ReportOf({2.0}, {2.0})).no_worse);

  const Verdict worse = VerdictOf(ReportOf({2.25, 2.5}, {2.0, 2.5}));
  EXPECT_FALSE(worse.no_worse);
  EXPECT_THAT(worse.difference.mean, DoubleNear(0.125, 1e-12));
}

TEST(VerdictTest, DoesNotTakeANonNumberForGood) {
  EXPECT_FALSE(VerdictOf(ReportOf({std::nan("")}, {2.0})).no_worse);
}

TEST(ReportJsonTest, SummarisesEveryFigureOfBothModels) {
  DemoReport report = ReportOf({2.0, 3.0}, {2.5, 2.5});
  report.samples.push_back({"prose", "Once", " upon"});

  const nlohmann::json json = ToJson(report);

  ASSERT_EQ(json["models"].size(), 2);
  for (const DemoFigure& figure : FiguresOf(report)) {
    EXPECT_TRUE(json["models"][0]["summary"].contains(figure.key));
    EXPECT_TRUE(json["models"][1]["summary"].contains(figure.key));
  }
  EXPECT_EQ(json["models"][0]["summary"]["bits_per_byte"]["mean"], 2.5);
  EXPECT_EQ(json["models"][0]["summary"]["bits_per_byte.prose"]["mean"], 3.5);
  EXPECT_EQ(json["models"][0]["runs"].size(), 2);
  EXPECT_EQ(json["verdict"]["hierarchical_no_worse"], true);
  EXPECT_EQ(json["samples"][0]["continuation"], " upon");
}

}  // namespace
}  // namespace strata
