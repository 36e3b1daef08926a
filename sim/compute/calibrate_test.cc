#include "sim/compute/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/device.h"
#include "sim/compute/fitted_kernel.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/known_devices.h"
#include "sim/compute/measurement.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr FitOptions kQuick = {/*max_rows=*/400, /*max_evaluations=*/3000};

void Ignore(const KernelErrors&) {}

KnownDevice H100() { return *FindDevice("h100"); }

// Times of products by a known calibration.
std::vector<Measurement> Synthetic(const std::vector<double>& values) {
  const Device device = *DeviceOf(H100().sheet());
  const FittedKernel kernel =
      FittedKernel::FromValues("mat_mul", values, MoeSoftware());
  std::vector<Measurement> rows;
  for (const int64_t m : {1, 16, 100, 512, 4096}) {
    for (const int64_t n : {64, 256, 1024, 4096, 16384}) {
      for (const int64_t k : {64, 256, 1024, 4096, 16384}) {
        Measurement row;
        row.shape = MatMul{m, n, k, Precision::kBf16, Reuse::kRepeated};
        row.kernel_source = "synthetic";
        row.precision = "bfloat16";
        row.us = kernel.TimeUs(device, row.shape);
        row.hash = HashName(absl::StrCat(m, ",", n, ",", k));
        rows.push_back(row);
      }
    }
  }
  return rows;
}

// The initial values, with some moved.
std::vector<double> Moved() {
  const std::vector<ParameterBounds> bounds =
      *FittedKernel::BoundsOf("mat_mul");
  std::vector<double> values;
  for (const ParameterBounds& bound : bounds) {
    double value = bound.initial;
    if (bound.name == "launch_us") value = 4;
    if (bound.name == "math_share") value = 0.6;
    if (bound.name == "memory_share") value = 0.7;
    values.push_back(value);
  }
  return values;
}

double ValueOf(const KernelFit& fit, const std::string& name) {
  for (const Parameter& parameter : fit.parameter()) {
    if (parameter.name() == name) return parameter.value();
  }
  return NAN;
}

TEST(CalibrateTest, RecoversTheParametersThatMadeTheTimes) {
  const std::vector<Measurement> rows = Synthetic(Moved());

  const auto result =
      Calibrate(H100(), BuiltInSoftware(), rows, kQuick, Ignore);

  ASSERT_THAT(result, IsOk());
  ASSERT_EQ(result->calibration.fit_size(), 1);
  const KernelFit& fit = result->calibration.fit(0);
  // Those that many rows depend on; others trade against each other.
  EXPECT_NEAR(ValueOf(fit, "launch_us"), 4, 0.4);
  EXPECT_NEAR(ValueOf(fit, "math_share"), 0.6, 0.06);
  EXPECT_NEAR(ValueOf(fit, "memory_share"), 0.7, 0.07);
  EXPECT_LT(result->errors[0].held_out.median, 0.03);
  EXPECT_LT(result->errors[0].held_out.p90, 0.1);
  // No row has FP8.
  EXPECT_EQ(ValueOf(fit, "quantise_us"), 8);
}

TEST(CalibrateTest, RowsOfAnotherKernelDoNotPullTheFit) {
  // An autotuner that found nothing took a kernel four times as slow.
  std::vector<Measurement> rows = Synthetic(Moved());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % 7 < 3) rows[i].us *= 4;
  }

  const auto result =
      Calibrate(H100(), BuiltInSoftware(), rows, kQuick, Ignore);

  ASSERT_THAT(result, IsOk());
  EXPECT_NEAR(ValueOf(result->calibration.fit(0), "launch_us"), 4, 0.4);
  EXPECT_NEAR(ValueOf(result->calibration.fit(0), "math_share"), 0.6, 0.06);
}

TEST(CalibrateTest, IsTheSameForAnyOrderOfRows) {
  std::vector<Measurement> rows = Synthetic(Moved());
  const FitOptions few = {100, 300};
  const auto first = Calibrate(H100(), BuiltInSoftware(), rows, few, Ignore);
  std::reverse(rows.begin(), rows.end());
  const auto second = Calibrate(H100(), BuiltInSoftware(), rows, few, Ignore);

  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(first->calibration.SerializeAsString(),
            second->calibration.SerializeAsString());
}

TEST(CalibrateTest, RecordsRangesAndResidualsOfHeldOutRows) {
  const auto result = Calibrate(H100(), BuiltInSoftware(), Synthetic(Moved()),
                                {100, 300}, Ignore);
  ASSERT_THAT(result, IsOk());
  const KernelFit& fit = result->calibration.fit(0);
  ASSERT_EQ(fit.range_size(), 3);
  EXPECT_EQ(fit.range(0).name(), "m");
  EXPECT_EQ(fit.range(0).least(), 1);
  EXPECT_EQ(fit.range(0).most(), 4096);
  int64_t rows = 0;
  for (const Residual& residual : fit.residual()) rows += residual.rows();
  EXPECT_EQ(rows, result->errors[0].held_out.rows);
  EXPECT_EQ(rows + result->errors[0].seen.rows, 125);
}

TEST(CalibrateTest, RefusesTooFewRows) {
  std::vector<Measurement> rows = Synthetic(Moved());
  rows.resize(9);
  EXPECT_THAT(Calibrate(H100(), BuiltInSoftware(), rows, kQuick, Ignore),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has 9 rows; want at least 10")));
}

TEST(CheckCalibrationTest, MeasuresAgainstRows) {
  std::vector<Measurement> rows = Synthetic(Moved());
  DeviceCalibration calibration;
  calibration.set_device("h100");
  *calibration.mutable_sheet() = H100().sheet();
  KernelFit& fit = *calibration.add_fit();
  fit.set_family("mat_mul");
  fit.set_kernel_source("synthetic");
  fit.set_precision("bfloat16");
  const auto bounds = *FittedKernel::BoundsOf("mat_mul");
  const std::vector<double> values = Moved();
  for (size_t i = 0; i < bounds.size(); ++i) {
    Parameter& parameter = *fit.add_parameter();
    parameter.set_name(bounds[i].name);
    parameter.set_value(values[i]);
  }
  for (Measurement& row : rows) row.us *= 2;  // Half as fast as predicted.

  const auto errors = CheckCalibration(calibration, rows);

  ASSERT_THAT(errors, IsOk());
  ASSERT_EQ(errors->size(), 2);  // The kernel, and all.
  EXPECT_NEAR((*errors)[0].held_out.median, 0.5, 1e-9);
  EXPECT_NEAR((*errors)[1].held_out.p90, 0.5, 1e-9);
  EXPECT_EQ((*errors)[1].held_out.rows, 125);

  rows[0].kernel_source = "another";
  EXPECT_THAT(CheckCalibration(calibration, rows),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("the calibration of h100 has no fit of "
                                 "mat_mul another bfloat16, of which there is "
                                 "1 row")));
}

TEST(ErrorsOfTest, TakesQuantiles) {
  std::vector<double> errors;
  for (int i = 99; i >= 0; --i) errors.push_back(i);
  const RowErrors of = ErrorsOf(errors);
  EXPECT_EQ(of.rows, 100);
  EXPECT_EQ(of.median, 50);
  EXPECT_EQ(of.p90, 90);
  EXPECT_EQ(ErrorsOf({}).rows, 0);
}

}  // namespace
}  // namespace strata
