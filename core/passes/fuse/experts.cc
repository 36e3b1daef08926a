// dispatch -> experts -> combine -> + h, of all tokens or of some of them
#include "core/graph/graph.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_experts.h"
#include "core/passes/fuse/expert_match.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

void Match(Rewriter& r, const Node& combine) {
  const ExpertMatch experts = MatchExperts(r, combine);
  if (!experts) return;
  const ValueId y = combine.outputs[0];
  const Node* add = OnlyAdd(r, y);
  ValueId h = kNone, index = kNone;
  if (add != nullptr) {
    h = OtherOperand(*add, y);
  } else {
    add = r.OnlyReader(y, kAddRows, 1);
    if (add == nullptr) return;
    h = add->inputs[0];
    index = add->inputs[2];
  }
  Rewriter::Fusion fusion;
  fusion.op = &kExpertsResidual;
  fusion.attrs = {{"in_place", int64_t{kExpertsH}}};
  fusion.nodes = {experts.dispatch, experts.gate_up, experts.swiglu,
                  experts.down,     &combine,        add};
  fusion.inputs = {experts.x(),
                   experts.row_slot(),
                   experts.slot_row(),
                   experts.offset(),
                   experts.weight(),
                   experts.gate_up->inputs[1],
                   experts.down->inputs[1],
                   h,
                   index};
  fusion.outputs = {add->outputs[0], kNone};
  r.Replace(fusion);
}

}  // namespace

void FuseExperts(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (node.op->name == kCombineRows.name) Match(rewriter, node);
  }
}

}  // namespace strata
