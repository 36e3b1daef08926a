// Fits a device's calibration to measured times, and holds a calibration to
// them.
//
// A fifth of the rows, chosen by a hash of their text, is held out: no fit sees
// it, and the calibration's error bands are its errors.

#ifndef SIM_COMPUTE_CALIBRATE_H_
#define SIM_COMPUTE_CALIBRATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/measurement.h"

namespace strata {

// |predicted / measured - 1| over rows.
struct RowErrors {
  int64_t rows = 0;
  double median = 0;
  double p90 = 0;
};

RowErrors ErrorsOf(std::vector<double> errors);

// Rows of one fit: a family, library, precision and kernel.
struct KernelErrors {
  std::string family;
  std::string kernel_source;
  std::string precision;
  std::string variant;
  RowErrors seen;  // by the fit
  RowErrors held_out;
};

struct FitOptions {
  // Of a kernel's rows, those with the smallest hashes: more cost time and
  // change little.
  int64_t max_rows = 3000;
  int max_evaluations = 6000;
};

struct Calibrated {
  DeviceCalibration calibration;
  std::vector<KernelErrors> errors;  // of its fits
};

// Fits every kernel that `measurements` have. `progress` hears of each when it
// is done. The same for the same rows, whatever their order.
//
// Returns INVALID_ARGUMENT if a kernel has fewer than 10 rows, or the sheet is
// not one (DeviceOf).
absl::StatusOr<Calibrated> Calibrate(
    const KnownDevice& device, const SoftwareFacts& facts,
    absl::Span<const Measurement> measurements, const FitOptions& options,
    absl::FunctionRef<void(const KernelErrors&)> progress);

// The errors of a calibration, kernel by kernel, and over all rows in the last
// one, whose names are empty. All rows count as held out.
//
// Returns NOT_FOUND if it has no fit for a row's kernel.
absl::StatusOr<std::vector<KernelErrors>> CheckCalibration(
    const DeviceCalibration& calibration,
    absl::Span<const Measurement> measurements);

}  // namespace strata

#endif  // SIM_COMPUTE_CALIBRATE_H_
