#include "sim/chakra/workload.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"

namespace strata::chakra {
namespace {

using Json = ::nlohmann::json;

constexpr size_t kShownBytes = 60;
constexpr int kMaxGroupId = 1'000'000;

// A trace's text for a message: cut, and without what would steer a terminal.
std::string Shown(absl::string_view text) {
  return absl::StrCat(absl::CHexEscape(text.substr(0, kShownBytes)),
                      text.size() > kShownBytes ? "..." : "");
}

std::string NodeName(uint64_t id, absl::string_view name) {
  return absl::StrCat("node ", id, " \"", Shown(name), "\"");
}

// What is resolved once all ids are known.
struct Dependencies {
  std::vector<uint64_t> ids;
  int64_t offset = 0;  // Of the node's message.
};

absl::StatusOr<int> GroupId(const std::string& name) {
  int id = 0;
  if (name.empty()) return 0;
  if (!absl::SimpleAtoi(name, &id) || id < 0 || id > kMaxGroupId) {
    return absl::InvalidArgumentError(
        absl::StrCat("process group \"", Shown(name),
                     "\" is no number from 0 to ", kMaxGroupId));
  }
  return id;
}

absl::StatusOr<TraceNode> Resolve(const ChakraProtoMsg::Node& node) {
  TraceNode result;
  result.id = node.id();
  result.name = node.name();
  result.type = node.type();
  result.duration_us = node.duration_micros();
  ASSIGN_OR_RETURN(const std::optional<bool> is_cpu_op,
                   BoolAttribute(node, "is_cpu_op"));
  result.is_cpu_op = is_cpu_op.value_or(false);
  ASSIGN_OR_RETURN(result.num_ops, UnsignedAttribute(node, "num_ops"));
  ASSIGN_OR_RETURN(result.tensor_bytes, UnsignedAttribute(node, "tensor_size"));
  switch (node.type()) {
    case ChakraProtoMsg::COMM_SEND_NODE:
    case ChakraProtoMsg::COMM_RECV_NODE:
    case ChakraProtoMsg::COMM_COLL_NODE:
      break;
    default:
      return result;
  }
  ASSIGN_OR_RETURN(result.comm_type, UnsignedAttribute(node, "comm_type"));
  ASSIGN_OR_RETURN(result.comm_bytes, UnsignedAttribute(node, "comm_size"));
  ASSIGN_OR_RETURN(result.comm_src, UnsignedAttribute(node, "comm_src"));
  ASSIGN_OR_RETURN(result.comm_dst, UnsignedAttribute(node, "comm_dst"));
  ASSIGN_OR_RETURN(result.comm_tag, UnsignedAttribute(node, "comm_tag"));
  ASSIGN_OR_RETURN(const std::optional<uint64_t> priority,
                   UnsignedAttribute(node, "comm_priority"));
  result.comm_priority = priority.value_or(0);
  ASSIGN_OR_RETURN(const std::optional<std::string> group,
                   StringAttribute(node, "pg_name"));
  ASSIGN_OR_RETURN(result.group, GroupId(group.value_or("")));
  ASSIGN_OR_RETURN(const std::optional<std::vector<bool>> involved,
                   BoolListAttribute(node, "involved_dim"));
  if (involved.has_value()) {
    result.involved_dims.assign(involved->begin(), involved->end());
  }
  return result;
}

// A METADATA node of PyTorch's traces lists groups as JSON in its inputs: an
// array of {"pg_name", "ranks"} within brackets and quotes that differ between
// writers, so what counts is from the first "[{" to the last "}]". Metadata of
// other kinds is not ours to judge.
void AddGroups(const ChakraProtoMsg::Node& node, RankTrace& trace) {
  const std::string& values = node.inputs().values();
  const size_t begin = values.find("[{");
  const size_t end = values.rfind("}]");
  if (begin == std::string::npos || end == std::string::npos || end < begin) {
    return;
  }
  std::string text = values.substr(begin, end + 2 - begin);
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    // As a string within a string, its quotes are escaped.
    text.erase(std::remove(text.begin(), text.end(), '\\'), text.end());
    json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  }
  if (!json.is_array()) return;
  for (const Json& group : json) {
    if (!group.is_object() || !group.contains("pg_name") ||
        !group.contains("ranks") || !group["pg_name"].is_string() ||
        !group["ranks"].is_array()) {
      continue;
    }
    const absl::StatusOr<int> id = GroupId(group["pg_name"].get<std::string>());
    if (!id.ok() || *id == 0) continue;
    std::vector<int> ranks;
    for (const Json& rank : group["ranks"]) {
      if (rank.is_number_integer()) ranks.push_back(rank.get<int>());
    }
    // Without ranks it is a group of all, as group 0 is.
    if (!ranks.empty()) trace.groups[*id] = std::move(ranks);
  }
}

bool IsKnown(int type) {
  return type >= ChakraProtoMsg::NodeType_MIN &&
         type <= ChakraProtoMsg::NodeType_MAX;
}

}  // namespace

