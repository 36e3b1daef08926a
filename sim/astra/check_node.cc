#include "sim/astra/check_node.h"

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/collective_plan.h"
#include "sim/astra/network_config.h"
#include "sim/astra/remote_memory.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::astra {
namespace {

using ::strata::chakra::TraceNode;

// 2^52 us are more than the 2^62 ns of a run.
constexpr uint64_t kMaxDurationUs = uint64_t{1} << 52;
// Above, a double no longer holds every number of bytes.
constexpr uint64_t kMaxMessageBytes = uint64_t{1} << 53;

struct Systems {
  const NetworkConfig& network;
  const SystemConfig& system;
  const RemoteMemoryConfig& memory;
};

absl::Status CheckMemoryNode(const Systems& systems, int rank, int num_ranks,
                             const TraceNode& node) {
  if (systems.memory.kind == MemoryKind::kNone) {
    return absl::FailedPreconditionError(
        "loads or stores remote memory, but there is none; want a remote "
        "memory file");
  }
  if (!node.tensor_bytes.has_value()) {
    return absl::InvalidArgumentError("lacks the attribute tensor_size");
  }
  if (*node.tensor_bytes > kMaxMessageBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has tensor_size ", *node.tensor_bytes, "; at most 2^53"));
  }
  const int port = RemoteMemory(systems.memory, num_ranks).PortOf(rank);
  const int num_ports = RemoteMemory::NumPorts(systems.memory, num_ranks);
  if (port >= num_ports) {
    return absl::InvalidArgumentError(
        absl::StrCat("is on memory node ", port,
                     " of the remote memory file, "
                     "which has ",
                     num_ports));
  }
  return absl::OkStatus();
}

absl::Status CheckNode(const chakra::Workload& workload, const Systems& systems,
                       int rank, const TraceNode& node) {
  if (node.duration_us > kMaxDurationUs) {
    return absl::InvalidArgumentError(
        absl::StrCat("lasts ", node.duration_us, " us; at most 2^52 us"));
  }
  // Then nothing counts but the duration.
  if (systems.system.replay_only) return absl::OkStatus();
  switch (node.type) {
    case ChakraProtoMsg::MEM_LOAD_NODE:
    case ChakraProtoMsg::MEM_STORE_NODE:
      return CheckMemoryNode(systems, rank,
                             static_cast<int>(workload.ranks.size()), node);
    case ChakraProtoMsg::COMP_NODE:
      if (systems.system.roofline && !node.is_cpu_op) {
        if (!node.num_ops.has_value() || !node.tensor_bytes.has_value()) {
          return absl::InvalidArgumentError(
              absl::StrCat("lacks the attribute ",
                           node.num_ops.has_value() ? "tensor_size" : "num_ops",
                           ", which roofline-enabled takes"));
        }
      }
      return absl::OkStatus();
    case ChakraProtoMsg::COMM_SEND_NODE:
    case ChakraProtoMsg::COMM_RECV_NODE:
      if (*node.comm_bytes > kMaxMessageBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("has comm_size ", *node.comm_bytes, "; at most 2^53"));
      }
      return absl::OkStatus();
    case ChakraProtoMsg::COMM_COLL_NODE: {
      if (*node.comm_type == ChakraProtoMsg::BROADCAST) {
        return absl::OkStatus();
      }
      const std::optional<CollectiveRequest> request =
          ToRequest(workload, rank, node);
      if (!request.has_value()) {
        return absl::UnimplementedError(absl::StrCat(
            "is a ", chakra::CollectiveName(*node.comm_type),
            "; simulated are ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, "
            "ALL_TO_ALL and BROADCAST"));
      }
      return CheckCollective(systems.system, systems.network, *request);
    }
    default:
      return absl::OkStatus();
  }
}

}  // namespace

std::optional<CollectiveRequest> ToRequest(const chakra::Workload& workload,
                                           int rank, const TraceNode& node) {
  CollectiveRequest request;
  switch (*node.comm_type) {
    case ChakraProtoMsg::ALL_REDUCE:
      request.type = CollectiveType::kAllReduce;
      break;
    case ChakraProtoMsg::ALL_GATHER:
      request.type = CollectiveType::kAllGather;
      break;
    case ChakraProtoMsg::REDUCE_SCATTER:
      request.type = CollectiveType::kReduceScatter;
      break;
    case ChakraProtoMsg::ALL_TO_ALL:
      request.type = CollectiveType::kAllToAll;
      break;
    default:
      return std::nullopt;
  }
  request.bytes = *node.comm_bytes;
  request.members = workload.FindGroup(rank, node.group);
  request.involved = node.involved_dims;
  return request;
}

absl::Status CheckNodes(const chakra::Workload& workload,
                        const NetworkConfig& network,
                        const SystemConfig& system,
                        const RemoteMemoryConfig& memory) {
  const Systems systems = {network, system, memory};
  for (size_t rank = 0; rank < workload.ranks.size(); ++rank) {
    for (const TraceNode& node : workload.ranks[rank].nodes) {
      const absl::Status status =
          CheckNode(workload, systems, static_cast<int>(rank), node);
      if (status.ok()) continue;
      // Some say what is wrong with the system and not with the node.
      return absl::Status(
          status.code(),
          absl::StrCat(workload.ranks[rank].path, ": rank ", rank, ", ",
                       chakra::NodeName(node), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::astra
