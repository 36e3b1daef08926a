// Nodes that one call of a kernel runs for all of them: an optimizer has one
// for each parameter of a model, and a launch for each would be most of a small
// model's update; so would one for each gate and each small sum of gradients be
// of its gradients (core/passes/bring_together.h).

#ifndef CUDA_RUNTIME_TOGETHER_H_
#define CUDA_RUNTIME_TOGETHER_H_

#include <vector>

#include "core/graph/graph.h"

namespace strata::gpu {

// Neighbours [first, end), of which none reads or updates what another makes or
// updates. What they make must not lie where another of them reads or makes
// (Backend::RunsTogether).
struct NodesTogether {
  NodeId first = 0, end = 0;
  // Each of one operator and attributes, in the order of their nodes. A call's
  // inputs are those of its nodes, one behind the other, and so are its
  // outputs.
  std::vector<std::vector<NodeId>> calls;
};

// The longest such runs of two nodes and more, of operators whose kernels take
// several: AdamW and AdamWHalves; ExpertContext and its gradient; Accumulate of
// small sums, and AccumulateCounts.
std::vector<NodesTogether> FindTogether(const Graph& graph);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_TOGETHER_H_
