// What the tests of collectives share: requests, ideal machines, costs in
// microseconds.

#ifndef SIM_COLLECTIVE_COLLECTIVE_EXAMPLE_H_
#define SIM_COLLECTIVE_COLLECTIVE_EXAMPLE_H_

#include <string>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/collective.h"
#include "sim/collective/group.h"
#include "sim/engine/time.h"

namespace strata::sim {

inline CollectiveRequest Request(CollectiveKind kind, double bytes,
                                 RankGroup group,
                                 CollectiveAlgorithm algorithm) {
  CollectiveRequest request;
  request.kind = kind;
  request.bytes = bytes;
  request.group = group;
  request.algorithm = algorithm;
  return request;
}

// Rates without any constant: what is left is bytes over bandwidth.
inline ClusterConfig Ideal(const std::string& preset) {
  ClusterConfig config = *ClusterPreset(preset);
  NcclConstants& nccl = *config.mutable_kind(0)->mutable_nccl();
  nccl.Clear();
  for (NcclConstants::Protocol* protocol :
       {nccl.mutable_ll(), nccl.mutable_ll128(), nccl.mutable_simple()}) {
    protocol->set_efficiency(1);
    protocol->set_net_efficiency(1);
    protocol->set_copy_gb_per_s(1e9);
  }
  nccl.mutable_point_to_point()->set_efficiency(1);
  nccl.mutable_point_to_point()->set_net_efficiency(1);
  nccl.mutable_point_to_point()->set_ll_gb_per_s(1e9);
  nccl.mutable_in_switch()->set_efficiency(1);
  return config;
}

inline double CostUs(const CollectiveModel& model,
                     const CollectiveRequest& request) {
  const absl::StatusOr<CollectiveCost> cost = model.Cost(request);
  EXPECT_THAT(cost, IsOk());
  return cost.ok() ? ToMicroseconds(cost->time) : -1;
}

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_COLLECTIVE_EXAMPLE_H_
