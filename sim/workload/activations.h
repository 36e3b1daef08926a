// What a rank keeps of a micro-batch from its forward pass to its gradients.
//
//   graph of forward and gradients
//     |  values of the forward pass that gradients read,
//     |  less what recomputation makes again
//     v
//   bytes of each layer
//
// As frameworks hold them:
//   - attention keeps its inputs, its output and a sum for each row, no scores;
//   - what only products' weight gradients read is kept as they read it: BF16,
//     or one byte with FP8;
//   - experts: the rows that came by dispatch, and what the first product made
//     of them. The second product's result is not kept: the gradient of a
//     choice's weight comes from the activation before it, as in DeepSeek-V3
//     and in Megatron-Core's memory-efficient permutation;
//   - act8: inputs of SwiGLU in FP8 (DeepSeek-V3's report);
//   - loss32: logits in FP32 too.

#ifndef SIM_WORKLOAD_ACTIVATIONS_H_
#define SIM_WORKLOAD_ACTIVATIONS_H_

#include <vector>

#include "core/graph/graph.h"
#include "sim/workload/layout.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/rank_sizes.h"

namespace strata::sim {

struct KeptBytes {
  double kept = 0;        // From forward to gradients.
  double made_again = 0;  // Not kept: there while the gradients run.
};

struct Activations {
  KeptBytes embedding;
  KeptBytes output;
  std::vector<KeptBytes> layers;
};

// Whether the layout's recomputation makes the results of a node of a layer
// again.
bool IsRecomputed(const ModelGraph& model, const Layout& layout,
                  const Node& node);

Activations ActivationsOf(const ModelGraph& model, const Layout& layout,
                          const RankSizes& sizes);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_ACTIVATIONS_H_
