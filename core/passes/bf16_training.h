// A training step whose state is BF16: weights, the sums of their gradients and
// both moments; and BF16 rows where a step keeps or moves many of them.
//
//   gradients   w: parameter F32        w: BF16, read by products as it is
//               grad.w: state F32       grad.w: BF16
//               dw = dy^T x             SumWeightGrad(grad.w, dy, x, keep)
//               Accumulate(grad.w, dw)
//               rows of experts F32     BF16, where all that touch them can
//   update      w, grad.w, adam.m.w, adam.v.w: BF16
//
// Or weights lie in two halves, and all else of their state is F32
// (WeightState::kHalves): products and rows are the same, but sums are F32, and
//
//   update      AdamW(w, ...)           AdamWHalves(w, ..., low.w: state I16)
//
// Graphs so rewritten are for backends that have SumWeightGrad
// (core/ops/weight_grad_sum.h), and AdamWHalves (core/ops/adamw_halves.h) for
// halves. Such a backend also takes these in BF16, though
// inference, which knows of F32 and of forward products, would not have made
// them: w in the products of input gradients; Accumulate's sum and GlobalNorm's
// gradients beside F32 scalars; AdamW's param, m, v and grad, alike; and the
// operands of TakesBf16().
//
// All arithmetic stays F32. A value is rounded when it is stored, to the
// nearest; what AdamW stores may be rounded at random.

#ifndef CORE_PASSES_BF16_TRAINING_H_
#define CORE_PASSES_BF16_TRAINING_H_

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"

namespace strata {

// The F32 parameters of a model that a step may hold in BF16: of rank 2 or more
// and, in the model's own graph, read only by operators that take them so
// (core/passes/narrow_weights.h). Gains of norms and biases stay F32.
std::set<std::string> Bf16Weights(const Graph& model);

// INTERNAL if an operator of `gradients`, as they are before GradientsInBf16(),
// would read one of `weights` in BF16 as if it were F32: those of a training
// graph that a model's own has not, as fused ones. Names the first.
absl::Status CheckReadersTakeBf16(const Graph& gradients,
                                  const std::set<std::string>& weights);

// Whether input or output `index` of an operator may be BF16 rows, a multiple
// of 8 columns each.
bool TakesBf16(absl::string_view op, bool is_output, int index);

enum class WeightState {
  kBf16,    // 8 bytes a weight.
  kHalves,  // 16, as F32 takes.
};

struct Bf16Gradients {
  Graph graph;
  std::vector<ValueId> value;  // Of the graph before: where it is; or kNone.
};

// The gradient graph of a step (training/step_graph.h) with `weights`, their
// gradients' sums "grad.<weight>" unless of halves, and rows in BF16.
Bf16Gradients GradientsInBf16(const Graph& gradients,
                              const std::set<std::string>& weights,
                              WeightState state = WeightState::kBf16);

// Gradients whose state is F32, with rows of experts alone in BF16: those that
// a DispatchPlan or an ExchangePlan counts. For backends whose products round
// their operands (Backend::rounds_products), which read each row some six times
// a step and would make it narrow anew for each. Values keep their ids.
Graph ExpertRowsInBf16(const Graph& gradients);

// The update graph with `weights`, and what belongs to them unless of halves,
// in BF16.
Graph UpdateInBf16(const Graph& update, const std::set<std::string>& weights,
                   WeightState state = WeightState::kBf16);

}  // namespace strata

#endif  // CORE_PASSES_BF16_TRAINING_H_
