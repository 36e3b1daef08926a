#include "sim/workload/expert_loads.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/files.h"
#include "core/parallel/load_stats.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// Two gates of four experts, of layers 1 and 2.
std::vector<Gate> Gates() { return {{1, 0, 4, 2}, {2, 0, 4, 2}}; }

TEST(ExpertLoadsTest, EvenLoadsGiveEveryRankTheSame) {
  const std::vector<std::vector<double>> rows =
      RowsOfRanks(ExpertLoads(), Gates()[0], 0, 2, 80);
  EXPECT_THAT(rows, ElementsAre(ElementsAre(20, 20), ElementsAre(20, 20)));
}

TEST(ExpertLoadsTest, ReplicasShareTheirExpertsRows) {
  ExpertLoads loads;
  loads.share = {{0.5, 0.25, 0.125, 0.125}, {0.25, 0.25, 0.25, 0.25}};
  loads.placement = {{{0, 1, 2, 0, 1, 3}}, {{0, 1, 2, 3, 0, 1}}};
  EXPECT_THAT(RowsOfRanks(loads, Gates()[0], 0, 2, 80),
              ElementsAre(ElementsAre(20, 10, 10), ElementsAre(20, 10, 10)));
}

TEST(ExpertLoadsTest, APowerLawIsAsSkewAsItsExponent) {
  EXPECT_TRUE(PowerLawLoads(Gates(), 0, 1).share.empty());
  const ExpertLoads loads = PowerLawLoads(Gates(), 1, 1);
  ASSERT_EQ(loads.share.size(), 2u);
  for (std::vector<double> share : loads.share) {
    EXPECT_NEAR(Sum(share), 1, 1e-12);
    std::sort(share.begin(), share.end());
    // 1, 1/2, 1/3, 1/4 of a sum of 25/12.
    EXPECT_NEAR(share[3], 12.0 / 25, 1e-12);
    EXPECT_NEAR(share[0], 3.0 / 25, 1e-12);
  }
}

TEST(ExpertLoadsTest, AGiniCoefficientGivesThePowerLawThatHasIt) {
  const absl::StatusOr<ExpertLoads> loads = LoadsOfGini(Gates(), 0.37, 1);
  ASSERT_THAT(loads, IsOk());
  ASSERT_EQ(loads->share.size(), 2u);
  for (const std::vector<double>& share : loads->share) {
    EXPECT_NEAR(Sum(share), 1, 1e-12);
    EXPECT_NEAR(ComputeLoadStats(share).gini, 0.37, 1e-9);
  }
  const absl::StatusOr<ExpertLoads> even = LoadsOfGini(Gates(), 0, 1);
  ASSERT_THAT(even, IsOk());
  EXPECT_THAT(even->share[0], Each(DoubleNear(0.25, 1e-9)));
  // One of four experts that has all of it: 3/4.
  EXPECT_THAT(LoadsOfGini(Gates(), 0.75, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("4 experts of layer")));
}

TEST(ExpertLoadsTest, AWindowOfTheModelsGatesIsTakenGateByGate) {
  LoadWindow window;
  window.load = {{30, 10, 0, 0}, {1, 1, 1, 1}};
  window.tokens = {20, 4};
  const ExpertLoads loads = LoadsOfWindow(window, Gates(), "t", 1);
  EXPECT_THAT(loads.share[0], ElementsAre(0.75, 0.25, 0, 0));
  EXPECT_THAT(loads.rows_per_token, ElementsAre(2, 1));
}

TEST(ExpertLoadsTest, AWindowOfAnotherModelKeepsItsSkew) {
  // Two experts at 3 : 1 become four at 3 : 3 : 1 : 1, in some order.
  LoadWindow window;
  window.load = {{10, 30}};
  window.tokens = {40};
  const ExpertLoads loads = LoadsOfWindow(window, Gates(), "t", 1);
  ASSERT_EQ(loads.share.size(), 2u);
  for (std::vector<double> share : loads.share) {
    std::sort(share.begin(), share.end());
    EXPECT_THAT(share, ElementsAre(DoubleEq(0.125), DoubleEq(0.125),
                                   DoubleEq(0.375), DoubleEq(0.375)));
  }
  EXPECT_TRUE(loads.rows_per_token.empty());
}

class LoadsCsvTest : public ::testing::Test {
 protected:
  absl::StatusOr<ExpertLoads> Read(const std::string& text) {
    const std::string path = ::testing::TempDir() + "/loads.csv";
    EXPECT_THAT(WriteFileAtomically(path, text), IsOk());
    return ReadLoadsCsv(path, Gates());
  }
};

TEST_F(LoadsCsvTest, ReadsLoadsAndLeavesOtherLayersEven) {
  const absl::StatusOr<ExpertLoads> loads =
      Read("layer,expert,tokens\n1,0,3\n1,3,1\n");
  ASSERT_THAT(loads, IsOk());
  EXPECT_THAT(loads->share[0], ElementsAre(0.75, 0, 0, 0.25));
  EXPECT_THAT(loads->share[1], Each(0.25));
}

TEST_F(LoadsCsvTest, RejectsWhatIsNotALoad) {
  struct Case {
    const char* text;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"", "line 1: want the header"},
           {"layer;expert\n", "line 1: want the header"},
           {"layer,expert,tokens\n", "has no loads"},
           {"layer,expert,tokens\n1,0\n", "line 2: want two whole numbers"},
           {"layer,expert,tokens\n1,0,-1\n", "line 2"},
           {"layer,expert,tokens\n1,0,nan\n", "line 2"},
           {"layer,expert,tokens\n1,4,1\n", "expert 4 of layer 1; want 0 to 3"},
           {"layer,expert,tokens\n0,0,1\n", "layer 0 of the model has no"}}) {
    EXPECT_THAT(Read(c.text), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr(c.message)))
        << c.text;
  }
  EXPECT_FALSE(ReadLoadsCsv("/no/such/file", Gates()).ok());
}

}  // namespace
}  // namespace strata::sim
