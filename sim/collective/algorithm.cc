#include "sim/collective/algorithm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/group.h"
#include "sim/collective/phase.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

bool IsPowerOfTwo(int n) { return (n & (n - 1)) == 0; }

// floor(log2(n)), as NCCL counts a tree's levels.
double Levels(int n) {
  int levels = 0;
  while (n >>= 1) ++levels;
  return levels;
}

// An all-reduce is a reduce-scatter and an all-gather.
int NumHalves(CollectiveKind kind) {
  return kind == CollectiveKind::kAllReduce ? 2 : 1;
}

absl::Status NoSuch(CollectiveKind kind, CollectiveAlgorithm algorithm,
                    absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "no %s algorithm for %s: %s", NameOf(algorithm), NameOf(kind), reason));
}

Plan RingPlan(CollectiveKind kind, double bytes, const Group& group) {
  const double n = group.size();
  const double m = group.num_nodes();
  const double num_steps = NumHalves(kind) * (n - 1);
  // Of a ring's n edges m go between nodes.
  const double net = m > 1 ? m / n : 0;
  Plan plan;
  Phase phase;
  phase.pattern = Pattern::kRing;
  phase.bytes =
      kind == CollectiveKind::kBroadcast ? bytes : num_steps * bytes / n;
  phase.steps = num_steps * (1 - net);
  phase.net_steps = num_steps * net;
  plan.phases.push_back({phase});
  if (kind != CollectiveKind::kBroadcast) plan.copy_bytes = bytes / n;
  return plan;
}

Plan TreePlan(double bytes, const Group& group) {
  Plan plan;
  Phase phase;
  phase.pattern = Pattern::kTree;
  phase.bytes = bytes;
  phase.steps = 2.0 * (group.most_per_node() - 1);
  phase.tree_steps = 2 * Levels(group.num_nodes());
  plan.phases.push_back({phase});
  return plan;
}

Plan InSwitchPlan(double bytes, const Group& group) {
  Plan plan;
  plan.transport = Transport::kInSwitch;
  Phase phase;
  phase.pattern = Pattern::kInSwitch;
  phase.bytes = bytes;
  phase.tree_steps = 2 * Levels(group.num_nodes());
  plan.phases.push_back({phase});
  return plan;
}

Plan DirectPlan(CollectiveKind kind, double bytes, const Group& group) {
  Plan plan;
  Phase phase;
  phase.pattern = Pattern::kAllPairs;
  phase.bytes = bytes / group.size();
  phase.times = NumHalves(kind);
  (group.num_nodes() > 1 ? phase.tree_steps : phase.steps) = 1;
  plan.phases.push_back({phase});
  plan.transport = Transport::kPointToPoint;
  plan.peers = phase.times * (group.size() - 1);
  plan.flow_bytes = phase.bytes;
  return plan;
}

// Nearest partners first, with half of the buffer, so that what is left for the
// far ones is small.
Plan HalvingDoublingPlan(CollectiveKind kind, double bytes,
                         const Group& group) {
  Plan plan;
  for (int distance = 1; distance < group.size(); distance *= 2) {
    Phase phase;
    phase.pattern = Pattern::kExchange;
    phase.distance = distance;
    phase.bytes = bytes / (2.0 * distance);
    phase.times = NumHalves(kind);
    const bool is_within =
        group.num_nodes() == 1 || distance < group.least_per_node();
    (is_within ? phase.steps : phase.tree_steps) = 1;
    plan.phases.push_back({phase});
  }
  plan.copy_bytes = bytes / group.size();
  return plan;
}

// Within the nodes, then the k-th of the buffer that a rank then has between
// them, on its rail.
Plan HierarchicalPlan(CollectiveKind kind, double bytes, const Group& group) {
  const double k = group.most_per_node();
  const double m = group.num_nodes();
  Plan plan;
  Phase within;
  Phase across;
  if (kind == CollectiveKind::kAllToAll) {
    within.pattern = Pattern::kWithinAll;
    within.bytes = bytes / k;
    within.steps = 1;
    across.pattern = Pattern::kAcrossAll;
    across.bytes = bytes / m;
    across.tree_steps = 1;
    plan.transport = Transport::kPointToPoint;
    plan.peers = k - 1 + m - 1;
    plan.flow_bytes = std::max(within.bytes, across.bytes);
  } else {
    within.pattern = Pattern::kWithinRing;
    within.bytes = (k - 1) / k * bytes;
    within.steps = k - 1;
    across.pattern = Pattern::kAcrossRing;
    across.bytes = (m - 1) / m * bytes / k;
    across.net_steps = m - 1;
    within.times = across.times = NumHalves(kind);
    plan.copy_bytes = bytes / group.size();
  }
  plan.phases = {{within}, {across}};
  return plan;
}

