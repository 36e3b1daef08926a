// Runs strata inspect as a user would.

#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

class InspectTest : public StrataTest {
 protected:
  static std::vector<std::string> Inspect(const std::string& model) {
    return {"inspect", "router", "--model",  model,
            "--data",  *data_,   "--tokens", "256"};
  }
};

TEST_F(InspectTest, PrintsTiersAndExperts) {
  const Result result = Strata(Inspect(*run_));

  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty());
  EXPECT_THAT(result.out,
              AllOf(StartsWith(absl::StrCat(*run_, "/step-000007\n")),
                    HasSubstr("\ntier 1 "), HasSubstr("\ntier 2 "),
                    HasSubstr("expert and domain"), HasSubstr("by chance"),
                    HasSubstr("most specialised"), HasSubstr("technical")));
}

TEST_F(InspectTest, PrintsJsonThatAddsUp) {
  const Result result =
      Strata(Inspect(*run_) + std::vector<std::string>{"--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["gates"].size(), 4);  // Two layers of two tiers.
  ASSERT_EQ(json["tiers"].size(), 2);
  ASSERT_EQ(json["domains"].size(), 4);
  EXPECT_EQ(json["domains"][0]["tokens"], 256);
  EXPECT_EQ(json["domains"][0]["windows"], 8);
  for (const char* key : {"data_hash", "config_hash", "weights_hash", "commit",
                          "data_sources", "seeds"}) {
    EXPECT_TRUE(json["manifest"].contains(key)) << key;
  }
  for (const Json& gate : json["gates"]) {
    double load = 0;
    double bits = 0;
    for (const Json& expert : gate["experts"]) {
      load += expert["load"].get<double>();
      bits += expert["load"].get<double>() * expert["bits"].get<double>();
    }
    EXPECT_NEAR(load, 1, 1e-9);
    EXPECT_NEAR(bits, gate["information"]["bits"].get<double>(), 1e-9);
    EXPECT_LE(bits, gate["information"]["bound_bits"].get<double>() + 1e-9);
  }
}

TEST_F(InspectTest, InspectsAFlatModelAsOneTier) {
  const std::string out = Folder("flat");
  const Result trained =
      Strata(Train(out, 1) + std::vector<std::string>{"--set",
                                                      "moe.flat.num_experts=8",
                                                      "--set", "moe.flat.k=2"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;

  const Result result =
      Strata(Inspect(out) + std::vector<std::string>{"--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["tiers"].size(), 1);
}

TEST_F(InspectTest, WritesAPageAndNothingElse) {
  const std::string folder = Folder("pages");
  fs::create_directories(folder);
  const std::string page = absl::StrCat(folder, "/router.html");

  const Result result =
      Strata(Inspect(*run_) + std::vector<std::string>{"--html", page});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(
      Strata(Inspect(*run_) + std::vector<std::string>{"--json"}).out);
  EXPECT_THAT(ReadAll(page),
              AllOf(StartsWith("<!DOCTYPE html>"), HasSubstr("</html>\n"),
                    HasSubstr(json["manifest"]["data_hash"])));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
}

TEST_F(InspectTest, RefusesAPageThatCannotBe) {
  const auto html = [](const std::string& path) {
    return Strata(Inspect(*run_) + std::vector<std::string>{"--html", path});
  };
  const std::string missing = absl::StrCat(Folder("missing"), "/router.html");
  ExpectFailure(html(missing), 1, {missing, "No such file or directory"});
  ExpectFailure(html(*data_), 1, {*data_, "Is a directory"});
  const std::string below = absl::StrCat(*data_, "/code/a.txt/router.html");
  ExpectFailure(html(below), 1, {below, "Not a directory"});
}

TEST_F(InspectTest, LeavesThePageThatWasThereWhenTheDiskIsFull) {
  const std::string folder = Folder("full");
  const std::string page = absl::StrCat(folder, "/router.html");
  WriteAll(page, "before");
  RunSettings settings;
  settings.max_file_bytes = 1024;

  const Result result = Strata(
      Inspect(*run_) + std::vector<std::string>{"--html", page}, settings);

  ExpectFailure(result, 1, {page});
  EXPECT_EQ(ReadAll(page), "before");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
}

TEST_F(InspectTest, RefusesWhatHasNoRouter) {
  const std::string missing = Folder("missing");
  ExpectFailure(Strata(Inspect(missing)), 1, {missing, "does not exist"});
  ExpectFailure(Strata({"inspect"}), 2, {"subcommand"});

  const std::string out = Folder("dense");
  const Result trained = Strata(
      Train(out, 1) + std::vector<std::string>{"--set", "num_dense_layers=2",
                                               "--set", "dense_width=16"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  ExpectFailure(Strata(Inspect(out)), 1, {out, "has no experts"});
}

}  // namespace
}  // namespace strata
