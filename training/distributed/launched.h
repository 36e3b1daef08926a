// Which of several processes this one is, as mpirun or srun says in the
// environment; known before MPI starts.

#ifndef TRAINING_DISTRIBUTED_LAUNCHED_H_
#define TRAINING_DISTRIBUTED_LAUNCHED_H_

#include "absl/time/time.h"

namespace strata {

// How many processes mpirun says that it started, or Slurm's srun with PMIx; 1
// without them.
int NumLaunchedRanks();
// Which of those this one is; 0 without them.
int LaunchedRank();
// Which of those on this machine; 0 without them.
int LaunchedRankOfMachine();
// How many tasks srun started that do not know of each other, as it was not
// told to speak PMIx; 1 otherwise.
int NumLonelyTasks();

// How long a rank waits before it says why all end, so that what all of them
// see is said once: the first has ended them by then.
absl::Duration TurnToSpeak(int rank);

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_LAUNCHED_H_
