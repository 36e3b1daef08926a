// Checks of a ClusterConfig, field by field.

#ifndef SIM_CLUSTER_VALIDATE_H_
#define SIM_CLUSTER_VALIDATE_H_

#include "absl/status/status.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

// Whether every number lies in its range. That groups name kinds that exist,
// and that sizes fit each other, is Cluster::Create's to see.
//
// Returns INVALID_ARGUMENT with the field's path, its value and what is wanted.
absl::Status ValidateFields(const ClusterConfig& config);

}  // namespace strata::sim

#endif  // SIM_CLUSTER_VALIDATE_H_
