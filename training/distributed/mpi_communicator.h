// The ranks that mpirun (or Slurm's srun) started, as a Communicator.
//
//   mpirun -np 4 strata train ...
//
//   ASSIGN_OR_RETURN(std::unique_ptr<MpiWorld> mpi, MpiWorld::Start(timeout));
//   mpi->world().AllReduce(...)
//
// Calls of MPI that wait are made as those that do not, and asked for until the
// time is up: a rank that hangs is an error on the others, not a hang of all.

#ifndef TRAINING_DISTRIBUTED_MPI_COMMUNICATOR_H_
#define TRAINING_DISTRIBUTED_MPI_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"

namespace strata {

// MPI of this process, from its beginning to its end.
class MpiWorld {
 public:
  // Once a process. Without mpirun it is a world of one rank. Threads may call
  // at the same time, each a group of its own. Ends the process with status 1
  // if the others have not started within the time-out, or a minute where that
  // is longer.
  //
  // Returns UNAVAILABLE where Open MPI is not installed.
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Start(
      absl::Duration timeout);

  // Waits for the other ranks' end; the communicators must be gone by then. If
  // one does not come within the time-out, says so and ends all with status 1.
  virtual ~MpiWorld() = default;

  virtual Communicator& world() = 0;

  // Whether this rank is the first of its machine to ask: the one that says why
  // all end.
  virtual bool ClaimLastWord() = 0;

  // Ends all ranks at once with `status`: for one that cannot go on.
  virtual void Abort(int status) = 0;
};

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_MPI_COMMUNICATOR_H_
