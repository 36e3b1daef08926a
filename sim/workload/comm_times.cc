#include "sim/workload/comm_times.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/statusor.h"

namespace strata::sim {
namespace {

constexpr double kBf16Bytes = 2;
constexpr double kFp8Bytes = 1 + 4.0 / 128;  // And a scale for each 128.

}  // namespace

absl::StatusOr<CommTime> TwoLevelComm::Of(const CommRequest& request) const {
  CommTime time;
  const double n = request.count;
  if (request.count < 2) return time;
  const int last = request.first + request.stride * (request.count - 1);
  const bool crosses =
      request.first / links_.gpus_per_node != last / links_.gpus_per_node;
  const double latency = crosses ? links_.fabric_latency : links_.node_latency;
  double bytes_per_second = crosses ? links_.fabric_bytes : links_.node_bytes;
  if (request.kind == CommKind::kSendRecv) {
    time.bytes_sent = request.bytes;
    time.seconds = latency + request.bytes / bytes_per_second;
    return time;
  }
  if (request.kind == CommKind::kAllToAll) {
    // Peers on the own node take NVLink, the others the NIC, both at once.
    const double local = std::clamp<double>(
        static_cast<double>(links_.gpus_per_node) / request.stride, 1.0, n);
    time.bytes_sent = request.bytes * (n - 1) / n;
    time.seconds =
        latency +
        std::max(request.bytes * (local - 1) / n / links_.node_bytes,
                 request.bytes * (n - local) / n / links_.fabric_bytes);
    return time;
  }
  // Rings that cross nodes with all GPUs of each use every NIC.
  if (crosses && request.stride < links_.gpus_per_node) {
    bytes_per_second =
        std::min(links_.node_bytes,
                 links_.fabric_bytes * links_.gpus_per_node / request.stride);
  }
  const double rounds = request.kind == CommKind::kAllReduce ? 2 : 1;
  time.bytes_sent = rounds * request.bytes * (n - 1) / n;
  time.seconds =
      rounds * (n - 1) * latency + time.bytes_sent / bytes_per_second;
  return time;
}

absl::StatusOr<DispatchTime> TwoLevelComm::Of(
    const DispatchRequest& request) const {
  const double span = static_cast<double>(request.stride) * request.count;
  const double nodes = std::max(1.0, span / links_.gpus_per_node);
  const double k = static_cast<double>(request.top_k);
  // Of `nodes` equally likely, those that k choices reach; the own one is free.
  double reached = nodes * (1 - std::pow(1 - 1 / nodes, k));
  if (request.node_limit > 0) {
    reached = std::min<double>(reached, request.node_limit);
  }
  const double away = reached * (nodes - 1) / nodes;
  const double gpus = std::min<double>(k, request.count);
  const double elements =
      request.tokens_per_rank * static_cast<double>(request.hidden);
  double worst = 1;
  if (!request.expert_load.empty()) {
    const size_t per_rank = request.expert_load.size() / request.count;
    double sum = 0;
    double most = 0;
    for (int r = 0; r < request.count; ++r) {
      double rank = 0;
      for (size_t e = 0; e < per_rank; ++e) {
        rank += request.expert_load[r * per_rank + e];
      }
      sum += rank;
      most = std::max(most, rank);
    }
    if (sum > 0) worst = most * request.count / sum;
  }
  const double latency =
      nodes > 1 ? links_.fabric_latency : links_.node_latency;
  const auto seconds = [&](double element_bytes) {
    return latency +
           worst * elements * element_bytes *
               std::max(away / links_.fabric_bytes, gpus / links_.node_bytes);
  };
  const double dispatch_bytes = request.fp8_dispatch ? kFp8Bytes : kBf16Bytes;
  DispatchTime time;
  time.dispatch_seconds = seconds(dispatch_bytes);
  time.combine_seconds = seconds(kBf16Bytes);
  time.bytes_sent = elements * (dispatch_bytes + kBf16Bytes) * (away + gpus);
  return time;
}

}  // namespace strata::sim