ChildLists ListChildren(const std::vector<TraceNode>& nodes) {
  ChildLists lists;
  lists.first.resize(nodes.size() + 1);
  for (const TraceNode& node : nodes) {
    for (const uint32_t parent : node.parents) ++lists.first[parent + 1];
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    lists.first[i + 1] += lists.first[i];
  }
  lists.child.resize(lists.first.back());
  std::vector<uint32_t> next = lists.first;
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const uint32_t parent : nodes[i].parents) {
      lists.child[next[parent]++] = static_cast<uint32_t>(i);
    }
  }
  return lists;
}

const std::vector<int>* Workload::FindGroup(int rank, int group) const {
  if (group == 0) return nullptr;
  const ProcessGroups& own = ranks[rank].groups;
  if (const auto found = own.find(group); found != own.end()) {
    return &found->second;
  }
  const auto found = groups.find(group);
  return found == groups.end() ? nullptr : &found->second;
}

std::string NodeName(const TraceNode& node) {
  return NodeName(node.id, node.name);
}

std::string CollectiveName(uint64_t comm_type) {
  if (comm_type <= ChakraProtoMsg::CollectiveCommType_MAX) {
    return ChakraProtoMsg::CollectiveCommType_Name(
        static_cast<ChakraProtoMsg::CollectiveCommType>(comm_type));
  }
  return absl::StrCat("collective type ", comm_type);
}

