#include "sim/validation/validation.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

constexpr char kHeader[] =
    "source,framework,verified,name,model,cluster,layout,schedule,measured,"
    "unit,accounting,note\n";
constexpr char kModel[] = "layers=4 hidden=1024 heads=8 ffn=4096 vocab=8000";

std::string Row(const std::string& framework, const std::string& measured,
                const std::string& unit, const std::string& accounting) {
  return absl::StrCat("A,", framework, ",1,n,", kModel,
                      ",h100,\"gbs16,seq1024\",1f1b,", measured, ",", unit, ",",
                      accounting, ",\n");
}

TEST(ParseRowsTest, ReadsQuotedCellsAndSkipsComments) {
  const absl::StatusOr<std::vector<MeasuredRow>> rows = ParseRows(
      absl::StrCat("# comment\n", kHeader, Row("f", "2.5", "s", "-"), "\n"));
  ASSERT_THAT(rows, IsOk());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].layout, "gbs16,seq1024");
  EXPECT_EQ((*rows)[0].measured, 2.5);
  EXPECT_TRUE((*rows)[0].verified);
}

TEST(ParseRowsTest, RejectsWhatIsNoRow) {
  struct Case {
    std::string csv;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"", "want the header"},
           {"a,b\n", "line 1: want the header"},
           {absl::StrCat(kHeader, "a,b\n"), "line 2: 2 cells; want"},
           {kHeader + Row("f", "0", "s", "-"), "line 2: measured is \"0\""},
           {kHeader + Row("f", "x", "s", "-"), "measured is \"x\""},
           {kHeader + Row("f", "1", "ms", "-"), "unit is \"ms\""},
           {kHeader + Row("f", "1", "mfu%", "-"), "accounting is \"-\""},
           {kHeader + Row("f", "1", "s", "full"), "accounting is \"full\""},
           {kHeader + Row("f", "1", "mfu%", "some"), "want -, causal"}}) {
    EXPECT_THAT(ParseRows(c.csv), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr(c.message)))
        << c.csv;
  }
}

TEST(ValidateRowsTest, UnitsOfOneMeasurementAgree) {
  // The same step in every unit: what one says, all say.
  Simulator simulator;
  Scenario scenario;
  scenario.model = kModel;
  scenario.cluster = "h100";
  scenario.layout = "gbs16,seq1024";
  scenario.software = *SoftwareOf(*DefaultConstants(), "megatron-core");
  const absl::StatusOr<StepResult> step = simulator.Run(scenario);
  ASSERT_THAT(step, IsOk());
  const double tokens = 16 * 1024;
  const std::string csv = absl::StrCat(
      kHeader, Row("megatron-core", absl::StrCat(2 * step->seconds), "s", "-"),
      Row("megatron-core", absl::StrCat(tokens / 8 / (2 * step->seconds)),
          "tok/s/gpu", "-"),
      Row("megatron-core", absl::StrCat(step->tflops_per_gpu_causal / 2),
          "TF/gpu", "causal"),
      Row("megatron-core", absl::StrCat(100 * step->mfu_full / 2), "mfu%",
          "full"),
      Row("megatron-core",
          absl::StrCat(2 * step->seconds * 8 / 3600 / tokens * 1e12),
          "gpu_h/Ttok", "-"));

  const absl::StatusOr<ValidationResult> result =
      ValidateRows(*ParseRows(csv), *DefaultConstants(), simulator);

  ASSERT_THAT(result, IsOk());
  for (const RowResult& row : result->rows) {
    // Numbers are printed with six digits.
    EXPECT_NEAR(row.error, -0.5, 1e-5) << row.row.unit;
    EXPECT_NEAR(row.predicted / row.row.measured,
                row.row.unit == "s" || row.row.unit == "gpu_h/Ttok" ? 0.5 : 2,
                1e-4);
  }
  EXPECT_NEAR(result->median_error, 0.5, 1e-5);
  EXPECT_EQ(result->num_within_15, 0);
}

