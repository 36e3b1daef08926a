// strata simulate

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/trace_writer.h"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Flags = std::vector<std::string>;
using Json = nlohmann::json;

class SimulateAstraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteAll(Path("net.yml"),
             "topology: [ Ring ]\nnpus_count: [ 4 ]\nbandwidth: [ 50.0 ]\n"
             "latency: [ 500.0 ]\n");
    WriteAll(Path("sys.json"),
             R"({"preferred-dataset-splits": 4, "local-mem-bw": 1600,
                 "all-reduce-implementation": ["direct"],
                 "collective-optimization": "localBWAware"})");
    WriteTraces("ar", std::vector<chakra::Nodes>(
                          4, {chakra::CollectiveNode(
                                 0, ChakraProtoMsg::ALL_REDUCE, 1 << 20)}));
  }

  static std::string Path(const std::string& name) {
    return absl::StrCat(::testing::TempDir(), "/simulate_", name);
  }

  static void WriteTraces(const std::string& prefix,
                          const std::vector<chakra::Nodes>& ranks) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      ASSERT_THAT(chakra::WriteTrace(
                      chakra::TracePath(Path(prefix), static_cast<int>(rank)),
                      {}, ranks[rank]),
                  IsOk());
    }
  }

  static Flags Astra(const std::string& prefix) {
    return {"simulate", "astra",          "--network", Path("net.yml"),
            "--system", Path("sys.json"), Path(prefix)};
  }
};

TEST_F(SimulateAstraTest, PrintsTheLinesOfAstraSim) {
  const Result unaware = Strata(Astra("ar"));
  EXPECT_EQ(unaware.exit_code, 0) << unaware.err;
  std::string want;
  for (int rank = 0; rank < 4; ++rank) {
    absl::StrAppend(&want, "sys[", rank,
                    "] finished, 18360 cycles, exposed communication 18360 "
                    "cycles.\n");
  }
  EXPECT_EQ(unaware.out, want);
  EXPECT_THAT(unaware.err, IsEmpty());

  const Result aware = Strata(Astra("ar") + Flags{"--aware"});
  EXPECT_THAT(aware.out, HasSubstr("sys[3] finished, 37880 cycles,"));
}

TEST_F(SimulateAstraTest, PrintsJson) {
  const Result result = Strata(Astra("ar") + Flags{"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["congestion_aware"], false);
  EXPECT_EQ(json["ranks"].size(), 4);
  EXPECT_EQ(json["ranks"][3]["rank"], 3);
  EXPECT_EQ(json["ranks"][3]["cycles"], 18360);
  EXPECT_EQ(json["ranks"][3]["exposed_communication_cycles"], 18360);
  EXPECT_GT(json["events"], 0);
}

TEST_F(SimulateAstraTest, SaysInOneLineWhatIsWrong) {
  ExpectFailure(Strata(Astra("none")), 1, {"none.0.et", "4 ranks"});
  ExpectFailure(Strata({"simulate", "astra", "--network", Path("sys.json"),
                        "--system", Path("sys.json"), Path("ar")}),
                1, {"simulate_sys.json", "line 1"});
  ExpectFailure(Strata({"simulate"}), 1, {"nothing to simulate"});
  ExpectFailure(Strata({"simulate", "astra", Path("ar")}), 2, {"--network"});

  WriteTraces("lone",
              std::vector<chakra::Nodes>(
                  4, {chakra::SendNode(1, 0, 1, /*tag=*/3, /*bytes=*/8)}));
  ExpectFailure(Strata(Astra("lone")), 1, {"lone.1.et", "rank 1", "SEND1"});
}

class SimulateChakraTest : public SimulateAstraTest {
 protected:
  static Flags Chakra(const std::string& traces) {
    return {"simulate", "--chakra", Path(traces), "--cluster", "h100"};
  }
};

TEST_F(SimulateChakraTest, SaysWhereTheTimeGoes) {
  const Result result = Strata(Chakra("ar") + Flags{"--trace", Path("ar.trace"),
                                                    "--html", Path("ar.html")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("ranks: 4"));
  EXPECT_THAT(result.out, HasSubstr("all-reduce, exposed"));
  EXPECT_THAT(result.out, HasSubstr("critical path: "));
  EXPECT_EQ(Json::parse(ReadAll(Path("ar.trace")))["displayTimeUnit"], "ms");
  EXPECT_THAT(ReadAll(Path("ar.html")), HasSubstr("Ranks over time"));
}

TEST_F(SimulateChakraTest, PrintsJsonThatCanBeCompared) {
  WriteTraces("compute", std::vector<chakra::Nodes>(
                             2, {chakra::ComputeNode(0, /*duration_us=*/500)}));
  const Result even = Strata(Chakra("compute") + Flags{"--json"});
  const Result slow =
      Strata(Chakra("compute") + Flags{"--json", "--slow", "1=2"});
  ASSERT_EQ(even.exit_code, 0) << even.err;
  ASSERT_EQ(slow.exit_code, 0) << slow.err;
  EXPECT_NEAR(Json::parse(even.out)["seconds"], 500e-6, 1e-12);
  EXPECT_NEAR(Json::parse(slow.out)["seconds"], 1e-3, 1e-12);
  WriteAll(Path("even.json"), even.out);
  WriteAll(Path("slow.json"), slow.out);

  const Result compared =
      Strata({"simulate", "--compare", Path("even.json"), Path("slow.json")});

  EXPECT_THAT(compared.out, HasSubstr("+100.0 %"));
  EXPECT_THAT(compared.out, HasSubstr("slow: "));
}

TEST_F(SimulateChakraTest, TakesAFolderOfOneWorkload) {
  std::filesystem::create_directories(Path("folder"));
  WriteTraces("folder/w", std::vector<chakra::Nodes>(
                              2, {chakra::ComputeNode(0, /*duration_us=*/5)}));
  const Result result = Strata(Chakra("folder"));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("ranks: 2"));

  WriteTraces("folder/other", {{chakra::ComputeNode(0, 5)}});
  ExpectFailure(Strata(Chakra("folder")), 1, {"2 workloads", "other, w"});
}

TEST_F(SimulateChakraTest, SaysInOneLineWhatIsWrong) {
  ExpectFailure(Strata(Chakra("nothing")), 1, {"nothing.0.et", "folder"});
  ExpectFailure(Strata(Chakra("no/folder")), 1, {"No such file"});
  ExpectFailure(Strata(Chakra("ar") + Flags{"--layout", "ep4"}), 1,
                {"--layout means nothing beside --chakra"});
  ExpectFailure(Strata(Chakra("ar") + Flags{"--slow", "9=2"}), 1,
                {"slowdown", "9"});
  WriteTraces("wide", std::vector<chakra::Nodes>(
                          9, {chakra::ComputeNode(0, /*duration_us=*/5)}));
  ExpectFailure(Strata(Chakra("wide")), 1, {"9 ranks", "h100x16"});
  std::filesystem::remove(Path("wide.3.et"));
  ExpectFailure(Strata(Chakra("wide")), 1, {"wide.3.et", "rank 8"});
  WriteTraces("lone",
              std::vector<chakra::Nodes>(
                  4, {chakra::SendNode(1, 0, 1, /*tag=*/3, /*bytes=*/8)}));
  ExpectFailure(Strata(Chakra("lone")), 1, {"lone.1.et", "rank 1", "SEND1"});
  WriteAll(Path("cut.0.et"), "\x05");
  ExpectFailure(Strata(Chakra("cut")), 1, {"cut.0.et"});
}

}  // namespace
}  // namespace strata