absl::StatusOr<RankTrace> LoadRank(TraceReader reader) {
  RankTrace trace;
  trace.path = reader.path();
  std::vector<Dependencies> dependencies;
  absl::flat_hash_map<uint64_t, int64_t> offset_of_id;
  std::set<int> unknown_types;
  int64_t num_dependencies = 0;
  ChakraProtoMsg::Node message;
  while (true) {
    ASSIGN_OR_RETURN(const bool has_node, reader.Next(&message));
    if (!has_node) break;
    absl::StatusOr<TraceNode> node = Resolve(message);
    if (!node.ok()) {
      return reader.Error(absl::StrCat(NodeName(message.id(), message.name()),
                                       ": ", node.status().message()));
    }
    const auto [first, is_new] =
        offset_of_id.try_emplace(node->id, reader.message_offset());
    if (!is_new) {
      return reader.Error(absl::StrCat(NodeName(*node),
                                       " has the id of the node at byte ",
                                       first->second, "; ids must differ"));
    }
    if (!IsKnown(node->type) && unknown_types.insert(node->type).second) {
      trace.notes.push_back(absl::StrCat(
          trace.path, ": ", NodeName(*node), " has type ", node->type,
          ", which this version does not know; such nodes take no time"));
    }
    if (node->type == ChakraProtoMsg::METADATA_NODE) AddGroups(message, trace);
    Dependencies parents;
    parents.offset = reader.message_offset();
    parents.ids.assign(message.data_deps().begin(), message.data_deps().end());
    parents.ids.insert(parents.ids.end(), message.ctrl_deps().begin(),
                       message.ctrl_deps().end());
    num_dependencies += static_cast<int64_t>(parents.ids.size());
    dependencies.push_back(std::move(parents));
    trace.nodes.push_back(*std::move(node));
    if (static_cast<int64_t>(trace.nodes.size()) > kMaxNodesPerRank ||
        num_dependencies > kMaxDependenciesPerRank) {
      return absl::ResourceExhaustedError(
          absl::StrCat(trace.path, " has more than ", kMaxNodesPerRank,
                       " nodes or ", kMaxDependenciesPerRank, " dependencies"));
    }
  }

  // By id, and dependencies from ids to indices.
  std::vector<uint32_t> order(trace.nodes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return trace.nodes[a].id < trace.nodes[b].id;
  });
  absl::flat_hash_map<uint64_t, uint32_t> index_of_id;
  std::vector<TraceNode> sorted;
  sorted.reserve(order.size());
  for (const uint32_t i : order) {
    index_of_id[trace.nodes[i].id] = static_cast<uint32_t>(sorted.size());
    sorted.push_back(std::move(trace.nodes[i]));
  }
  trace.nodes = std::move(sorted);
  for (size_t i = 0; i < order.size(); ++i) {
    TraceNode& node = trace.nodes[i];
    const Dependencies& wanted = dependencies[order[i]];
    for (const uint64_t id : wanted.ids) {
      const auto found = index_of_id.find(id);
      if (found == index_of_id.end()) {
        return absl::DataLossError(absl::StrCat(
            trace.path, ", byte ", wanted.offset, ": ", NodeName(node),
            " depends on node ", id, ", which the file does not have"));
      }
      node.parents.push_back(found->second);
    }
    std::sort(node.parents.begin(), node.parents.end());
    node.parents.erase(std::unique(node.parents.begin(), node.parents.end()),
                       node.parents.end());
  }
  return trace;
}

absl::StatusOr<Workload> LoadWorkload(absl::string_view prefix, int num_ranks) {
  Workload workload;
  for (int rank = 0; rank < num_ranks; ++rank) {
    absl::StatusOr<TraceReader> reader =
        TraceReader::Open(TracePath(prefix, rank));
    if (absl::IsNotFound(reader.status())) {
      return absl::NotFoundError(absl::StrCat(
          reader.status().message(), "; want a trace for each of the ",
          num_ranks, " ranks of the network"));
    }
    RETURN_IF_ERROR(reader.status());
    ASSIGN_OR_RETURN(RankTrace trace, LoadRank(*std::move(reader)));
    workload.ranks.push_back(std::move(trace));
  }
  return workload;
}

absl::StatusOr<ProcessGroups> ParseProcessGroups(absl::string_view text,
                                                 absl::string_view name,
                                                 int num_ranks) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr,
                                /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is no JSON object of groups, as {\"1\": [0, 1]}"));
  }
  ProcessGroups groups;
  for (const auto& [key, value] : json.items()) {
    int id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 1 || id > kMaxGroupId) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": group \"", Shown(key), "\" is no number from 1 to ",
          kMaxGroupId, " (0 is all ranks)"));
    }
    if (!value.is_array() || value.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": group ", id, " is no list of ranks"));
    }
    std::vector<int>& members = groups[id];
    std::set<int> seen;
    for (const Json& rank : value) {
      if (!rank.is_number_integer() || rank < 0 || rank >= num_ranks) {
        return absl::InvalidArgumentError(absl::StrCat(
            name, ": group ", id, " has the rank ",
            Shown(rank.dump(-1, ' ', false, Json::error_handler_t::replace)),
            "; want 0 to ", num_ranks - 1));
      }
      members.push_back(rank.get<int>());
      if (!seen.insert(members.back()).second) {
        return absl::InvalidArgumentError(absl::StrCat(
            name, ": group ", id, " has rank ", members.back(), " twice"));
      }
    }
  }
  return groups;
}

}  // namespace strata::chakra
