// attention over a cache (-> values of latents) -> projection (-> bias) -> + h
#include <vector>

#include "core/graph/attrs.h"
#include "core/graph/graph.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/fused_attention.h"
#include "core/ops/matmul.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

// Of attention, of LatentOutput if `values` is given, and where the result may
// lie.
Attrs AttrsOf(const Node& attend, const Node* values, int64_t in_place) {
  // Those of PackedAttention, which calls the rank by another name, are 0 where
  // it is none.
  const char* const rank = attend.attrs.Has("rank") ? "rank" : "value_dim";
  const auto attr = [](const Node* node, const char* name) {
    return node != nullptr && node->attrs.Has(name) ? node->attrs.Int(name)
                                                    : int64_t{0};
  };
  return {{"num_heads", attr(&attend, "num_heads")},
          {"num_kv_heads", attr(&attend, "num_kv_heads")},
          {"scale", attend.attrs.Float("scale")},
          {"window", attr(&attend, "window")},
          {"block_size", attr(&attend, "block_size")},
          {"rank", attr(&attend, rank)},
          {"value_dim", attr(&attend, "value_dim")},
          {"format", attr(&attend, "format")},
          {"attention_bits", attr(&attend, "attention_bits")},
          {"nope", attr(values, "nope")},
          {"rope", attr(values, "rope")},
          {"value", attr(values, "value")},
          {"in_place", in_place}};
}

void Match(Rewriter& r, const Node& attend, const AttendPart& part) {
  Rewriter::Fusion fusion;
  fusion.nodes = {&attend};
  ValueId o = attend.outputs[0];
  const Node* values = nullptr;
  if (part.latent) {
    values = r.OnlyReader(o, kLatentOutput);
    if (values == nullptr) return;
    fusion.nodes.push_back(values);
    o = values->outputs[0];
  }
  const Node* const product = r.OnlyReader(o, kMatMul);
  if (product == nullptr || !IsLinear(*product)) return;
  const LinearMatch linear = MatchLinear(r, *product);
  fusion.nodes.push_back(product);
  if (linear.add_bias != nullptr) fusion.nodes.push_back(linear.add_bias);
  const Node* const add = OnlyAdd(r, linear.result());
  if (add == nullptr) return;
  fusion.nodes.push_back(add);

  fusion.op = part.fused;
  fusion.attrs = AttrsOf(attend, values, part.num_inputs);
  fusion.inputs.assign(attend.inputs.begin(), attend.inputs.end());
  fusion.inputs.push_back(OtherOperand(*add, linear.result()));
  fusion.inputs.push_back(linear.weight());
  fusion.inputs.push_back(linear.bias());
  fusion.outputs = {add->outputs[0], kNone};
  if (part.latent) {
    fusion.inputs.push_back(values->inputs[1]);
    fusion.outputs.push_back(kNone);
  }
  r.Replace(fusion);
}

}  // namespace

void FuseAttentionOutputs(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    const AttendPart* const part = FindAttendPartOf(node);
    if (part != nullptr) Match(rewriter, node, *part);
  }
}

}  // namespace strata
