// Predictions against published measurements.
//
//   rows.csv (or a file of that form) --> Simulator --> predicted / measured
//
// The only numbers fitted to rows are the frameworks' software efficiencies:
// one for a framework, the one at which the median of log(predicted / measured)
// over its verified rows is 0. With a source left out, a framework's efficiency
// is fitted to its other sources' rows; one that has none takes the median of
// the other frameworks'.

#ifndef SIM_VALIDATION_VALIDATION_H_
#define SIM_VALIDATION_VALIDATION_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/memory/footprint.h"
#include "sim/validation/constants.h"
#include "sim/workload/simulator.h"

namespace strata::sim {

// A row of the CSV; its head comment says what each column holds.
struct MeasuredRow {
  std::string source;
  std::string framework;
  bool verified = false;
  std::string name;
  std::string model;
  std::string cluster;
  std::string layout;
  std::string schedule;
  double measured = 0;
  std::string unit;
  std::string accounting;
  std::string note;
};

// Fields may be quoted; '#' begins a comment line; the first other line is the
// header.
//
// Returns INVALID_ARGUMENT with the line's number for a header or a row that is
// not so: a unit or accounting that is unknown, a number that is none.
absl::StatusOr<std::vector<MeasuredRow>> ParseRows(absl::string_view csv);

// The rows in the binary.
absl::StatusOr<std::vector<MeasuredRow>> PublishedRows();

struct RowResult {
  MeasuredRow row;
  absl::Status status;          // Why there is no prediction.
  double predicted = 0;         // In the row's unit.
  double measured_seconds = 0;  // A step.
  double predicted_seconds = 0;
  double error = 0;           // Of seconds: predicted / measured - 1.
  double error_left_out = 0;  // With the row's source left out of the fit.
  bool fits = true;           // In memory:
  Footprint memory;           // of the fullest rank.
};

struct SourceResult {
  std::string source;
  int num_rows = 0;         // Verified, predicted.
  double median_error = 0;  // Of absolute errors.
  double median_error_left_out = 0;
};

// Of a kind of machine.
struct KindResult {
  std::string kind;
  int num_rows = 0;  // Verified, predicted.
  double median_error_left_out = 0;
};

struct ValidationResult {
  std::vector<RowResult> rows;
  std::vector<SourceResult> sources;
  std::vector<KindResult> kinds;
  StepCalibration calibration;               // In use.
  std::map<std::string, double> efficiency;  // Used.
  std::map<std::string, double> fitted;      // To these rows.
  // Over verified rows with a prediction.
  double median_error = 0;
  double median_error_left_out = 0;
  double max_error = 0;
  int num_within_15 = 0;
  int num_rows = 0;
};

// A row without a prediction has the reason in its status; the others stand.
//
// Returns the error of a simulation that has begun.
absl::StatusOr<ValidationResult> ValidateRows(
    const std::vector<MeasuredRow>& rows, const Constants& constants,
    Simulator& simulator);

// The table, as the command line prints it.
std::string FormatValidation(const ValidationResult& result);

}  // namespace strata::sim

#endif  // SIM_VALIDATION_VALIDATION_H_
