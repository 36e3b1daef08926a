// norm -> scores -> softmax or sigmoid -> top k -> weights, plan -> experts
// (+ shared expert) -> + h
#include <cstdint>
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_experts.h"
#include "core/ops/gate.h"
#include "core/ops/gate_select.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/passes/fuse/expert_match.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

struct SharedMatch {
  const Node* gate_up = nullptr;
  const Node* swiglu = nullptr;
  const Node* down = nullptr;
};

// The shared expert whose result is `value` and who reads `x`.
SharedMatch MatchShared(const Rewriter& r, ValueId value, ValueId x) {
  SharedMatch m;
  m.down = r.Maker(value, kMatMul);
  if (m.down == nullptr || !IsLinear(*m.down)) return {};
  m.swiglu = r.Maker(m.down->inputs[0], kSwiGlu);
  if (m.swiglu == nullptr) return {};
  m.gate_up = r.Maker(m.swiglu->inputs[0], kMatMul);
  if (m.gate_up == nullptr || !IsLinear(*m.gate_up) ||
      m.gate_up->inputs[0] != x) {
    return {};
  }
  return m;
}

void Match(Rewriter& r, const Node& combine) {
  const ExpertMatch experts = MatchExperts(r, combine);
  if (!experts || experts.weight() == kNone) return;
  const Node* const weight = r.Maker(experts.weight(), kSelectedWeight);
  const Node* const plan = r.Maker(experts.row_slot(), kDispatchPlan);
  if (weight == nullptr || plan == nullptr ||
      plan->outputs[1] != experts.slot_row() ||
      plan->outputs[2] != experts.offset() ||
      plan->inputs[0] != weight->inputs[1]) {
    return;
  }
  const Node* const top = r.Maker(plan->inputs[0], kTopKSelect);
  if (top == nullptr || top->inputs[0] != weight->inputs[0]) return;
  const Node* p = r.Maker(top->inputs[0], kMaskedSoftmax);
  const bool softmax = p != nullptr;
  if (softmax && ((p->inputs.size() > 1 && p->inputs[1] != kNone) ||
                  p->attrs.Float("scale") != 1)) {
    return;
  }
  if (!softmax) p = r.Maker(top->inputs[0], kSigmoid);
  if (p == nullptr) return;
  const Node* const gate = r.Maker(p->inputs[0], kMatMul);
  if (gate == nullptr || !IsLinear(*gate) || gate->inputs[0] != experts.x()) {
    return;
  }
  const Node* const norm = r.Maker(experts.x(), kRmsNorm);
  if (norm == nullptr) return;
  const ValueId h = norm->inputs[0];

  Rewriter::Fusion fusion;
  fusion.op = &kRoutedExperts;
  const Node* add = OnlyAdd(r, combine.outputs[0]);
  if (add == nullptr) return;
  SharedMatch shared;
  if (OtherOperand(*add, combine.outputs[0]) != h) {
    shared =
        MatchShared(r, OtherOperand(*add, combine.outputs[0]), experts.x());
    if (shared.down == nullptr) return;
    fusion.nodes = {shared.gate_up, shared.swiglu, shared.down, add};
    const ValueId sum = add->outputs[0];
    add = OnlyAdd(r, sum);
    if (add == nullptr || OtherOperand(*add, sum) != h) return;
  }
  for (const Node* node :
       {norm, gate, p, top, weight, plan, experts.dispatch, experts.gate_up,
        experts.swiglu, experts.down, &combine, add}) {
    fusion.nodes.push_back(node);
  }
  RoutedOptions options;
  options.eps = norm->attrs.Float("eps");
  options.softmax = softmax;
  options.k = top->attrs.Int("k");
  options.num_groups = top->attrs.Int("num_groups");
  options.top_groups = top->attrs.Int("top_groups");
  options.group_max = top->attrs.Int("group_max") != 0;
  options.normalize = weight->attrs.Int("normalize") != 0;
  options.floor = weight->attrs.Float("floor");
  options.scale = weight->attrs.Float("scale");
  fusion.attrs = RoutedAttrs(options);
  const ValueId bias = top->inputs.size() > 1 ? top->inputs[1] : kNone;
  fusion.inputs = {h,
                   norm->inputs[1],
                   gate->inputs[1],
                   bias,
                   experts.gate_up->inputs[1],
                   experts.down->inputs[1]};
  fusion.outputs = {add->outputs[0], plan->outputs[2], plan->outputs[3], kNone,
                    kNone};
  if (shared.down != nullptr) {
    fusion.inputs.push_back(shared.gate_up->inputs[1]);
    fusion.inputs.push_back(shared.down->inputs[1]);
    fusion.outputs.push_back(kNone);
  }
  r.Replace(fusion);
}

}  // namespace

void FuseRoutedExperts(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (node.op->name == kCombineRows.name) Match(rewriter, node);
  }
}

}  // namespace strata
