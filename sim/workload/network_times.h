// Times of collectives on a cluster's network (sim/collective).

#ifndef SIM_WORKLOAD_NETWORK_TIMES_H_
#define SIM_WORKLOAD_NETWORK_TIMES_H_

#include "absl/status/statusor.h"
#include "sim/cluster/cluster.h"
#include "sim/collective/collective.h"
#include "sim/workload/comm_times.h"

namespace strata::sim {

class NetworkTimes : public CommTimes {
 public:
  // `cluster` must outlive it.
  explicit NetworkTimes(const Cluster& cluster) : model_(cluster) {}

  absl::StatusOr<CommTime> Of(const CommRequest& request) const override;
  absl::StatusOr<DispatchTime> Of(
      const DispatchRequest& request) const override;

 private:
  CollectiveModel model_;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_NETWORK_TIMES_H_
