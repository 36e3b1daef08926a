// A workload: the Chakra traces of all ranks, resolved into what a simulator
// needs. Attributes have their values, dependencies are indices.

#ifndef SIM_CHAKRA_WORKLOAD_H_
#define SIM_CHAKRA_WORKLOAD_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_reader.h"

namespace strata::chakra {

inline constexpr int64_t kMaxNodesPerRank = int64_t{1} << 24;
inline constexpr int64_t kMaxDependenciesPerRank = int64_t{1} << 28;

// The members of process groups by group id, in the order that algorithms take
// them. Group 0 is all ranks and stands in no map.
using ProcessGroups = std::map<int, std::vector<int>>;

struct TraceNode {
  uint64_t id = 0;  // Of the file; unique there, unrelated across ranks.
  std::string name;
  int type = 0;  // A NodeType, or a value that this version does not know.
  std::vector<uint32_t> parents;  // Indices: data and control dependencies,
                                  // sorted, each once.
  uint64_t duration_us = 0;
  bool is_cpu_op = false;
  // Attributes that the trace may lack.
  std::optional<uint64_t> num_ops;
  std::optional<uint64_t> tensor_bytes;
  std::optional<uint64_t> comm_type;  // A CollectiveCommType.
  std::optional<uint64_t> comm_bytes;
  std::optional<uint64_t> comm_src;
  std::optional<uint64_t> comm_dst;
  std::optional<uint64_t> comm_tag;
  uint64_t comm_priority = 0;
  int group = 0;  // The process group's id; 0 for all ranks.
  // Whether dimension d of the network takes part; empty: all do.
  std::vector<uint8_t> involved_dims;
};

// Parents the other way round: the children of node i are child[first[i]] to
// child[first[i + 1] - 1].
struct ChildLists {
  std::vector<uint32_t> first;  // [nodes + 1]
  std::vector<uint32_t> child;
};
ChildLists ListChildren(const std::vector<TraceNode>& nodes);

struct RankTrace {
  std::string path;
  std::vector<TraceNode> nodes;  // By ascending id, which is the issue order.
  // Groups that the rank's METADATA nodes define; they override the file's.
  ProcessGroups groups;
  std::vector<std::string> notes;  // What was kept but not understood.
};

struct Workload {
  std::vector<RankTrace> ranks;
  ProcessGroups groups;  // Of the group file.

  // The members of `group`, as rank `rank` knows it: null for group 0, which is
  // all ranks, and if there is no such group (which CheckWorkload refuses).
  const std::vector<int>* FindGroup(int rank, int group) const;
};

// "node 7 \"AR\"", with the name cut to a length for messages.
std::string NodeName(const TraceNode& node);

// "ALL_REDUCE", or "collective type 42".
std::string CollectiveName(uint64_t comm_type);

// Reads a rank's trace to its end.
//
// Returns the reader's errors; DATA_LOSS, naming file, byte and node, for an id
// that occurs twice, a dependency that is no node, an attribute of the wrong
// kind or a process group that is no number; RESOURCE_EXHAUSTED above 2^24
// nodes or 2^28 dependencies.
absl::StatusOr<RankTrace> LoadRank(TraceReader reader);

// Reads "PREFIX.<rank>.et" for all ranks from 0 to num_ranks - 1.
absl::StatusOr<Workload> LoadWorkload(absl::string_view prefix, int num_ranks);

// Parses a communicator group file: {"1": [0, 1], "2": [2, 3]}. `name` is the
// file's, for errors.
//
// Returns INVALID_ARGUMENT if it is no such object, if a key is no number from
// 1 on, or if a rank is not below `num_ranks` or stands twice in a group.
absl::StatusOr<ProcessGroups> ParseProcessGroups(absl::string_view text,
                                                 absl::string_view name,
                                                 int num_ranks);

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_WORKLOAD_H_
