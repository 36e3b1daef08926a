// What one collective takes: the question that the workload asks of a cluster's
// network. NetworkTimes (network_times.h) answers from sim/collective;
// TwoLevelComm from two bandwidths and two latencies.

#ifndef SIM_WORKLOAD_COMM_TIMES_H_
#define SIM_WORKLOAD_COMM_TIMES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace strata::sim {

enum class CommKind {
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kSendRecv,
};

struct CommRequest {
  CommKind kind = CommKind::kAllReduce;
  // The full buffer: all-gather's output, reduce-scatter's input, all of what a
  // rank has for an all-to-all, its own part included; the message.
  double bytes = 0;
  // Ranks first, first + stride, ...
  int first = 0;
  int stride = 1;
  int count = 0;
};

struct CommTime {
  double seconds = 0;
  double bytes_sent = 0;  // By a rank.
};

// Dispatch and combine of a mixture of experts, once a node and token.
struct DispatchRequest {
  int stride = 1;
  int count = 0;
  double tokens_per_rank = 0;
  int64_t hidden = 0;
  bool fp8_dispatch = false;  // Combine is BF16.
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t node_limit = 0;                // 0: any node.
  absl::Span<const double> expert_load;  // Empty: even.
};

struct DispatchTime {
  double dispatch_seconds = 0;
  double combine_seconds = 0;
  double bytes_sent = 0;
};

class CommTimes {
 public:
  virtual ~CommTimes() = default;
  virtual absl::StatusOr<CommTime> Of(const CommRequest& request) const = 0;
  virtual absl::StatusOr<DispatchTime> Of(
      const DispatchRequest& request) const = 0;
};

// Rings over the slowest link of a group, a latency a step.
class TwoLevelComm : public CommTimes {
 public:
  struct Links {
    int gpus_per_node = 8;
    double node_bytes = 0;    // A second and GPU, within a node.
    double fabric_bytes = 0;  // A second and GPU, between nodes.
    double node_latency = 0;  // Seconds a step.
    double fabric_latency = 0;
  };
  explicit TwoLevelComm(const Links& links) : links_(links) {}

  absl::StatusOr<CommTime> Of(const CommRequest& request) const override;
  absl::StatusOr<DispatchTime> Of(
      const DispatchRequest& request) const override;

 private:
  Links links_;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_COMM_TIMES_H_
