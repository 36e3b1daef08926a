// A machine's own links as a cluster that the simulator reads: NCCL's constants
// of a preset, fitted to what //cuda/nccl:nccl_benchmark measured there.
//
//   rows (validation.h) --FitConstants--> constants --> text of ClusterConfig
//     |                                                 kind { like: PRESET ...
//     }
//     +-- without one size, without one number of GPUs: held-out errors
//
// Of NCCL's two ways to give flagged words channels (kLlPart) the one that fits
// better is taken; what the preset says that NCCL takes the node for is kept.
// A constant moves only where rows ask for it: one by which the error gets no
// better than with the preset's value keeps that, and is not in the file.

#ifndef SIM_COLLECTIVE_LINK_CALIBRATION_H_
#define SIM_COLLECTIVE_LINK_CALIBRATION_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/validation.h"

namespace strata::sim {

struct LinkConstant {
  std::string name;  // "nccl.simple.step_us"
  double preset = 0;
  double value = 0;
  bool is_fitted = false;  // Otherwise the value is the preset's.
  int num_rows = 0;        // Whose time depends on it.
};

struct LinkCalibration {
  std::string like;
  NodeConfig node;                      // The preset with fitted constants.
  std::vector<LinkConstant> constants;  // All of `nccl`.
  int most_gpus = 0;                    // Of a row.

  // Of each row, microseconds.
  std::vector<double> preset_us;
  std::vector<double> fitted_us;
  // By fits that saw no row of that size, and none of as many GPUs; the latter
  // is empty where all rows have the same number.
  std::vector<double> other_sizes_us;
  std::vector<double> other_gpus_us;
};

// Fits to the smallest sum of |log(predicted / measured)|, see MeanLogError.
// The same for the same rows.
//
// Returns NOT_FOUND if there is no such preset, and INVALID_ARGUMENT, with the
// row's line, if there are no rows, fewer than three sizes, rows of DeepEP, of
// another GPU or of one GPU alone, or a time that no such link can have: below
// its bytes at the rate of the port, or a hundred times off the preset's.
absl::StatusOr<LinkCalibration> CalibrateLinks(
    absl::string_view like, absl::Span<const MeasuredCollective> measured);

// A file for LoadCluster: a node of `most_gpus` GPUs, with the fitted constants
// and the preset's fabric. `comment`: lines without "#".
std::string LinkClusterText(const LinkCalibration& calibration,
                            absl::string_view name, absl::string_view comment);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_LINK_CALIBRATION_H_
