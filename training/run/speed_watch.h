// What each rank of a mesh works when it does not wait for the others, told to
// all of them while they train: what a slow one is found by
// (core/monitor/rank_speed.h).

#ifndef TRAINING_RUN_SPEED_WATCH_H_
#define TRAINING_RUN_SPEED_WATCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/mesh.h"
#include "training/metrics.h"

namespace strata {

// Calls are for all ranks alike.
class SpeedWatch {
 public:
  // Asks the ranks where they are. `mesh` must outlive the result.
  //
  // Returns the communicator's errors.
  static absl::StatusOr<SpeedWatch> Create(const Mesh& mesh);

  // Takes a step of this rank. Where a window ends, seconds of it that each
  // rank did not wait, the same on all; none otherwise. A window has half a
  // second of work in the mean, as shorter ones would be of noise: ranks tell
  // each other after each tenth step, or after each that takes as long.
  //
  // Returns the communicator's errors.
  absl::StatusOr<std::optional<std::vector<double>>> AfterStep(
      const StepMetrics& metrics);

  const std::string& host(int rank) const { return hosts_[rank]; }

 private:
  explicit SpeedWatch(const Mesh& mesh) : mesh_(&mesh) {}

  const Mesh* mesh_;
  std::vector<std::string> hosts_;  // Of each rank.
  double own_ = 0;                  // Of the window so far.
  int64_t steps_ = 0;               // Likewise.
  int64_t every_ = 1;               // Steps from one telling to the next.
};

}  // namespace strata

#endif  // TRAINING_RUN_SPEED_WATCH_H_