// The group's lines along a dimension, as nodes.
Group LinesAlong(const Group& group, int stride, int size) {
  Group lines;
  lines.ranks = group.ranks;
  for (int rank = 0; rank < group.size(); ++rank) {
    if (rank / stride % size != 0) continue;
    GroupNode line;
    for (int i = 0; i < size; ++i) line.ranks.push_back(rank + i * stride);
    lines.nodes.push_back(line);
  }
  return lines;
}

// Dimension by dimension, each with what the ones before have left.
Plan DimensionsPlan(CollectiveKind kind, double bytes, const Group& group,
                    const Cluster& cluster) {
  Plan plan;
  int stride = 1;
  for (const DimensionConfig& dimension : cluster.config().dimension()) {
    const int size = dimension.size();
    if (size == 1) continue;
    Phase phase;
    phase.times = NumHalves(kind);
    if (dimension.kind() == DimensionConfig::RING ||
        dimension.kind() == DimensionConfig::MESH) {
      phase.pattern = Pattern::kWithinRing;
      phase.bytes = (size - 1.0) / size * bytes;
      phase.steps = size - 1;
    } else {
      phase.pattern = Pattern::kWithinAll;
      phase.bytes = bytes / size;
      phase.steps = 1;
    }
    plan.phases.push_back({phase, static_cast<int>(plan.groups.size())});
    plan.groups.push_back(LinesAlong(group, stride, size));
    bytes /= size;
    stride *= size;
  }
  return plan;
}

bool IsWholeClusterInOrder(const Group& group, const Topology& topology) {
  return group.size() == topology.cluster().num_ranks() &&
         std::is_sorted(group.ranks.begin(), group.ranks.end());
}

bool IsReduceOrGather(CollectiveKind kind) {
  return kind == CollectiveKind::kAllReduce ||
         kind == CollectiveKind::kAllGather ||
         kind == CollectiveKind::kReduceScatter;
}

absl::StatusOr<Plan> MakeHierarchicalPlan(CollectiveKind kind, double bytes,
                                          const Group& group,
                                          const Topology& topology) {
  constexpr auto kAlgorithm = CollectiveAlgorithm::kHierarchical;
  if (!topology.has_nodes()) {
    if (!IsReduceOrGather(kind)) {
      return NoSuch(kind, kAlgorithm, "the network has no nodes");
    }
    if (!IsWholeClusterInOrder(group, topology)) {
      return NoSuch(
          kind, kAlgorithm,
          absl::StrFormat("over dimensions it takes all %d ranks in "
                          "their order; the group has %d",
                          topology.cluster().num_ranks(), group.size()));
    }
    return DimensionsPlan(kind, bytes, group, topology.cluster());
  }
  if (group.num_nodes() < 2 ||
      group.least_per_node() != group.most_per_node() ||
      group.most_per_node() < 2) {
    return NoSuch(kind, kAlgorithm,
                  absl::StrFormat("it takes two nodes or more with as many "
                                  "ranks each, two or more; the group has %d "
                                  "nodes with %d to %d ranks",
                                  group.num_nodes(), group.least_per_node(),
                                  group.most_per_node()));
  }
  return HierarchicalPlan(kind, bytes, group);
}

