#include "sim/collective/group.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.h"

namespace strata::sim {
namespace {

absl::StatusOr<std::vector<int>> ListRanks(const Cluster& cluster,
                                           absl::Span<const int> ranks,
                                           const RankGroup& group) {
  if (!ranks.empty()) return std::vector<int>(ranks.begin(), ranks.end());
  if (group.count < 1 || group.count > cluster.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a group of %d ranks; want 1 to %d", group.count, cluster.num_ranks()));
  }
  const int64_t last = group.first + int64_t{group.stride} * (group.count - 1);
  if (group.stride < 1 || group.first < 0 || last >= cluster.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a group of %d ranks from %d in steps of %d; want ranks 0 to %d",
        group.count, group.first, group.stride, cluster.num_ranks() - 1));
  }
  std::vector<int> listed(group.count);
  for (int i = 0; i < group.count; ++i) {
    listed[i] = group.first + i * group.stride;
  }
  return listed;
}

bool AreAlike(const Cluster& cluster, const GroupNode& a, const GroupNode& b) {
  if (a.ranks.size() != b.ranks.size()) return false;
  for (size_t i = 0; i < a.ranks.size(); ++i) {
    if (a.ranks[i] - cluster.FirstRank(a.node) !=
        b.ranks[i] - cluster.FirstRank(b.node)) {
      return false;
    }
  }
  const NodeConfig& node_a = cluster.Node(a.node);
  const NodeConfig& node_b = cluster.Node(b.node);
  return node_a.num_gpus() == node_b.num_gpus() &&
         node_a.nic().count() == node_b.nic().count();
}

}  // namespace

int Group::least_per_node() const {
  size_t least = ranks.size();
  for (const GroupNode& node : nodes) {
    least = std::min(least, node.ranks.size());
  }
  return least;
}

int Group::most_per_node() const {
  size_t most = 0;
  for (const GroupNode& node : nodes) most = std::max(most, node.ranks.size());
  return most;
}

absl::StatusOr<Group> ResolveGroup(const Cluster& cluster,
                                   absl::Span<const int> ranks,
                                   const RankGroup& group) {
  absl::StatusOr<std::vector<int>> listed = ListRanks(cluster, ranks, group);
  if (!listed.ok()) return listed.status();
  Group resolved;
  resolved.ranks = *std::move(listed);
  std::vector<int> sorted = resolved.ranks;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.front() < 0 || sorted.back() >= cluster.num_ranks()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rank %d is in the group; the cluster has 0 to %d",
                        sorted.front() < 0 ? sorted.front() : sorted.back(),
                        cluster.num_ranks() - 1));
  }
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rank %d is in the group twice", *twice));
  }
  absl::flat_hash_map<int, int> place;  // Node -> index in `nodes`.
  for (int i = 0; i < resolved.size(); ++i) {
    const int node = cluster.NodeOf(resolved.ranks[i]);
    const auto [it, is_new] = place.try_emplace(node, resolved.nodes.size());
    if (is_new) resolved.nodes.push_back({node, {}, {}});
    resolved.nodes[it->second].ranks.push_back(resolved.ranks[i]);
    resolved.nodes[it->second].indices.push_back(i);
  }
  resolved.is_symmetric = std::all_of(
      resolved.nodes.begin(), resolved.nodes.end(), [&](const GroupNode& node) {
        return AreAlike(cluster, resolved.nodes[0], node);
      });
  return resolved;
}

}  // namespace strata::sim
