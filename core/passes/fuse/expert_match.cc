#include "core/passes/fuse/expert_match.h"

#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_matmul.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {

ExpertMatch MatchExperts(const Rewriter& r, const Node& combine) {
  ExpertMatch m;
  m.down = r.Maker(combine.inputs[0], kGroupedMatMul);
  if (m.down == nullptr) return {};
  m.swiglu = r.Maker(m.down->inputs[0], kSwiGlu);
  if (m.swiglu == nullptr) return {};
  m.gate_up = r.Maker(m.swiglu->inputs[0], kGroupedMatMul);
  if (m.gate_up == nullptr) return {};
  m.dispatch = r.Maker(m.gate_up->inputs[0], kDispatchRows);
  if (m.dispatch == nullptr) return {};
  // The rows of one plan, whole and unweighted, by W^T, and nothing but their
  // sum.
  const bool weighted =
      m.dispatch->inputs.size() > 3 && m.dispatch->inputs[3] != kNone;
  if (weighted || m.gate_up->attrs.Int("transpose_w") == 0 ||
      m.down->attrs.Int("transpose_w") == 0 ||
      combine.inputs.size() > kCombineRowsAdd ||
      m.gate_up->inputs[2] != m.down->inputs[2] ||
      m.dispatch->inputs[1] != combine.inputs[1] ||
      m.dispatch->inputs[2] != combine.inputs[2]) {
    return {};
  }
  m.combine = &combine;
  return m;
}

}  // namespace strata
