// Open MPI, loaded when it is first asked for: a program that never trains on
// several ranks runs where it is not installed.

#ifndef TRAINING_DISTRIBUTED_MPI_LIBRARY_H_
#define TRAINING_DISTRIBUTED_MPI_LIBRARY_H_

// The C interface alone: that of C++ wants a directory of its own searched.
#define OMPI_SKIP_MPICXX 1
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mpi/mpi.h"

namespace strata {

// The functions of mpi.h that are used, without their prefix, and what its
// macros for constants stand for.
struct MpiLibrary {
  decltype(&MPI_Init_thread) init_thread;
  decltype(&MPI_Finalize) finalize;
  decltype(&MPI_Abort) abort;
  decltype(&MPI_Error_string) error_string;
  decltype(&MPI_Comm_rank) comm_rank;
  decltype(&MPI_Comm_size) comm_size;
  decltype(&MPI_Comm_split) comm_split;
  decltype(&MPI_Comm_free) comm_free;
  decltype(&MPI_Comm_set_errhandler) comm_set_errhandler;
  decltype(&MPI_Iallreduce) iallreduce;
  decltype(&MPI_Iallgatherv) iallgatherv;
  decltype(&MPI_Ialltoallv) ialltoallv;
  decltype(&MPI_Ibcast) ibcast;
  decltype(&MPI_Ibarrier) ibarrier;
  decltype(&MPI_Isend) isend;
  decltype(&MPI_Irecv) irecv;
  decltype(&MPI_Test) test;
  decltype(&MPI_Get_count) get_count;
  decltype(&MPI_Cancel) cancel;
  decltype(&MPI_Request_free) request_free;

  MPI_Comm world;
  MPI_Datatype byte, f32, f64, i32;
  MPI_Op sum, max;
  MPI_Errhandler errors_return;

  // Loads it once a process.
  //
  // Returns UNAVAILABLE if libmpi is not there or is not Open MPI's.
  static absl::StatusOr<const MpiLibrary*> Load();
};

// Held by a thread while it calls MPI.
absl::Mutex* MpiTurn();

// Calls MPI. All calls but those of its beginning and end return at once, and
// are made by one thread at a time: MPI_THREAD_SERIALIZED, which costs less
// than letting MPI lock itself. Lanes (core/runtime/lanes.h) wait for their
// groups beside the program's thread.
template <typename... Parameters, typename... Arguments>
int InTurn(int (*call)(Parameters...), Arguments... arguments) {
  absl::MutexLock lock(MpiTurn());
  return call(arguments...);
}

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_MPI_LIBRARY_H_
