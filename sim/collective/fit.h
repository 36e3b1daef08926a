// Fits a node's constants of NCCL and DeepEP to measurements.

#ifndef SIM_COLLECTIVE_FIT_H_
#define SIM_COLLECTIVE_FIT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/validation.h"

namespace strata::sim {

// Not fitted: NCCL's, of which there are two, and NVLink's.
inline constexpr char kLlPart[] = "nccl.point_to_point.ll_part_kib";
inline constexpr char kPacketOverhead[] = "nccl.point_to_point.packet_overhead";

struct NodeConstant {
  std::string name;  // "nccl.simple.step_us"
  double value = 0;
};

// The numbers of `nccl` and `deep_ep` that are not 0, in the proto's order.
std::vector<NodeConstant> ConstantsOf(const NodeConfig& node);

// `name` as of ConstantsOf; the value of a constant that is not set is 0.
double ConstantOf(const NodeConfig& node, absl::string_view name);
void SetConstant(absl::string_view name, double value, NodeConfig& node);

// The times of the rows, microseconds, on nodes of this kind.
//
// Returns the error of the first row that cannot be predicted.
absl::StatusOr<std::vector<double>> PredictAllUs(
    const NodeConfig& node, absl::Span<const MeasuredCollective> measured);

// Mean of |log(predicted / measured)|, each at most 0.5, so that a noisy row
// weighs no more than a bad one. Returns the error of PredictAllUs.
absl::StatusOr<double> MeanLogError(
    const NodeConfig& node, absl::Span<const MeasuredCollective> measured);

// `start` with every constant of `nccl` and `deep_ep` that is not 0 varied, one
// after the other, by steps that grow where they help, until `rounds` rounds
// are done. What the measurements do not depend on stays, and so do kLlPart,
// kPacketOverhead and the constants of `kept`. Deterministic; finds a local
// optimum.
absl::StatusOr<NodeConfig> FitConstants(
    const NodeConfig& start, absl::Span<const MeasuredCollective> measured,
    int rounds, absl::Span<const absl::string_view> kept = {});

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_FIT_H_
