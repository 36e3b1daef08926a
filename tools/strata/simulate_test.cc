// strata simulate

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

}  // namespace
}  // namespace strata
