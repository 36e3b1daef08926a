#include "sim/chakra/check.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {
namespace {

constexpr size_t kShownCycleNodes = 6;

// A node's place: what every message begins with.
std::string Place(const Workload& workload, int rank, const TraceNode& node) {
  return absl::StrCat(workload.ranks[rank].path, ": rank ", rank, ", ",
                      NodeName(node));
}

absl::Status Error(const Workload& workload, int rank, const TraceNode& node,
                   absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(Place(workload, rank, node), " ", problem));
}

absl::Status CheckPeer(const Workload& workload, int rank,
                       const TraceNode& node, absl::string_view attribute,
                       const std::optional<uint64_t>& peer, TraceRules rules) {
  const uint64_t num_ranks = workload.ranks.size();
  if (!peer.has_value()) {
    return Error(workload, rank, node,
                 absl::StrCat("lacks the attribute ", attribute));
  }
  const bool takes_own = rules == TraceRules::kReplay;
  if (*peer >= num_ranks ||
      (*peer == static_cast<uint64_t>(rank) && !takes_own)) {
    return Error(workload, rank, node,
                 absl::StrCat("has ", attribute, " ", *peer, "; want ",
                              takes_own ? "a" : "another", " rank, 0 to ",
                              num_ranks - 1));
  }
  return absl::OkStatus();
}

// Whether the node is a broadcast that waits for nobody.
bool IsReplayed(const TraceNode& node, TraceRules rules) {
  return rules == TraceRules::kAstra &&
         *node.comm_type == ChakraProtoMsg::BROADCAST;
}

absl::Status CheckNode(const Workload& workload, int rank,
                       const TraceNode& node, TraceRules rules) {
  const bool is_send = node.type == ChakraProtoMsg::COMM_SEND_NODE;
  const bool is_recv = node.type == ChakraProtoMsg::COMM_RECV_NODE;
  const bool is_collective = node.type == ChakraProtoMsg::COMM_COLL_NODE;
  if (!is_send && !is_recv && !is_collective) return absl::OkStatus();
  if (node.is_cpu_op) {
    return Error(workload, rank, node, "communicates, but is_cpu_op is true");
  }
  if (is_collective) {
    if (!node.comm_type.has_value()) {
      return Error(workload, rank, node, "lacks the attribute comm_type");
    }
    if (!node.comm_bytes.has_value() && !IsReplayed(node, rules)) {
      return Error(workload, rank, node, "lacks the attribute comm_size");
    }
    return absl::OkStatus();
  }
  const std::optional<uint64_t>& own = is_send ? node.comm_src : node.comm_dst;
  if (own.has_value() && *own != static_cast<uint64_t>(rank)) {
    return Error(workload, rank, node,
                 absl::StrCat("has ", is_send ? "comm_src " : "comm_dst ", *own,
                              "; want its own rank"));
  }
  RETURN_IF_ERROR(CheckPeer(workload, rank, node,
                            is_send ? "comm_dst" : "comm_src",
                            is_send ? node.comm_dst : node.comm_src, rules));
  if (!node.comm_bytes.has_value()) {
    return Error(workload, rank, node, "lacks the attribute comm_size");
  }
  if (!node.comm_tag.has_value()) {
    return Error(workload, rank, node, "lacks the attribute comm_tag");
  }
  return absl::OkStatus();
}

// Kahn's algorithm; what is left over holds a cycle, which a walk from child to
// parent finds.
absl::Status CheckAcyclic(const Workload& workload, int rank) {
  const std::vector<TraceNode>& nodes = workload.ranks[rank].nodes;
  const ChildLists children = ListChildren(nodes);
  std::vector<uint32_t> num_waiting(nodes.size());
  std::vector<uint32_t> ready;
  for (size_t i = 0; i < nodes.size(); ++i) {
    num_waiting[i] = static_cast<uint32_t>(nodes[i].parents.size());
    if (nodes[i].parents.empty()) ready.push_back(static_cast<uint32_t>(i));
  }
  size_t num_done = 0;
  while (!ready.empty()) {
    const uint32_t node = ready.back();
    ready.pop_back();
    ++num_done;
    for (uint32_t c = children.first[node]; c < children.first[node + 1]; ++c) {
      const uint32_t child = children.child[c];
      if (--num_waiting[child] == 0) ready.push_back(child);
    }
  }
  if (num_done == nodes.size()) return absl::OkStatus();

  uint32_t at = 0;
  while (num_waiting[at] == 0) ++at;
  std::vector<uint32_t> path;
  std::vector<bool> seen(nodes.size());
  while (!seen[at]) {
    seen[at] = true;
    path.push_back(at);
    at = *std::find_if(nodes[at].parents.begin(), nodes[at].parents.end(),
                       [&](uint32_t p) { return num_waiting[p] > 0; });
  }
  path.erase(path.begin(), std::find(path.begin(), path.end(), at));
  std::string text = "waits for itself: it depends on ";
  for (size_t i = 1; i < path.size() && i <= kShownCycleNodes; ++i) {
    absl::StrAppend(&text, NodeName(nodes[path[i]]), ", that on ");
  }
  if (path.size() > kShownCycleNodes + 1) {
    absl::StrAppend(&text, path.size() - kShownCycleNodes - 1, " more, on ");
  }
  absl::StrAppend(&text, NodeName(nodes[path[0]]));
  return Error(workload, rank, nodes[path[0]], text);
}

