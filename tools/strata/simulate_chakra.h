// strata simulate --chakra

#ifndef TOOLS_STRATA_SIMULATE_CHAKRA_H_
#define TOOLS_STRATA_SIMULATE_CHAKRA_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/chakra/workload.h"

namespace strata {

struct ChakraFlags {
  std::string traces;  // A folder, or a prefix: PREFIX.<rank>.et.
  std::string cluster;
  std::string groups;
  std::string machine;  // A calibration, in place of the cluster.
  bool roofline = false;
  std::vector<std::pair<int, double>> slow;  // Rank, factor.
  std::string trace;
  std::string html;
  bool json = false;
};

// The prefix of a folder's traces, or `traces` itself if it is no folder, and
// how many ranks there are.
//
// Returns NOT_FOUND if there is no trace, and INVALID_ARGUMENT if a folder has
// those of several workloads, or if a rank's is missing.
absl::StatusOr<std::pair<std::string, int>> FindTraces(
    const std::string& traces);

// The traces of all ranks of a folder, or of a prefix. Returns the errors of
// FindTraces and chakra::LoadWorkload.
absl::StatusOr<chakra::Workload> LoadTraces(const std::string& traces);

absl::StatusOr<int> RunSimulateChakra(const ChakraFlags& flags);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_CHAKRA_H_
