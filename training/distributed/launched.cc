#include "training/distributed/launched.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"

namespace strata {
namespace {

// So long the first rank is given to say what all ranks see.
constexpr absl::Duration kFirstRankSpeaks = absl::Seconds(1);
// Of other hosts, those with lower ranks then go first; up to 20 of them.
constexpr absl::Duration kLowerRankSpeaks = absl::Milliseconds(100);

int Environment(const char* variable, int otherwise) {
  int number = 0;
  const char* const value = std::getenv(variable);
  return value != nullptr && absl::SimpleAtoi(value, &number) ? number
                                                              : otherwise;
}

// What mpirun says in the environment, or else srun where it speaks PMIx. Other
// variables of Slurm are there in a job's script, too, which is one process.
int Launched(const char* of_mpirun, const char* of_srun, int otherwise) {
  const bool has_pmix = std::getenv("PMIX_RANK") != nullptr;
  return Environment(of_mpirun,
                     has_pmix ? Environment(of_srun, otherwise) : otherwise);
}

}  // namespace

int NumLaunchedRanks() {
  return Launched("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", 1);
}

int LaunchedRank() {
  return Launched("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", 0);
}

int LaunchedRankOfMachine() {
  return Launched("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", 0);
}

int NumLonelyTasks() {
  const bool is_launched = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr ||
                           std::getenv("PMIX_RANK") != nullptr;
  return is_launched ? 1 : Environment("SLURM_STEP_NUM_TASKS", 1);
}

absl::Duration TurnToSpeak(int rank) {
  if (rank == 0) return absl::ZeroDuration();
  return kFirstRankSpeaks + std::min(rank, 20) * kLowerRankSpeaks;
}

}  // namespace strata
