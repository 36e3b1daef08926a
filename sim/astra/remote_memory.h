// Remote memory: ports that serve one request at a time, first come first
// served, for latency + bytes / bandwidth.

#ifndef SIM_ASTRA_REMOTE_MEMORY_H_
#define SIM_ASTRA_REMOTE_MEMORY_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "sim/astra/system_config.h"

namespace strata::astra {

class RemoteMemory {
 public:
  struct Request {
    int rank = 0;
    uint32_t node = 0;
    uint64_t bytes = 0;
  };

  RemoteMemory(const RemoteMemoryConfig& config, int num_ranks)
      : config_(config), ports_(NumPorts(config, num_ranks)) {}

  static int NumPorts(const RemoteMemoryConfig& config, int num_ranks) {
    switch (config.kind) {
      case MemoryKind::kNone:
        return 0;
      case MemoryKind::kPerNode:
        return config.num_nodes;
      case MemoryKind::kPerRank:
        return num_ranks;
      case MemoryKind::kPool:
        break;
    }
    return 1;
  }

  // The port of a rank; it may not be below NumPorts if the nodes do not hold
  // all ranks.
  int PortOf(int rank) const {
    switch (config_.kind) {
      case MemoryKind::kPerNode:
        return rank / config_.ranks_per_node;
      case MemoryKind::kPerRank:
        return rank;
      default:
        return 0;
    }
  }

  int64_t DelayNs(uint64_t bytes) const {
    return static_cast<int64_t>(config_.latency_ns) +
           static_cast<int64_t>(static_cast<double>(bytes) /
                                config_.bandwidth_gbps);
  }

  // True if the request starts now; else it waits in its port's queue.
  bool Start(const Request& request) {
    Port& port = ports_[PortOf(request.rank)];
    if (!port.is_busy) return port.is_busy = true;
    port.waiting.push_back(request);
    return false;
  }

  // The port's request is served: returns the next, which starts now.
  std::optional<Request> Next(int port_index) {
    Port& port = ports_[port_index];
    if (port.waiting.empty()) {
      port.is_busy = false;
      return std::nullopt;
    }
    const Request request = port.waiting.front();
    port.waiting.pop_front();
    return request;
  }

 private:
  struct Port {
    bool is_busy = false;
    std::deque<Request> waiting;
  };

  RemoteMemoryConfig config_;
  std::vector<Port> ports_;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_REMOTE_MEMORY_H_
