// Node-limited dispatch and combine of a mixture of experts, as DeepEP does it
// for DeepSeek-V3.
//
//   token on rank r ──rail of r──> the GPU of index r on each node that has one
//                                  of its experts: once per node
//                   ──NVLink────>  the GPUs of its experts there: once per GPU
//
// Combine is the same the other way, with its own bytes a token. The low
// latency kernels send to each expert's GPU directly instead, once per expert.

#ifndef SIM_COLLECTIVE_MOE_DISPATCH_H_
#define SIM_COLLECTIVE_MOE_DISPATCH_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sim/collective/collective.h"

namespace strata::sim {

enum class MoeKernel { kNormal, kLowLatency };

struct MoeDispatchRequest {
  MoeKernel kernel = MoeKernel::kNormal;
  absl::Span<const int> ranks;  // The expert-parallel group, or `group`.
  RankGroup group;

  int64_t tokens_per_rank = 0;
  int64_t hidden = 0;  // Elements of a token.
  // Of an element on the wire: 1 for fp8 (its scales, a float per 128, are
  // added where it is 1), 2 for bf16.
  int dispatch_bytes = 1;
  int combine_bytes = 2;

  int num_experts = 0;  // Divided over the group in order, evenly.
  int top_k = 0;
  // Nodes that a token's experts may lie on; 0: any. DeepSeek-V3: 4.
  int node_limit = 0;

  // Of the GPU that the kernels use; 0: the number that saturates them. Fewer
  // move fewer bytes a second.
  int num_sms = 0;

  // Tokens that choose each expert, whole group; empty: all the same. Sources
  // are taken to be alike.
  absl::Span<const double> expert_load;  // [num_experts]
};

struct MoeDispatchCost {
  CollectiveCost dispatch;
  CollectiveCost combine;
  // Of a token, expected.
  double nodes_per_token = 0;  // Other nodes that it is sent to.
  double gpus_per_token = 0;   // GPUs, its own included, that get it.
};

// Returns INVALID_ARGUMENT, with the value and what is wanted, if the experts
// do not divide over the group, if top_k or node_limit is out of range, if a
// load is negative, or for what CollectiveModel::Cost refuses.
absl::StatusOr<MoeDispatchCost> MoeDispatch(const CollectiveModel& model,
                                            const MoeDispatchRequest& request);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_MOE_DISPATCH_H_
