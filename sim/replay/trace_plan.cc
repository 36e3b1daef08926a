#include "sim/replay/trace_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::sim {
namespace {

using ::strata::chakra::TraceNode;

constexpr size_t kShownCycleNodes = 8;

NodeRole RoleOf(const TraceNode& node) {
  switch (node.type) {
    case ChakraProtoMsg::COMP_NODE:
      return node.is_cpu_op ? NodeRole::kHost : NodeRole::kCompute;
    case ChakraProtoMsg::MEM_LOAD_NODE:
    case ChakraProtoMsg::MEM_STORE_NODE:
      return NodeRole::kMemory;
    case ChakraProtoMsg::COMM_COLL_NODE:
      return NodeRole::kCollective;
    case ChakraProtoMsg::COMM_SEND_NODE:
      return NodeRole::kSend;
    case ChakraProtoMsg::COMM_RECV_NODE:
      return NodeRole::kReceive;
    default:
      return NodeRole::kNothing;
  }
}

class Planner {
 public:
  explicit Planner(const chakra::Workload& workload) {
    plan_.workload = &workload;
  }

  absl::StatusOr<TracePlan> Plan() {
    NodeIndex num_nodes = 0;
    for (const chakra::RankTrace& rank : plan_.workload->ranks) {
      plan_.first_node.push_back(num_nodes);
      num_nodes += static_cast<NodeIndex>(rank.nodes.size());
      plan_.children.push_back(chakra::ListChildren(rank.nodes));
    }
    plan_.first_node.push_back(num_nodes);
    if (num_nodes > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the traces have ", num_nodes, " nodes; want 2^31 at most"));
    }
    plan_.role.reserve(num_nodes);
    plan_.rank_of.reserve(num_nodes);
    for (size_t rank = 0; rank < plan_.workload->ranks.size(); ++rank) {
      for (const TraceNode& node : plan_.workload->ranks[rank].nodes) {
        plan_.role.push_back(RoleOf(node));
        plan_.rank_of.push_back(static_cast<int32_t>(rank));
      }
    }
    plan_.joint_of.assign(num_nodes, -1);
    plan_.peer.assign(num_nodes, -1);
    PlanJoints();
    RETURN_IF_ERROR(CheckJoints());
    PlanMessages();
    RETURN_IF_ERROR(CheckAcyclic());
    return std::move(plan_);
  }

 private:
  // Group, kind, bytes, dimensions, and the how-many-eth of a rank it is.
  using JointKey =
      std::tuple<int, uint64_t, uint64_t, std::vector<uint8_t>, int64_t>;

  void PlanJoints() {
    std::map<std::vector<int>, int> channels;
    std::map<std::pair<int, JointKey>, int32_t> joints;  // Channel, key.
    std::vector<int> all(plan_.workload->ranks.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      std::map<JointKey, int64_t> count;  // With a last part of 0.
      const std::vector<TraceNode>& nodes = plan_.workload->ranks[rank].nodes;
      for (size_t i = 0; i < nodes.size(); ++i) {
        const TraceNode& node = nodes[i];
        if (node.type != ChakraProtoMsg::COMM_COLL_NODE) continue;
        const std::vector<int>* members =
            plan_.workload->FindGroup(static_cast<int>(rank), node.group);
        if (members == nullptr) members = &all;
        const auto [channel, is_new_channel] =
            channels.try_emplace(*members, static_cast<int>(channels.size()));
        if (is_new_channel) plan_.channel_ranks.push_back(*members);
        JointKey key = {node.group, *node.comm_type, *node.comm_bytes,
                        node.involved_dims, 0};
        std::get<4>(key) = count[key]++;
        const auto [joint, is_new] = joints.try_emplace(
            {channel->second, key}, static_cast<int32_t>(plan_.joints.size()));
        if (is_new) {
          plan_.joints.push_back({*node.comm_type, *node.comm_bytes,
                                  channel->second,
                                  std::vector<NodeIndex>(members->size(), -1)});
        }
        const size_t place = std::find(members->begin(), members->end(), rank) -
                             members->begin();
        const NodeIndex index =
            plan_.first_node[rank] + static_cast<NodeIndex>(i);
        plan_.joints[joint->second].nodes[place] = index;
        plan_.joint_of[index] = joint->second;
      }
    }
  }

  // A group that lists a rank twice leaves a place that nobody takes: traces'
  // own groups may.
  absl::Status CheckJoints() const {
    for (const Joint& joint : plan_.joints) {
      const auto empty = std::find(joint.nodes.begin(), joint.nodes.end(), -1);
      if (empty == joint.nodes.end()) continue;
      const NodeIndex node =
          *std::max_element(joint.nodes.begin(), joint.nodes.end());
      return absl::InvalidArgumentError(absl::StrCat(
          plan_.Place(node), " is in process group ", plan_.Node(node).group,
          ", which has rank ",
          plan_.channel_ranks[joint.channel][empty - joint.nodes.begin()],
          " twice"));
    }
    return absl::OkStatus();
  }

