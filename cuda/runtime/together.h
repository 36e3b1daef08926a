// Nodes that one call of a kernel runs for all of them: an optimizer has one
// for each parameter of a model, and a launch for each would be most of a small
// model's update.

#ifndef CUDA_RUNTIME_TOGETHER_H_
#define CUDA_RUNTIME_TOGETHER_H_

#include <vector>

#include "core/graph/graph.h"

namespace strata::gpu {

// Neighbours [first, end), of which none reads or updates what another updates.
struct NodesTogether {
  NodeId first = 0, end = 0;
  // Each of one operator and attributes, in the order of their nodes. A call's
  // inputs are those of its nodes, one behind the other.
  std::vector<std::vector<NodeId>> calls;
};

// The longest such runs of two nodes and more, of AdamW and AdamWHalves, whose
// kernels take the inputs of several.
std::vector<NodesTogether> FindTogether(const Graph& graph);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_TOGETHER_H_
