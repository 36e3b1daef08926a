// Reverse-mode differentiation: adds the backward operators to a graph.

#ifndef CORE_PASSES_AUTODIFF_H_
#define CORE_PASSES_AUTODIFF_H_

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"

namespace strata {

// Where differentiation starts: d loss / d value = grad, a value of its type.
struct Seed {
  ValueId value = kNone;
  ValueId grad = kNone;
};

using Gradients = absl::flat_hash_map<ValueId, ValueId>;

// Emits the gradients of sum(value * grad over seeds) by each value of `wrt`
// and returns them. A value that the seeds do not depend on has no entry.
//
// Gradients of parameters are nodes of phase kWeightGrad, all others of phase
// kInputGrad, and no input gradient reads a weight gradient. Contributions are
// summed in the order of their emission, so results are reproducible, and each
// as soon as it is there, so that it need not live on.
//
// `on_gradient`, if given, is called once for each gradient, as soon as it is
// whole. It may emit nodes: what uses a gradient up there and then frees its
// memory for the gradients to come. It may leave phase and scope as it likes.
//
// Returns FAILED_PRECONDITION if the path crosses an operator without gradient.
absl::StatusOr<Gradients> Differentiate(GraphBuilder& builder,
                                        absl::Span<const Seed> seeds,
                                        absl::Span<const ValueId> wrt);
absl::StatusOr<Gradients> Differentiate(
    GraphBuilder& builder, absl::Span<const Seed> seeds,
    absl::Span<const ValueId> wrt,
    absl::FunctionRef<void(ValueId value, ValueId grad)> on_gradient);

}  // namespace strata

#endif  // CORE_PASSES_AUTODIFF_H_
