// The suite of communicators over MPI; to be run by mpirun
// (mpi_communicator_test.sh). Exits 1 and says what failed, from each rank.

#include "training/distributed/mpi_communicator.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/parallel/communicator_suite.h"

int main() {
  auto mpi = strata::MpiWorld::Start(absl::Seconds(60));
  if (!mpi.ok()) {
    std::fprintf(stderr, "%s\n", mpi.status().ToString().c_str());
    return 1;
  }
  const std::vector<std::string> failures =
      strata::RunCommunicatorSuite((*mpi)->world());
  for (const std::string& failure : failures) {
    std::fprintf(stderr, "%s\n", failure.c_str());
  }
  std::printf("rank %d of %d: %zu failures\n", (*mpi)->world().rank(),
              (*mpi)->world().size(), failures.size());
  return failures.empty() ? 0 : 1;
}
