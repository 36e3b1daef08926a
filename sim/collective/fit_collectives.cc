// Fits the constants of a kind of node to measurements, and prints them as the
// text proto of a preset.
//
//   bazel run -c opt //sim/collective:fit_collectives -- h100 FILE.csv...
//
// The files are those of validation.h; their rows must be of that kind. Of more
// than a thousand rows of a file every n-th is used. A minute or so.

#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "google/protobuf/text_format.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/fit.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

constexpr int kRounds = 60;
constexpr int kMostRows = 1000;  // Of a file.

absl::Status Fit(const std::string& kind,
                 const std::vector<std::string>& paths) {
  ASSIGN_OR_RETURN(const NodeConfig start, NodePreset(kind));
  std::vector<MeasuredCollective> used;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const std::string csv, ReadFile(path));
    ASSIGN_OR_RETURN(const std::vector<MeasuredCollective> rows,
                     ParseMeasurements(csv));
    const size_t stride = rows.size() / kMostRows + 1;
    for (size_t i = 0; i < rows.size(); i += stride) {
      if (rows[i].node_kind != kind) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s, line %d: measured on %s; want %s", path,
                            rows[i].line, rows[i].node_kind, kind));
      }
      used.push_back(rows[i]);
    }
  }
  ASSIGN_OR_RETURN(const double before, MeanLogError(start, used));
  ASSIGN_OR_RETURN(const NodeConfig fitted, FitConstants(start, used, kRounds));
  ASSIGN_OR_RETURN(const double after, MeanLogError(fitted, used));
  NodeConfig constants;
  *constants.mutable_nccl() = fitted.nccl();
  if (fitted.has_deep_ep()) *constants.mutable_deep_ep() = fitted.deep_ep();
  std::string text;
  google::protobuf::TextFormat::PrintToString(constants, &text);
  std::cout << absl::StrFormat("# %d rows, mean |log ratio| %.4f, was %.4f\n",
                               used.size(), after, before)
            << text;
  return absl::OkStatus();
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: fit_collectives NODE FILE.csv...\n";
    return 2;
  }
  const absl::Status status = strata::sim::Fit(
      argv[1], std::vector<std::string>(argv + 2, argv + argc));
  if (status.ok()) return 0;
  std::cerr << status.message() << "\n";
  return 1;
}
