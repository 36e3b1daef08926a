#include "sim/workload/network_times.h"

#include <cmath>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "sim/collective/collective.h"
#include "sim/collective/moe_dispatch.h"
#include "sim/engine/time.h"
#include "sim/workload/comm_times.h"

namespace strata::sim {
namespace {

CollectiveKind KindOf(CommKind kind) {
  switch (kind) {
    case CommKind::kAllReduce:
      return CollectiveKind::kAllReduce;
    case CommKind::kAllGather:
      return CollectiveKind::kAllGather;
    case CommKind::kReduceScatter:
      return CollectiveKind::kReduceScatter;
    case CommKind::kAllToAll:
      return CollectiveKind::kAllToAll;
    case CommKind::kSendRecv:
      break;
  }
  return CollectiveKind::kSendRecv;
}

double BytesSent(const CollectiveCost& cost) {
  return cost.intra_node_bytes_per_rank + cost.inter_node_bytes_per_rank;
}

}  // namespace

absl::StatusOr<CommTime> NetworkTimes::Of(const CommRequest& request) const {
  CollectiveRequest collective;
  collective.kind = KindOf(request.kind);
  collective.bytes = request.bytes;
  collective.group = {request.first, request.stride, request.count};
  ASSIGN_OR_RETURN(const CollectiveCost cost, model_.Cost(collective));
  return CommTime{ToSeconds(cost.time), BytesSent(cost)};
}

absl::StatusOr<DispatchTime> NetworkTimes::Of(
    const DispatchRequest& request) const {
  MoeDispatchRequest moe;
  moe.group = {0, request.stride, request.count};
  moe.tokens_per_rank = std::llround(request.tokens_per_rank);
  moe.hidden = request.hidden;
  moe.dispatch_bytes = request.fp8_dispatch ? 1 : 2;
  moe.num_experts = static_cast<int>(request.num_experts);
  moe.top_k = static_cast<int>(request.top_k);
  moe.node_limit = static_cast<int>(request.node_limit);
  moe.expert_load = request.expert_load;
  ASSIGN_OR_RETURN(const MoeDispatchCost cost, MoeDispatch(model_, moe));
  return DispatchTime{ToSeconds(cost.dispatch.time),
                      ToSeconds(cost.combine.time),
                      BytesSent(cost.dispatch) + BytesSent(cost.combine)};
}

}  // namespace strata::sim
