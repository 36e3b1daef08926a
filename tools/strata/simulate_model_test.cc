// strata simulate --model ..., as a user runs it.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Flags = std::vector<std::string>;
using Json = nlohmann::json;

Flags DeepSeek(const Flags& more = {}) {
  return Flags{"simulate",
               "--model",
               "deepseek-v3",
               "--cluster",
               "h800x2048",
               "--layout",
               "pp16,ep64,gbs15360,fp8,deepep,recompute=selective",
               "--schedule",
               "dualpipe"} +
         more;
}

class SimulateModelTest : public StrataTest {};

TEST_F(SimulateModelTest, SaysWhereAStepsTimeGoes) {
  const Result result = Strata(DeepSeek());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("deepseek-v3 on 2048 x H800"));
  EXPECT_THAT(result.out, HasSubstr("MFU"));
  EXPECT_THAT(result.out, HasSubstr("critical path"));
}

TEST_F(SimulateModelTest, WritesJsonTraceAndPage) {
  const std::string trace = Folder("step.json");
  const std::string page = Folder("step.html");
  const Result result =
      Strata(DeepSeek({"--json", "--trace", trace, "--html", page}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_GT(Json::parse(result.out)["seconds"], 0);
  EXPECT_FALSE(Json::parse(ReadAll(trace))["traceEvents"].empty());
  EXPECT_THAT(ReadAll(page), HasSubstr("</svg>"));

  const std::string a = Folder("a.json");
  WriteAll(a, result.out);
  const Result same = Strata({"simulate", "--compare", a, a});
  ASSERT_EQ(same.exit_code, 0) << same.err;
  EXPECT_THAT(same.out, HasSubstr("+0.0 %"));
}

TEST_F(SimulateModelTest, ReplaysARecordedRoutingTrace) {
  const std::string recorded = Folder("routing.trace");
  ASSERT_EQ(
      Strata(Train(Folder("recorded"), 7) + Flags{"--record-routing", recorded})
          .exit_code,
      0);
  const Result result =
      Strata({"simulate", "--model", "demo", "--cluster", "h100", "--layout",
              "ep8,gbs8,seq512", "--routing", recorded, "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_GT(json["expert_max_over_mean"], 1);
  EXPECT_EQ(json["balance"].size(), 7);
}

TEST_F(SimulateModelTest, SweepsServesAndSlows) {
  const Result sweep = Strata({"simulate", "--model", "demo", "--cluster",
                               "h100", "--layout", "gbs16,seq512", "--sweep"});
  ASSERT_EQ(sweep.exit_code, 0) << sweep.err;
  EXPECT_THAT(sweep.out, StartsWith("layout,schedule,seconds"));

  const Result serve =
      Strata({"simulate", "--model", "deepseek-v3", "--cluster", "h800x32",
              "--layout", "ep32,fp8,deepep", "--serve", "decode"});
  ASSERT_EQ(serve.exit_code, 0) << serve.err;
  EXPECT_THAT(serve.out, HasSubstr("decode of 64 sequences"));

  const Result slow = Strata(DeepSeek({"--slow", "100=1.5"}));
  ASSERT_EQ(slow.exit_code, 0) << slow.err;
  EXPECT_THAT(slow.out, HasSubstr("slow ranks cost"));
}

TEST_F(SimulateModelTest, ValidatesAFileOfRows) {
  const std::string rows = Folder("rows.csv");
  WriteAll(rows,
           "source,framework,verified,name,model,cluster,layout,schedule,"
           "measured,unit,accounting,note\n"
           "me,megatron-core,1,mine,demo,h100,\"gbs8,seq512\",1f1b,0.5,s,-,\n");
  const Result result = Strata({"simulate", "--validate", "--rows", rows});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("mine"));
  EXPECT_THAT(result.out, HasSubstr("median |error|"));
}

TEST_F(SimulateModelTest, EveryMistakeIsOneLine) {
  ExpectFailure(Strata({"simulate"}), 1, {"nothing to simulate"});
  ExpectFailure(Strata({"simulate", "--model", "gpt-9"}), 1, {"gpt-9"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--cluster", "z80"}), 1,
                {"z80"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--layout", "pp3"}), 1,
                {"does not divide"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--schedule", "2f2b"}),
                1, {"2f2b", "dualpipe"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--framework", "x"}), 1,
                {"no framework"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--slow", "9"}), 1,
                {"want RANK=FACTOR"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--slow", "8=2"}), 1,
                {"want a rank below 8"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--routing", "/no"}), 1,
                {"/no"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--routing", "/no",
                        "--power-law", "1"}),
                1, {"want one of them"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--gini", "0.2",
                        "--power-law", "1"}),
                1, {"want one of them"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--gini", "0.99"}), 1,
                {"Gini coefficient of 0.99", "experts of layer"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--serve", "train"}), 1,
                {"want prefill or decode"});
  // What would be ignored is said.
  ExpectFailure(Strata({"simulate", "--model", "demo", "--batch", "8"}), 1,
                {"--batch means nothing beside --model"});
  ExpectFailure(Strata({"simulate", "--model", "demo", "--redundant", "1"}), 1,
                {"--routing"});
  ExpectFailure(Strata({"simulate", "--sweep"}), 1, {"want --model"});
  const std::string nothing = Folder("nothing.json");
  WriteAll(nothing, "{}");
  ExpectFailure(Strata({"simulate", "--compare", nothing, "/no"}), 1,
                {"nothing.json", "seconds"});
}

}  // namespace
}  // namespace strata
