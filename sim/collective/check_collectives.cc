// Predictions of collectives against measurements, as tables.
//
//   bazel run //sim/collective:check_collectives -- [--rows] FILE.csv...
//
// The files are those of validation.h. Prints the error by operation, number of
// GPUs and size for each file; --rows prints every row too.

#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

void PrintSummaries(absl::string_view title,
                    const std::vector<ErrorSummary>& summaries) {
  std::cout << absl::StrFormat("%-32s %6s %8s %8s %8s\n", title, "rows",
                               "median", "90%", "largest");
  for (const ErrorSummary& summary : summaries) {
    std::cout << absl::StrFormat(
        "  %-30s %6d %7.1f%% %7.1f%% %7.1f%%\n", summary.label, summary.count,
        100 * summary.median, 100 * summary.percentile_90,
        100 * summary.largest);
  }
}

absl::Status CheckFile(const std::string& path, bool print_rows) {
  ASSIGN_OR_RETURN(const std::string csv, ReadFile(path));
  ASSIGN_OR_RETURN(const std::vector<MeasuredCollective> rows,
                   ParseMeasurements(csv));
  ASSIGN_OR_RETURN(const std::vector<double> predicted, PredictAllUs(rows));
  std::cout << "\n" << path << "\n";
  for (size_t i = 0; i < rows.size() && print_rows; ++i) {
    std::cout << absl::StrFormat(
        "  line %5d  %-28s %4d GPUs %12.0f bytes  measured %10.1f us  "
        "predicted %10.1f us  %+6.1f%%\n",
        rows[i].line, rows[i].op, rows[i].num_gpus, rows[i].bytes,
        rows[i].measured_us, predicted[i],
        100 * (predicted[i] / rows[i].measured_us - 1));
  }
  PrintSummaries(
      "by operation",
      SummarizeErrors(rows, predicted,
                      [](const MeasuredCollective& row) { return row.op; }));
  PrintSummaries(
      "by number of GPUs",
      SummarizeErrors(rows, predicted, [](const MeasuredCollective& row) {
        return absl::StrFormat("%4d GPUs", row.num_gpus);
      }));
  PrintSummaries("by size", SummarizeErrors(rows, predicted,
                                            [](const MeasuredCollective& row) {
                                              return SizeClass(row.bytes);
                                            }));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  bool print_rows = false;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--rows") {
      print_rows = true;
    } else {
      paths.emplace_back(argument);
    }
  }
  if (paths.empty()) {
    std::cerr << "usage: check_collectives [--rows] FILE.csv...\n";
    return 2;
  }
  for (const std::string& path : paths) {
    const absl::Status status = CheckFile(path, print_rows);
    if (status.ok()) continue;
    std::cerr << path << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) { return strata::sim::Main(argc, argv); }
