// Keeps a training run alive: starts its ranks, and starts them again from the
// last checkpoint when one of them has died or hung.
//
//   mpirun -np 4 strata train --dp=4 --out=runs/a
//     ... a rank is killed: mpirun ends the others
//     ... a rank hangs: the others give up after --timeout, and mpirun ends all
//   mpirun -np 4 strata train --dp=4 --out=runs/a --resume=runs/a/step-000120
//
// What is lost is the work since that checkpoint. The result is that of a run
// that nothing happened to, bit for bit, as a resumed run's is.

#ifndef TRAINING_DISTRIBUTED_LAUNCHER_H_
#define TRAINING_DISTRIBUTED_LAUNCHER_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

struct LaunchOptions {
  int ranks = 1;
  int restarts = 20;                // At most.
  std::vector<std::string> mpirun;  // Further arguments of mpirun.
  std::string program;              // strata.
  // "train", ..., with --out, where checkpoints are. --resume is added to it,
  // and --overwrite where it begins anew.
  std::vector<std::string> arguments;
  std::function<void(absl::string_view)> note = nullptr;  // Of each restart.
  // Whether to end: Ctrl-C. The ranks are then told by SIGUSR1, which mpirun
  // passes on to them, and waited for: they save first.
  std::function<bool()> stop = nullptr;
};

// Returns the exit status of the last start: 0 if the run is done.
//
// Returns INVALID_ARGUMENT if there is no --out. Returns UNAVAILABLE if the
// ranks ended twice in a row before their first step, which a further start
// would not mend, or more often than `restarts`; NOT_FOUND if mpirun is not
// there.
absl::StatusOr<int> Launch(const LaunchOptions& options);

// The command of one start; `checkpoint` is where it goes on, empty if it
// begins.
//
// Returns INVALID_ARGUMENT as above.
absl::StatusOr<std::vector<std::string>> LaunchCommand(
    const LaunchOptions& options, const std::string& checkpoint, bool again);

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_LAUNCHER_H_