absl::StatusOr<Plan> PlanOf(CollectiveKind kind, CollectiveAlgorithm algorithm,
                            double bytes, const Group& group,
                            const Topology& topology) {
  const bool is_all_to_all = kind == CollectiveKind::kAllToAll;
  switch (algorithm) {
    case CollectiveAlgorithm::kRing:
      if (is_all_to_all) break;
      return RingPlan(kind, bytes, group);
    case CollectiveAlgorithm::kTree:
      if (kind != CollectiveKind::kAllReduce) break;
      if (!topology.has_nodes()) {
        return NoSuch(kind, algorithm, "the network has no nodes");
      }
      return TreePlan(bytes, group);
    case CollectiveAlgorithm::kDirect:
      if (kind == CollectiveKind::kBroadcast) break;
      return DirectPlan(kind, bytes, group);
    case CollectiveAlgorithm::kHalvingDoubling:
      if (!IsReduceOrGather(kind)) break;
      if (!IsPowerOfTwo(group.size())) {
        return NoSuch(
            kind, algorithm,
            absl::StrFormat("%d ranks are no power of two", group.size()));
      }
      return HalvingDoublingPlan(kind, bytes, group);
    case CollectiveAlgorithm::kHierarchical:
      if (kind == CollectiveKind::kBroadcast) break;
      return MakeHierarchicalPlan(kind, bytes, group, topology);
    case CollectiveAlgorithm::kInSwitch:
      if (kind != CollectiveKind::kAllReduce) break;
      if (!HasInSwitchReduction(group, topology)) {
        return NoSuch(kind, algorithm,
                      absl::StrFormat("the switches of the group's nodes do "
                                      "not reduce, or not for %d of a node's "
                                      "GPUs",
                                      group.least_per_node()));
      }
      return InSwitchPlan(bytes, group);
    case CollectiveAlgorithm::kAuto:
      break;
  }
  return NoSuch(kind, algorithm, "NCCL has none either");
}

}  // namespace

bool HasInSwitchReduction(const Group& group, const Topology& topology) {
  if (!topology.has_nodes()) return false;
  if (group.least_per_node() != group.most_per_node()) return false;
  return std::all_of(
      group.nodes.begin(), group.nodes.end(), [&](const GroupNode& node) {
        const int least = topology.cluster()
                              .Node(node.node)
                              .scale_up()
                              .min_gpus_for_in_switch_reduction();
        return least > 0 && static_cast<int>(node.ranks.size()) >= least;
      });
}

absl::StatusOr<Plan> MakePlan(CollectiveKind kind,
                              CollectiveAlgorithm algorithm, double bytes,
                              const Group& group, const Topology& topology) {
  absl::StatusOr<Plan> plan = PlanOf(kind, algorithm, bytes, group, topology);
  if (plan.ok()) plan->algorithm = algorithm;
  return plan;
}

std::vector<CollectiveAlgorithm> Candidates(CollectiveKind kind,
                                            bool in_switch_type,
                                            const Group& group,
                                            const Topology& topology) {
  if (kind == CollectiveKind::kAllToAll) return {CollectiveAlgorithm::kDirect};
  std::vector<CollectiveAlgorithm> candidates = {CollectiveAlgorithm::kRing};
  if (kind == CollectiveKind::kBroadcast) return candidates;
  if (topology.has_nodes()) {
    if (kind != CollectiveKind::kAllReduce) return candidates;
    if (group.num_nodes() > 1) candidates.push_back(CollectiveAlgorithm::kTree);
    if (in_switch_type && HasInSwitchReduction(group, topology)) {
      candidates.push_back(CollectiveAlgorithm::kInSwitch);
    }
    return candidates;
  }
  candidates.push_back(CollectiveAlgorithm::kDirect);
  if (IsPowerOfTwo(group.size())) {
    candidates.push_back(CollectiveAlgorithm::kHalvingDoubling);
  }
  if (IsWholeClusterInOrder(group, topology)) {
    candidates.push_back(CollectiveAlgorithm::kHierarchical);
  }
  return candidates;
}

absl::string_view NameOf(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kAllReduce:
      return "all-reduce";
    case CollectiveKind::kAllGather:
      return "all-gather";
    case CollectiveKind::kReduceScatter:
      return "reduce-scatter";
    case CollectiveKind::kAllToAll:
      return "all-to-all";
    case CollectiveKind::kAllToAllV:
      return "all-to-all-v";
    case CollectiveKind::kBroadcast:
      return "broadcast";
    case CollectiveKind::kSendRecv:
      return "send/recv";
  }
  return "";
}

absl::string_view NameOf(CollectiveAlgorithm algorithm) {
  switch (algorithm) {
    case CollectiveAlgorithm::kAuto:
      return "auto";
    case CollectiveAlgorithm::kRing:
      return "ring";
    case CollectiveAlgorithm::kTree:
      return "tree";
    case CollectiveAlgorithm::kDirect:
      return "direct";
    case CollectiveAlgorithm::kHalvingDoubling:
      return "halving-doubling";
    case CollectiveAlgorithm::kHierarchical:
      return "hierarchical";
    case CollectiveAlgorithm::kInSwitch:
      return "in-switch";
  }
  return "";
}

}  // namespace strata::sim
