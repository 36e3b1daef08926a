// The suite of communicators over MPI; to be run by mpirun
// (mpi_communicator_test.sh). Exits 1 and says what failed, from each rank.
// With `late`, a rank that does not come instead.

#include "training/distributed/mpi_communicator.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"
#include "core/parallel/communicator_suite.h"

namespace {

// Rank 1 sleeps beyond the time-out, in which the others wait for it: each must
// say that it is rank 1. Ends without MPI, which is no longer of use.
[[noreturn]] void WaitForASleeper(strata::Communicator& world) {
  if (world.rank() == 1) {
    absl::SleepFor(absl::Seconds(15));
    std::_Exit(0);
  }
  const std::string error(world.Barrier().message());
  const bool names = error.find("; rank 1 ") != std::string::npos &&
                     error.find("was last heard of") != std::string::npos &&
                     error.find("; rank 0") == std::string::npos &&
                     error.find("; rank 2") == std::string::npos;
  std::printf("rank %d %s: %s\n", world.rank(),
              names ? "names the sleeper" : "does not know", error.c_str());
  std::fflush(stdout);
  absl::SleepFor(absl::Seconds(1));  // The others say theirs.
  std::_Exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  const bool late = argc > 1 && std::string(argv[1]) == "late";
  auto mpi = strata::MpiWorld::Start(absl::Seconds(late ? 5 : 60));
  if (!mpi.ok()) {
    std::fprintf(stderr, "%s\n", mpi.status().ToString().c_str());
    return 1;
  }
  if (late) WaitForASleeper((*mpi)->world());
  const std::vector<std::string> failures =
      strata::RunCommunicatorSuite((*mpi)->world());
  for (const std::string& failure : failures) {
    std::fprintf(stderr, "%s\n", failure.c_str());
  }
  std::printf("rank %d of %d: %zu failures\n", (*mpi)->world().rank(),
              (*mpi)->world().size(), failures.size());
  return failures.empty() ? 0 : 1;
}
