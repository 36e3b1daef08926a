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

}  // namespace
}  // namespace strata