TEST(ValidateRowsTest, FitsTheEfficiencyThatTheRowsHave) {
  Simulator simulator;
  Scenario scenario;
  scenario.model = kModel;
  scenario.cluster = "h100";
  scenario.layout = "gbs16,seq1024";
  scenario.software.efficiency = 0.6;
  const absl::StatusOr<StepResult> step = simulator.Run(scenario);
  ASSERT_THAT(step, IsOk());

  const absl::StatusOr<ValidationResult> result = ValidateRows(
      *ParseRows(absl::StrCat(
          kHeader, Row("new-one", absl::StrCat(step->seconds), "s", "-"))),
      Constants(), simulator);

  ASSERT_THAT(result, IsOk());
  EXPECT_NEAR(result->fitted.at("new-one"), 0.6, 0.001);
}

TEST(ValidateRowsTest, ARowThatCannotBeSimulatedSaysWhy) {
  Simulator simulator;
  std::vector<MeasuredRow> rows =
      *ParseRows(absl::StrCat(kHeader, Row("f", "1", "s", "-")));
  rows[0].layout = "pp3";
  const absl::StatusOr<ValidationResult> result =
      ValidateRows(rows, *DefaultConstants(), simulator);
  ASSERT_THAT(result, IsOk());
  EXPECT_FALSE(result->rows[0].status.ok());
  EXPECT_THAT(FormatValidation(*result), HasSubstr("no prediction"));
}

TEST(PublishedRowsTest, AllCanBeSimulated) {
  const absl::StatusOr<std::vector<MeasuredRow>> rows = PublishedRows();
  ASSERT_THAT(rows, IsOk());
  Simulator simulator;
  for (const MeasuredRow& row : *rows) {
    Scenario scenario;
    scenario.model = row.model;
    scenario.cluster = row.cluster;
    scenario.layout = row.layout;
    scenario.schedule = row.schedule;
    EXPECT_THAT(simulator.Inputs(scenario), IsOk()) << row.name;
    EXPECT_THAT(SoftwareOf(*DefaultConstants(), row.framework), IsOk())
        << row.name;
  }
}

TEST(PublishedRowsTest, AreMetAsTheCalibrationSays) {
  Simulator simulator;
  const absl::StatusOr<Constants> constants = DefaultConstants();
  ASSERT_THAT(constants, IsOk());
  const absl::StatusOr<ValidationResult> result =
      ValidateRows(*PublishedRows(), *constants, simulator);
  ASSERT_THAT(result, IsOk());

  EXPECT_LE(result->median_error, 0.07);
  EXPECT_LE(result->median_error_left_out, 0.07);
  for (const RowResult& row : result->rows) {
    EXPECT_THAT(row.status, IsOk()) << row.row.name;
    // What ran, fits.
    EXPECT_TRUE(row.fits) << row.row.name << ": " << Verdict(row.memory);
    if (row.row.source == "DeepSeek-V3 report") {
      EXPECT_LE(std::abs(row.error), 0.07);
      EXPECT_LE(std::abs(row.error_left_out), 0.07);
    }
  }
  // The constants are those that these rows give, to the rounding of the file
  // and of the search.
  for (const auto& [framework, efficiency] : result->fitted) {
    EXPECT_NEAR(constants->efficiency.at(framework) / efficiency, 1, 0.005)
        << framework;
  }
  EXPECT_NEAR(constants->calibration.left_out_error(),
              result->median_error_left_out, 0.002);
  for (const MachineConstants& machine : constants->calibration.machine()) {
    for (const KindResidual& residual : machine.residual()) {
      const auto it = std::find_if(
          result->kinds.begin(), result->kinds.end(),
          [&](const KindResult& k) { return k.kind == residual.kind(); });
      ASSERT_NE(it, result->kinds.end()) << residual.kind();
      EXPECT_EQ(residual.rows(), it->num_rows) << residual.kind();
      EXPECT_NEAR(residual.left_out_error(), it->median_error_left_out, 0.002)
          << residual.kind();
    }
  }
}

}  // namespace
}  // namespace strata::sim