struct Endpoint {
  int rank;
  const TraceNode* node;
};

struct Pairing {
  std::vector<Endpoint> sends;  // By id.
  std::vector<Endpoint> recvs;
};

// Source, destination, tag.
using PairKey = std::tuple<uint64_t, uint64_t, uint64_t>;

std::string Describe(const Endpoint& end) {
  return absl::StrCat(NodeName(*end.node), " of rank ", end.rank);
}

bool LessBytes(const Endpoint& a, const Endpoint& b) {
  return *a.node->comm_bytes < *b.node->comm_bytes;
}

// Sends and receives meet by size, in order, so what must agree is how many
// there are of each size.
absl::Status CheckPair(const Workload& workload, const PairKey& key,
                       Pairing pair) {
  const auto& [src, dst, tag] = key;
  std::stable_sort(pair.sends.begin(), pair.sends.end(), LessBytes);
  std::stable_sort(pair.recvs.begin(), pair.recvs.end(), LessBytes);
  const size_t num_both = std::min(pair.sends.size(), pair.recvs.size());
  size_t i = 0;
  while (i < num_both &&
         *pair.sends[i].node->comm_bytes == *pair.recvs[i].node->comm_bytes) {
    ++i;
  }
  if (i == pair.sends.size() && i == pair.recvs.size()) {
    return absl::OkStatus();
  }
  if (pair.sends.size() == pair.recvs.size()) {
    return Error(
        workload, pair.sends[i].rank, *pair.sends[i].node,
        absl::StrCat("sends ", *pair.sends[i].node->comm_bytes,
                     " bytes with tag ", tag, ", but ", Describe(pair.recvs[i]),
                     " receives ", *pair.recvs[i].node->comm_bytes, " (",
                     workload.ranks[dst].path, ")"));
  }
  const bool more_sends = pair.sends.size() > pair.recvs.size();
  const Endpoint& lone = more_sends ? pair.sends[i] : pair.recvs[i];
  return Error(workload, lone.rank, *lone.node,
               absl::StrCat(more_sends ? "sends to" : "receives from", " rank ",
                            more_sends ? dst : src, " ", *lone.node->comm_bytes,
                            " bytes with tag ", tag, ", but that rank has ",
                            more_sends ? pair.recvs.size() : pair.sends.size(),
                            more_sends ? " receives" : " sends", " for ",
                            more_sends ? pair.sends.size() : pair.recvs.size(),
                            more_sends ? " sends" : " receives", " (",
                            workload.ranks[more_sends ? dst : src].path, ")"));
}

absl::Status CheckPairs(const Workload& workload) {
  std::map<PairKey, Pairing> pairs;
  for (size_t rank = 0; rank < workload.ranks.size(); ++rank) {
    for (const TraceNode& node : workload.ranks[rank].nodes) {
      if (node.type == ChakraProtoMsg::COMM_SEND_NODE) {
        pairs[{rank, *node.comm_dst, *node.comm_tag}].sends.push_back(
            {static_cast<int>(rank), &node});
      } else if (node.type == ChakraProtoMsg::COMM_RECV_NODE) {
        pairs[{*node.comm_src, rank, *node.comm_tag}].recvs.push_back(
            {static_cast<int>(rank), &node});
      }
    }
  }
  for (auto& [key, pair] : pairs) {
    RETURN_IF_ERROR(CheckPair(workload, key, std::move(pair)));
  }
  return absl::OkStatus();
}

// One kind of collective within a group; how often ranks issue it must agree.
struct CollectiveKind {
  uint64_t type;
  uint64_t bytes;
  std::vector<uint8_t> involved_dims;

  bool operator<(const CollectiveKind& other) const {
    return std::tie(type, bytes, involved_dims) <
           std::tie(other.type, other.bytes, other.involved_dims);
  }
};

