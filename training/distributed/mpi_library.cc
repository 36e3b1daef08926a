#include "training/distributed/mpi_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace strata {
namespace {

constexpr char kFile[] = "libmpi.so.40";

absl::StatusOr<MpiLibrary> Open() {
  // Its own plug-ins look symbols up in it.
  void* const library = dlopen(kFile, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot load ", kFile, " (", dlerror(),
                     "); training on several ranks wants Open MPI, Debian's "
                     "package openmpi-bin"));
  }
  MpiLibrary mpi;
  absl::Status status;
  const auto find = [&](const char* name, auto& field) {
    void* const symbol = dlsym(library, name);
    if (symbol == nullptr) {
      status.Update(absl::UnavailableError(
          absl::StrCat(kFile, " has no ", name, "; want Open MPI 4")));
    }
    field = reinterpret_cast<std::decay_t<decltype(field)>>(symbol);
  };
  find("MPI_Init_thread", mpi.init_thread);
  find("MPI_Finalize", mpi.finalize);
  find("MPI_Abort", mpi.abort);
  find("MPI_Error_string", mpi.error_string);
  find("MPI_Comm_rank", mpi.comm_rank);
  find("MPI_Comm_size", mpi.comm_size);
  find("MPI_Comm_split", mpi.comm_split);
  find("MPI_Comm_free", mpi.comm_free);
  find("MPI_Comm_set_errhandler", mpi.comm_set_errhandler);
  find("MPI_Iallreduce", mpi.iallreduce);
  find("MPI_Iallgatherv", mpi.iallgatherv);
  find("MPI_Ialltoallv", mpi.ialltoallv);
  find("MPI_Ibcast", mpi.ibcast);
  find("MPI_Ibarrier", mpi.ibarrier);
  find("MPI_Isend", mpi.isend);
  find("MPI_Irecv", mpi.irecv);
  find("MPI_Test", mpi.test);
  find("MPI_Get_count", mpi.get_count);
  find("MPI_Cancel", mpi.cancel);
  find("MPI_Request_free", mpi.request_free);
  // What MPI_COMM_WORLD, MPI_FLOAT, ... are the addresses of.
  find("ompi_mpi_comm_world", mpi.world);
  find("ompi_mpi_byte", mpi.byte);
  find("ompi_mpi_float", mpi.f32);
  find("ompi_mpi_double", mpi.f64);
  find("ompi_mpi_int32_t", mpi.i32);
  find("ompi_mpi_op_sum", mpi.sum);
  find("ompi_mpi_op_max", mpi.max);
  find("ompi_mpi_errors_return", mpi.errors_return);
  if (!status.ok()) return status;
  return mpi;
}

}  // namespace

absl::StatusOr<const MpiLibrary*> MpiLibrary::Load() {
  static const auto* const mpi = new absl::StatusOr<MpiLibrary>(Open());
  if (!mpi->ok()) return mpi->status();
  return &**mpi;
}

absl::Mutex* MpiTurn() {
  static absl::Mutex turn(absl::kConstInit);
  return &turn;
}

}  // namespace strata
