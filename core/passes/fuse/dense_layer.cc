// norm -> gate and up (-> bias) -> SwiGLU -> down (-> bias) -> + h
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_experts.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

void Match(Rewriter& r, const Node& norm) {
  const Node* const up = r.OnlyReader(norm.outputs[0], kMatMul);
  if (up == nullptr || !IsLinear(*up)) return;
  const LinearMatch gate_up = MatchLinear(r, *up);
  const Node* const swiglu = r.OnlyReader(gate_up.result(), kSwiGlu);
  if (swiglu == nullptr) return;
  const Node* const product = r.OnlyReader(swiglu->outputs[0], kMatMul);
  if (product == nullptr || !IsLinear(*product)) return;
  const LinearMatch down = MatchLinear(r, *product);
  const Node* const add = OnlyAdd(r, down.result());
  if (add == nullptr || OtherOperand(*add, down.result()) != norm.inputs[0]) {
    return;
  }
  Rewriter::Fusion fusion;
  fusion.op = &kNormMlp;
  fusion.attrs = {{"eps", norm.attrs.Float("eps")},
                  {"in_place", int64_t{kMlpH}}};
  fusion.nodes = {&norm, up, swiglu, product, add};
  for (const LinearMatch& linear : {gate_up, down}) {
    if (linear.add_bias != nullptr) fusion.nodes.push_back(linear.add_bias);
  }
  fusion.inputs = {norm.inputs[0], norm.inputs[1], gate_up.weight(),
                   down.weight(),  gate_up.bias(), down.bias()};
  fusion.outputs = {add->outputs[0], kNone, kNone};
  r.Replace(fusion);
}

}  // namespace

void FuseDenseLayers(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (node.op->name == kRmsNorm.name) Match(rewriter, node);
  }
}

}  // namespace strata
