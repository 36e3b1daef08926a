// strata calibrate

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Flags = std::vector<std::string>;
using Json = nlohmann::json;

std::string Path(const std::string& name) {
  return absl::StrCat(testing::TempDir(), "/", name);
}

// Products whose time is 3 us and that of their operations at 500 TFLOPS.
std::string Rows(const std::string& source) {
  const std::string path = Path(absl::StrCat(source, ".csv"));
  std::string text = "kernel_source,gemm_dtype,m,n,k,latency\n";
  for (const int m : {1, 64, 1024, 8192}) {
    for (const int n : {256, 1024, 4096}) {
      for (const int k : {256, 1024, 4096}) {
        absl::StrAppend(&text, source, ",bfloat16,", m, ",", n, ",", k, ",",
                        3e-3 + 2.0 * m * n * k / 500e12 * 1e3, "\n");
      }
    }
  }
  WriteAll(path, text);
  return path;
}

TEST(CalibrateTest, FitsAndHoldsTheFitToItsRows) {
  const std::string rows = Rows("fits");
  const std::string out = Path("fits.textproto");
  const Flags fit = {"calibrate", rows,     "--device",      "h100", "--out",
                     out,         "--json", "--evaluations", "600"};

  const Result fitted = Strata(fit);
  ASSERT_EQ(fitted.exit_code, 0) << fitted.err;
  EXPECT_EQ(Json::parse(fitted.out)[0]["family"], "mat_mul");
  EXPECT_THAT(ReadAll(out), HasSubstr("device: \"h100\""));

  const Result checked = Strata({"calibrate", rows, "--device", "h100",
                                 "--check", "--calibration", out, "--json"});
  ASSERT_EQ(checked.exit_code, 0) << checked.err;
  const Json errors = Json::parse(checked.out);
  ASSERT_EQ(errors.size(), 2);  // The kernel, and all rows.
  EXPECT_EQ(errors[1]["checked"]["rows"], 36);
  EXPECT_LT(errors[1]["checked"]["median"], 0.2);

  const Result table = Strata(
      {"calibrate", rows, "--device", "h100", "--check", "--calibration", out});
  EXPECT_THAT(table.out, HasSubstr("all rows"));
}

TEST(CalibrateTest, SaysWhatIsWrong) {
  const std::string rows = Rows("wrong");
  const std::string out = Path("wrong.textproto");
  ExpectFailure(Strata({"calibrate", rows, "--device", "h100"}), 1,
                {"--out FILE", "--check"});
  ExpectFailure(Strata({"calibrate", rows, "--device", "h300", "--out", out}),
                1, {"no device \"h300\"; there are a100, h100"});
  ExpectFailure(
      Strata({"calibrate", Path("none.csv"), "--device", "h100", "--check"}), 1,
      {"none.csv"});
  // Rows of a library that the built-in calibration does not know.
  ExpectFailure(Strata({"calibrate", rows, "--device", "h100", "--check"}), 1,
                {"the calibration of h100 has no fit of mat_mul wrong"});

  WriteAll(out, "device: \"a100\"\n");
  ExpectFailure(Strata({"calibrate", rows, "--device", "h100", "--check",
                        "--calibration", out}),
                1, {"is a calibration of a100; want one of h100"});
  WriteAll(out, "device: \"h100\"\nspeed: 3\n");
  ExpectFailure(Strata({"calibrate", rows, "--device", "h100", "--check",
                        "--calibration", out}),
                1, {"wrong.textproto is not a calibration: line 2", "speed"});
  ExpectFailure(Strata({"calibrate", "--device", "h100"}), 1, {"want files"});
  ExpectFailure(Strata({"calibrate", "--traces", Path("none"), "--out", out}),
                1, {"none"});
  ExpectFailure(Strata({"calibrate", "--traces", Path("none")}), 1, {"--out"});
  ExpectFailure(
      Strata({"calibrate", rows, "--traces", Path("none"), "--out", out}), 1,
      {"want no files"});
  ExpectFailure(Strata({"calibrate", rows, "--device", "h100", "--rows", "1"}),
                2, {"--rows", "at least 10"});
}

constexpr char kLinkColumns[] =
    "device,op_name,nccl_dtype,num_gpus,message_size,latency\n";
constexpr char kMeasuredLinks[] = "sim/cluster/measured/h100_links.csv";

TEST(CalibrateTest, MakesAClusterOfMeasuredLinks) {
  const std::string out = Path("my_links.textproto");

  const Result table = Strata({"calibrate", "--collectives", kMeasuredLinks,
                               "--like", "h100", "--out", out});
  ASSERT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("nccl.launch_us"));
  EXPECT_THAT(table.out, HasSubstr("which no row depends on: nccl.ll."));
  EXPECT_THAT(table.out, HasSubstr("other sizes"));
  EXPECT_THAT(ReadAll(out), HasSubstr("# Origin: sim/cluster/measured"));

  const Result step = Strata({"simulate", "--model", "small", "--cluster", out,
                              "--layout", "dp4,mbs1,gbs4,seq512", "--json"});
  ASSERT_EQ(step.exit_code, 0) << step.err;

  const Result json = Strata({"calibrate", "--collectives", kMeasuredLinks,
                              "--out", out, "--gpus", "4", "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const Json fit = Json::parse(json.out);
  EXPECT_EQ(fit["like"], "h100");
  EXPECT_EQ(fit["rows"], 77);
  EXPECT_EQ(fit["errors"]["held_out_sizes"]["all"]["rows"], 77);
  EXPECT_FALSE(fit["errors"].contains("held_out_gpus"));
}

TEST(CalibrateTest, SaysWhatIsWrongWithLinks) {
  const std::string out = Path("no_links.textproto");
  const std::string csv = Path("links.csv");
  const auto fail = [&](const std::string& text, const Flags& more,
                        const std::vector<std::string>& words) {
    WriteAll(csv, text);
    ExpectFailure(
        Strata(Flags{"calibrate", "--collectives", csv, "--out", out} + more),
        1, words);
  };
  const std::string row = "NVIDIA H100,all_reduce,half,2,8192,0.0068\n";

  fail("", {}, {"links.csv", "no line of columns"});
  fail(kLinkColumns, {}, {"links.csv", "no rows"});
  fail("a,b\n1,2\n", {}, {"links.csv", "columns of neither"});
  fail(absl::StrCat(kLinkColumns, row), {"--gpus", "2,8"},
       {"no rows of 8 GPUs", "there are rows of 2"});
  fail(absl::StrCat(kLinkColumns, row), {"--like", "a100"},
       {"links.csv", "line 2: measured on h100; want a100"});
  fail(absl::StrCat(kLinkColumns, row), {"--like", "none"}, {"none"});
  fail(absl::StrCat(kLinkColumns, "NVIDIA H100,reduce,half,2,8192,0.0068\n"),
       {}, {"links.csv", "op_name is \"reduce\""});
  fail(absl::StrCat(kLinkColumns, "NVIDIA H100,all_reduce,half,2,8192,-1\n"),
       {}, {"links.csv", "latency is \"-1\""});
  fail(absl::StrCat(kLinkColumns, row), {"--check"}, {"--collectives"});
  EXPECT_FALSE(std::filesystem::exists(out));
  ExpectFailure(
      Strata({"calibrate", "--collectives", Path("no.csv"), "--out", out}), 1,
      {"no.csv"});
  ExpectFailure(Strata({"calibrate", "--collectives", csv}), 1, {"--out"});
  ExpectFailure(Strata({"calibrate", "--like", "h100"}), 1, {"--collectives"});
}

}  // namespace
}  // namespace strata
