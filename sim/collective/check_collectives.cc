// Predictions of collectives against measurements, as tables.
//
//   bazel run //sim/collective:check_collectives --
//       [--rows] [--cluster FILE.textproto] FILE.csv...
//
// The files are those of validation.h. Prints the error by operation, number of
// GPUs and size for each file; --rows prints every row too. By the presets, or
// by the first kind of node of the cluster that is given.

#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/fit.h"
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

// `cluster`: a name or a file; empty: the presets.
absl::StatusOr<std::vector<double>> Predict(
    const std::string& cluster_name,
    const std::vector<MeasuredCollective>& rows) {
  if (cluster_name.empty()) return PredictAllUs(rows);
  ASSIGN_OR_RETURN(const Cluster cluster, LoadCluster(cluster_name));
  return PredictAllUs(cluster.Node(0), rows);
}

absl::Status CheckFile(const std::string& path, const std::string& cluster,
                       bool print_rows) {
  ASSIGN_OR_RETURN(const std::string csv, ReadFile(path));
  ASSIGN_OR_RETURN(const std::vector<MeasuredCollective> rows,
                   ParseMeasurements(csv));
  ASSIGN_OR_RETURN(const std::vector<double> predicted, Predict(cluster, rows));
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
  std::string cluster;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--rows") {
      print_rows = true;
    } else if (argument == "--cluster" && i + 1 < argc) {
      cluster = argv[++i];
    } else {
      paths.emplace_back(argument);
    }
  }
  if (paths.empty()) {
    std::cerr << "usage: check_collectives [--rows] [--cluster FILE.textproto] "
                 "FILE.csv...\n";
    return 2;
  }
  for (const std::string& path : paths) {
    const absl::Status status = CheckFile(path, cluster, print_rows);
    if (status.ok()) continue;
    std::cerr << path << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) { return strata::sim::Main(argc, argv); }
