// Orders the nodes of a gradient graph such that small ones of a kind are
// neighbours, for backends that run neighbours by one launch
// (cuda/runtime/together.h).
//
//   forward    gate: ExpertContext, ...; gate: ExpertContext, ...
//     becomes  ExpertContext x 2; gate: ...; gate: ...
//   backward   ..., ExpertContextGrad, Accumulate x 8, ..., ExpertContextGrad,
//              Accumulate x 8, ...
//     becomes  ..., ..., ExpertContextGrad x 2, Accumulate x 16
//
// Data flows as before, so results are the same bits. What the last nodes read
// lives until then, so only sums of some hundred KB are moved there.

#ifndef CORE_PASSES_BRING_TOGETHER_H_
#define CORE_PASSES_BRING_TOGETHER_H_

#include <cstdint>

#include "core/graph/graph.h"

namespace strata {

// Of a sum of gradients that may wait for the end: that of a gate's projection
// of 96 rows of 1024 F32 is 384 KB, and a model of a billion parameters has 72.
constexpr int64_t kSmallSumBytes = int64_t{512} << 10;

// Whether `node` adds to a sum of at most so many bytes.
bool IsSmallSum(const Graph& graph, const Node& node);

// `graph` with its nodes in another order; values keep their numbers. First
// stands every ExpertContext that waits for no other node; last, every
// ExpertContextGrad and then every small Accumulate that no other node waits
// for. All others keep their order, and so do nodes of which one changes a
// state that the other uses.
Graph BringTogether(const Graph& graph);

}  // namespace strata

#endif  // CORE_PASSES_BRING_TOGETHER_H_