using Issued = std::map<CollectiveKind, std::vector<const TraceNode*>>;

std::string Describe(const CollectiveKind& kind, int group) {
  return absl::StrCat(
      CollectiveName(kind.type), " of ", kind.bytes, " bytes in ",
      group == 0 ? "the group of all ranks" : absl::StrCat("group ", group));
}

// `a` and `b` are members of the group: rank, and what it issues there.
absl::Status CompareMembers(const Workload& workload, int group, int rank_a,
                            const Issued& a, int rank_b, const Issued& b) {
  for (const auto& [kind, nodes] : a) {
    const auto found = b.find(kind);
    const size_t num_b = found == b.end() ? 0 : found->second.size();
    if (nodes.size() <= num_b) continue;
    std::string problem =
        absl::StrCat("joins ", Describe(kind, group), " (", nodes.size(),
                     " such), but rank ", rank_b, " has ", num_b, " such");
    for (const auto& [other, other_nodes] : b) {
      if (num_b == 0 && other.type == kind.type && a.find(other) == a.end()) {
        absl::StrAppend(&problem, "; its ", NodeName(*other_nodes.front()),
                        " has ", other.bytes, " bytes");
        break;
      }
    }
    absl::StrAppend(&problem, " (", workload.ranks[rank_b].path, ")");
    return Error(workload, rank_a, *nodes[num_b], problem);
  }
  return absl::OkStatus();
}

absl::Status CheckCollectives(const Workload& workload, TraceRules rules) {
  const int num_ranks = static_cast<int>(workload.ranks.size());
  // Group, then rank.
  std::map<int, std::map<int, Issued>> issued;
  for (int rank = 0; rank < num_ranks; ++rank) {
    for (const TraceNode& node : workload.ranks[rank].nodes) {
      if (node.type != ChakraProtoMsg::COMM_COLL_NODE) continue;
      const std::vector<int>* const members =
          workload.FindGroup(rank, node.group);
      if (node.group != 0 && members == nullptr) {
        return Error(workload, rank, node,
                     absl::StrCat("is in process group ", node.group,
                                  ", which is defined neither by the group "
                                  "file nor by the trace"));
      }
      if (members != nullptr &&
          std::find(members->begin(), members->end(), rank) == members->end()) {
        return Error(workload, rank, node,
                     absl::StrCat("is in process group ", node.group,
                                  ", of which its rank is no member"));
      }
      if (IsReplayed(node, rules)) continue;
      issued[node.group][rank]
            [{*node.comm_type, *node.comm_bytes, node.involved_dims}]
                .push_back(&node);
    }
  }
  static const Issued& kNone = *new Issued();
  for (const auto& [group, by_rank] : issued) {
    const int first = by_rank.begin()->first;
    const std::vector<int>* const members = workload.FindGroup(first, group);
    const size_t num_members = members != nullptr ? members->size() : num_ranks;
    for (size_t i = 0; i < num_members; ++i) {
      const int rank = members != nullptr ? (*members)[i] : static_cast<int>(i);
      if (rank < 0 || rank >= num_ranks) {
        return Error(
            workload, first, *by_rank.begin()->second.begin()->second[0],
            absl::StrCat("is in process group ", group, ", whose member ", rank,
                         " is no rank; want 0 to ", num_ranks - 1));
      }
      const auto found = by_rank.find(rank);
      const Issued& other = found == by_rank.end() ? kNone : found->second;
      RETURN_IF_ERROR(CompareMembers(workload, group, first,
                                     by_rank.begin()->second, rank, other));
      RETURN_IF_ERROR(CompareMembers(workload, group, rank, other, first,
                                     by_rank.begin()->second));
      const std::vector<int>* const own = workload.FindGroup(rank, group);
      if (members != nullptr && own != nullptr && *own != *members) {
        return Error(
            workload, rank, *other.begin()->second.front(),
            absl::StrCat("is in process group ", group,
                         ", which has other members in the trace of "
                         "rank ",
                         first, " (", workload.ranks[first].path, ")"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWorkload(const Workload& workload, TraceRules rules) {
  for (size_t rank = 0; rank < workload.ranks.size(); ++rank) {
    for (const TraceNode& node : workload.ranks[rank].nodes) {
      RETURN_IF_ERROR(CheckNode(workload, static_cast<int>(rank), node, rules));
    }
    RETURN_IF_ERROR(CheckAcyclic(workload, static_cast<int>(rank)));
  }
  RETURN_IF_ERROR(CheckPairs(workload));
  return CheckCollectives(workload, rules);
}

}  // namespace strata::chakra