  void PlanMessages() {
    // Source, destination, tag, bytes.
    using Key = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>;
    std::map<Key, std::pair<std::vector<NodeIndex>, std::vector<NodeIndex>>>
        messages;
    for (size_t rank = 0; rank < plan_.workload->ranks.size(); ++rank) {
      const std::vector<TraceNode>& nodes = plan_.workload->ranks[rank].nodes;
      for (size_t i = 0; i < nodes.size(); ++i) {
        const TraceNode& node = nodes[i];
        const NodeIndex index =
            plan_.first_node[rank] + static_cast<NodeIndex>(i);
        if (plan_.role[index] == NodeRole::kSend) {
          messages[{rank, *node.comm_dst, *node.comm_tag, *node.comm_bytes}]
              .first.push_back(index);
        } else if (plan_.role[index] == NodeRole::kReceive) {
          messages[{*node.comm_src, rank, *node.comm_tag, *node.comm_bytes}]
              .second.push_back(index);
        }
      }
    }
    for (const auto& [key, ends] : messages) {
      for (size_t i = 0; i < ends.first.size(); ++i) {
        plan_.peer[ends.first[i]] = ends.second[i];
        plan_.peer[ends.second[i]] = ends.first[i];
      }
    }
  }

  // Kahn's algorithm over all ranks: a collective ends when all its nodes may
  // begin, a receive after its send.
  absl::Status CheckAcyclic() {
    const size_t num_nodes = plan_.role.size();
    waits_.resize(num_nodes);
    std::vector<int64_t> missing;  // Of joints: nodes that may not begin.
    for (const Joint& joint : plan_.joints) {
      missing.push_back(static_cast<int64_t>(joint.nodes.size()));
    }
    std::vector<NodeIndex> ready;
    for (size_t rank = 0; rank < plan_.workload->ranks.size(); ++rank) {
      const std::vector<TraceNode>& nodes = plan_.workload->ranks[rank].nodes;
      for (size_t i = 0; i < nodes.size(); ++i) {
        const NodeIndex node =
            plan_.first_node[rank] + static_cast<NodeIndex>(i);
        waits_[node] = static_cast<uint32_t>(nodes[i].parents.size()) +
                       (plan_.role[node] == NodeRole::kReceive);
        if (waits_[node] == 0) ready.push_back(node);
      }
    }
    size_t num_done = 0;
    const auto end = [&](NodeIndex node) {
      ++num_done;
      const int rank = plan_.RankOf(node);
      const NodeIndex first = plan_.first_node[rank];
      const chakra::ChildLists& children = plan_.children[rank];
      for (uint32_t c = children.first[node - first];
           c < children.first[node - first + 1]; ++c) {
        const NodeIndex child = first + children.child[c];
        if (--waits_[child] == 0) ready.push_back(child);
      }
      if (plan_.role[node] != NodeRole::kSend) return;
      if (--waits_[plan_.peer[node]] == 0) ready.push_back(plan_.peer[node]);
    };
    while (!ready.empty()) {
      const NodeIndex node = ready.back();
      ready.pop_back();
      const int32_t joint = plan_.joint_of[node];
      if (joint < 0) {
        end(node);
      } else if (--missing[joint] == 0) {
        for (const NodeIndex member : plan_.joints[joint].nodes) end(member);
      }
    }
    if (num_done == num_nodes) return absl::OkStatus();
    return CycleError();
  }

  // What the node waits for; there is something, since it did not end.
  NodeIndex BlockerOf(NodeIndex node) const {
    if (plan_.joint_of[node] >= 0 && waits_[node] == 0) {
      for (const NodeIndex member : plan_.joints[plan_.joint_of[node]].nodes) {
        if (waits_[member] > 0) return member;
      }
    }
    const NodeIndex first = plan_.first_node[plan_.RankOf(node)];
    for (const uint32_t parent : plan_.Node(node).parents) {
      if (IsStuck(first + parent)) return first + parent;
    }
    return plan_.peer[node];
  }

  bool IsStuck(NodeIndex node) const {
    if (waits_[node] > 0) return true;
    const int32_t joint = plan_.joint_of[node];
    if (joint < 0) return false;
    const std::vector<NodeIndex>& nodes = plan_.joints[joint].nodes;
    return std::any_of(nodes.begin(), nodes.end(),
                       [&](NodeIndex member) { return waits_[member] > 0; });
  }

  absl::Status CycleError() const {
    NodeIndex at = 0;
    while (!IsStuck(at)) ++at;
    std::vector<NodeIndex> path;
    absl::flat_hash_set<NodeIndex> seen;
    while (seen.insert(at).second) {
      path.push_back(at);
      at = BlockerOf(at);
    }
    path.erase(path.begin(), std::find(path.begin(), path.end(), at));
    std::string text = absl::StrCat(plan_.Place(path[0]),
                                    " waits for itself over ranks: it needs ");
    for (size_t i = 1; i < path.size() && i <= kShownCycleNodes; ++i) {
      absl::StrAppend(&text, plan_.Place(path[i]), ", which needs ");
    }
    if (path.size() > kShownCycleNodes + 1) {
      absl::StrAppend(&text, path.size() - kShownCycleNodes - 1,
                      " more, which need ");
    }
    return absl::InvalidArgumentError(
        absl::StrCat(text, "rank ", plan_.RankOf(path[0]), ", ",
                     chakra::NodeName(plan_.Node(path[0]))));
  }

  TracePlan plan_;
  std::vector<uint32_t> waits_;  // [nodes], for parents and sends
};

}  // namespace

const TraceNode& TracePlan::Node(NodeIndex node) const {
  const int rank = RankOf(node);
  return workload->ranks[rank].nodes[node - first_node[rank]];
}

std::string TracePlan::Place(NodeIndex node) const {
  const int rank = RankOf(node);
  return absl::StrCat(workload->ranks[rank].path, ": rank ", rank, ", ",
                      chakra::NodeName(Node(node)));
}

absl::StatusOr<TracePlan> PlanTraces(const chakra::Workload& workload) {
  return Planner(workload).Plan();
}

}  // namespace strata::sim
