// DispatchRows -> gate and up -> SwiGLU -> down -> CombineRows: what experts
// are, whatever stands before and behind them.

#ifndef CORE_PASSES_FUSE_EXPERT_MATCH_H_
#define CORE_PASSES_FUSE_EXPERT_MATCH_H_

#include "core/graph/graph.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {

struct ExpertMatch {
  const Node* dispatch = nullptr;
  const Node* gate_up = nullptr;
  const Node* swiglu = nullptr;
  const Node* down = nullptr;
  const Node* combine = nullptr;

  explicit operator bool() const { return combine != nullptr; }
  ValueId x() const { return dispatch->inputs[0]; }
  ValueId row_slot() const { return dispatch->inputs[1]; }
  ValueId slot_row() const { return dispatch->inputs[2]; }
  ValueId offset() const { return gate_up->inputs[2]; }
  ValueId weight() const {
    return combine->inputs.size() > 3 ? combine->inputs[3] : kNone;
  }
};

// The experts whose CombineRows is `combine`; false if it has others.
ExpertMatch MatchExperts(const Rewriter& rewriter, const Node& combine);

}  // namespace strata

#endif  // CORE_PASSES_FUSE_EXPERT_MATCH_H_
