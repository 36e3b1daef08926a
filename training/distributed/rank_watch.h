// Waits for mpirun, and ends it where it waits in vain: for another host, as
// one that cannot be reached is not missed before TCP gives it up, which is
// long after the ranks have given each other up; or for a rank that was stopped
// in its very end, when the others had gone and nobody missed it any more.
//
//   mpirun ──forks──> ranks of this machine    none yet, or not all any more,
//     └─────ssh─────> those of other machines  for too long: mpirun is ended

#ifndef TRAINING_DISTRIBUTED_RANK_WATCH_H_
#define TRAINING_DISTRIBUTED_RANK_WATCH_H_

#include <sys/types.h>

#include <functional>
#include <string>

#include "absl/time/time.h"

namespace strata {

struct RankWatchOptions {
  absl::Duration start = absl::InfiniteDuration();  // Until there are ranks.
  absl::Duration end = absl::InfiniteDuration();  // After the first has ended.
  // Whether the ranks are to end. They are told by SIGUSR1, which mpirun passes
  // on, again and again, as those that have yet to start do not hear it.
  std::function<bool()> stop = nullptr;
};

struct RankWatchResult {
  int status = 0;  // As waitpid has it.
  bool had_ranks = false;
  bool was_ended = false;  // It was beyond a limit.
};

// Waits for process `pid`, a child of this one. Children of its own that run
// `program`, a path without links, are its ranks.
RankWatchResult WaitForRanks(pid_t pid, const std::string& program,
                             const RankWatchOptions& options);

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_RANK_WATCH_H_
