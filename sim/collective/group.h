// The ranks of a collective, by node.

#ifndef SIM_COLLECTIVE_GROUP_H_
#define SIM_COLLECTIVE_GROUP_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.h"

namespace strata::sim {

// first, first + stride, ...: count ranks.
struct RankGroup {
  int first = 0;
  int stride = 1;
  int count = 0;
};

struct GroupNode {
  int node = 0;
  std::vector<int> ranks;    // In the group's order.
  std::vector<int> indices;  // Their places in the group.
};

struct Group {
  std::vector<int> ranks;
  std::vector<GroupNode> nodes;  // In the order in which the group meets them.
  // Every node has the same GPUs of its own in the group, in the same order and
  // next to the same NICs: nodes then behave alike up to the links' bandwidths.
  bool is_symmetric = false;

  int size() const { return ranks.size(); }
  int num_nodes() const { return nodes.size(); }
  int least_per_node() const;
  int most_per_node() const;
};

// Returns INVALID_ARGUMENT if there are no ranks, or one is not in the cluster
// or there twice.
absl::StatusOr<Group> ResolveGroup(const Cluster& cluster,
                                   absl::Span<const int> ranks,
                                   const RankGroup& group);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_GROUP_H_
