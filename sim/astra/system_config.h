// ASTRA-sim's system file (JSON) and remote memory file, as far as its
// analytical mode reads them. docs/chakra.md says what each key does.

#ifndef SIM_ASTRA_SYSTEM_CONFIG_H_
#define SIM_ASTRA_SYSTEM_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata::astra {

// Which of several collectives that wait for a dimension goes first: the last
// that was issued, the first, or that with the higher comm_priority.
enum class SchedulingPolicy { kLifo, kFifo, kExplicit };

enum class AlgorithmKind {
  kRing,
  kDirect,
  kHalvingDoubling,
  kDoubleBinaryTree
};

struct Implementation {
  AlgorithmKind kind = AlgorithmKind::kRing;
  int window = 0;  // Of kDirect: messages under way at once; 0 for all.
  // oneRing, oneDirect, oneHalvingDoubling: over all ranks as if they were one
  // dimension.
  bool all_ranks = false;
};

// One entry for each dimension of the network, or fewer: dimensions beyond the
// last take no part.
using Implementations = std::vector<Implementation>;

struct SystemConfig {
  SchedulingPolicy scheduling_policy = SchedulingPolicy::kLifo;
  // What a step of a collective over all ranks is charged; over smaller groups
  // it is 10 ns, whatever the file says.
  int64_t endpoint_delay_ns = 10;
  int active_chunks = 1;        // Per dimension.
  int preferred_splits = 1;     // Chunks of a collective.
  bool local_bw_aware = false;  // All-reduce as reduce-scatters, all-gathers.
  Implementations all_reduce;
  Implementations all_gather;
  Implementations reduce_scatter;
  Implementations all_to_all;
  double local_memory_gbps = 0;  // 10^9 bytes a second; 0: not stated.
  bool roofline = false;
  double peak_tflops = 0;
  bool replay_only = false;  // Every node lasts as long as its trace says.
};

enum class MemoryKind { kNone, kPerNode, kPerRank, kPool };

struct RemoteMemoryConfig {
  MemoryKind kind = MemoryKind::kNone;
  double latency_ns = 0;
  double bandwidth_gbps = 0;  // 10^9 bytes a second.
  int num_nodes = 0;
  int ranks_per_node = 0;
};

// Parse the files' text; `name` is the file's, for errors. Keys that do not
// change a run's cycles are ignored.
//
// Return INVALID_ARGUMENT, naming file and key, for text that is no JSON object
// and values of the wrong kind or range; UNIMPLEMENTED for what is not
// simulated here: a shared memory bus and custom collectives.
absl::StatusOr<SystemConfig> ParseSystemConfig(absl::string_view text,
                                               absl::string_view name);
absl::StatusOr<RemoteMemoryConfig> ParseRemoteMemoryConfig(
    absl::string_view text, absl::string_view name);

}  // namespace strata::astra

#endif  // SIM_ASTRA_SYSTEM_CONFIG_H_
