// Losses without the logits of all tokens, of a training step and of a
// validation.
//
//   logits = x w^T                                loss, nll, hit, dx, dw =
//   loss, nll, lse, hit = CrossEntropy(logits)      HeadLoss(x, w, target,
//   dloss)
//   ...
//   dlogits = CrossEntropyGrad(dloss, logits)     (core/ops/head_loss.h)
//   dx = dlogits w
//   dw = dlogits^T x
//
// It stands where CrossEntropy did; what makes dloss, which no logit enters, is
// moved in front. A loss of which no gradient is wanted, whose lse nothing
// reads, becomes HeadScore. Losses stay as they are whose logits something else
// reads, or of which a gradient is wanted of x or w alone.

#ifndef CORE_PASSES_CHUNK_LOSSES_H_
#define CORE_PASSES_CHUNK_LOSSES_H_

#include <cstdint>
#include <vector>

#include "core/graph/graph.h"

namespace strata {

// How many rows have their logits at once: those of 2^27, 512 MB of F32, and
// 128 at least, so that products are large enough to be bound by arithmetic.
int64_t LossChunkRows(int64_t vocab);

struct ChunkedLosses {
  Graph graph;
  std::vector<ValueId> value;  // Of the graph before: where it is; or kNone.
};

// `graph` is the gradient graph of a step or one for validation
// (training/step_graph.h), before its rows are narrowed
// (core/passes/bf16_training.h). With `chunk_rows` 0, as many as
// LossChunkRows() says.
ChunkedLosses ChunkLosses(const Graph& graph, int64_t chunk_rows = 0);

}  // namespace strata

#endif  // CORE_PASSES_CHUNK_LOSSES_H_
