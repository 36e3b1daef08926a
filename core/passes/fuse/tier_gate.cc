// Two patterns of a tier's gate. What no token enters:
//
//   e -> q, k, v -> softmax -> o -> + e -> keys and values of experts
//
// and what each token goes through:
//
//   x -> energies | query
//   energies (or x) -> signature -> coarse scores -> sigmoid -> filter
//   query -> attention to what is left -> affinity (+ coarse) -> sigmoid
//     -> choice -> weights
#include <cstdint>
#include <utility>
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/ops/gate.h"
#include "core/ops/gate_select.h"
#include "core/ops/matmul.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

bool IsPlainProduct(const Node& node) {
  return node.op->name == kMatMul.name &&
         node.attrs.Int("transpose_lhs") == 0 &&
         node.attrs.Int("transpose_rhs") == 0;
}

// The linear product that makes `value`, or null.
const Node* LinearMaker(const Rewriter& r, ValueId value) {
  const Node* const node = r.Maker(value, kMatMul);
  return node != nullptr && IsLinear(*node) ? node : nullptr;
}

void MatchContext(Rewriter& r, const Node& add) {
  const ValueId e = add.inputs[0];
  const Node* const o = LinearMaker(r, add.inputs[1]);
  if (r.graph().value(e).role != Role::kParameter || o == nullptr) return;
  const Node* const mixed = r.Maker(o->inputs[0], kMatMul);
  if (mixed == nullptr || !IsPlainProduct(*mixed)) return;
  const Node* const softmax = r.Maker(mixed->inputs[0], kMaskedSoftmax);
  const Node* const v = LinearMaker(r, mixed->inputs[1]);
  if (softmax == nullptr || Optional(*softmax, 1) != kNone || v == nullptr) {
    return;
  }
  const Node* const scores = LinearMaker(r, softmax->inputs[0]);
  if (scores == nullptr) return;
  const Node* const q = LinearMaker(r, scores->inputs[0]);
  const Node* const k = LinearMaker(r, scores->inputs[1]);
  if (q == nullptr || k == nullptr || q->inputs[0] != e || k->inputs[0] != e ||
      v->inputs[0] != e) {
    return;
  }
  // Of the readers, two go on by a matrix: values by two of them.
  const Node* cross_k = nullptr;
  const Node* cross_v = nullptr;
  const Node* cross_o = nullptr;
  for (const NodeId reader : r.Readers(add.outputs[0])) {
    const Node& node = r.graph().node(reader);
    if (!IsLinear(node) || node.inputs[0] != add.outputs[0]) continue;
    const Node* const next = r.OnlyReader(node.outputs[0], kMatMul);
    if (next != nullptr && IsLinear(*next)) {
      cross_v = &node;
      cross_o = next;
    } else {
      cross_k = &node;
    }
  }
  if (cross_k == nullptr || cross_v == nullptr) return;
  Rewriter::Fusion fusion;
  fusion.op = &kExpertContext;
  fusion.attrs = {{"scale", softmax->attrs.Float("scale")}};
  fusion.nodes = {q, k,    v,       scores,  softmax, mixed,
                  o, &add, cross_k, cross_v, cross_o};
  fusion.inputs = {e,
                   q->inputs[1],
                   k->inputs[1],
                   v->inputs[1],
                   o->inputs[1],
                   cross_k->inputs[1],
                   cross_v->inputs[1],
                   cross_o->inputs[1]};
  fusion.outputs = {add.outputs[0], cross_k->outputs[0], cross_o->outputs[0]};
  r.Replace(fusion);
}

// softmax(query keys^T) of what the mask leaves, and what comes of it.
struct FineMatch {
  const Node* scale = nullptr;
  const Node* affinity = nullptr;
  const Node* refined = nullptr;
  const Node* mixed = nullptr;
  const Node* softmax = nullptr;
  const Node* scores = nullptr;
  ValueId query = kNone;

  bool complete() const { return query != kNone; }
};

FineMatch MatchFine(const Rewriter& r, ValueId value) {
  FineMatch m;
  m.scale = r.Maker(value, kScale);
  if (m.scale == nullptr) return {};
  m.affinity = LinearMaker(r, m.scale->inputs[0]);
  if (m.affinity == nullptr) return {};
  m.refined = r.Maker(m.affinity->inputs[0], kAdd);
  if (m.refined == nullptr) return {};
  m.mixed = r.Maker(m.refined->inputs[1], kMatMul);
  if (m.mixed == nullptr || !IsPlainProduct(*m.mixed)) return {};
  m.softmax = r.Maker(m.mixed->inputs[0], kMaskedSoftmax);
  if (m.softmax == nullptr) return {};
  m.scores = LinearMaker(r, m.softmax->inputs[0]);
  if (m.scores == nullptr || m.scores->inputs[0] != m.refined->inputs[0]) {
    return {};
  }
  m.query = m.scores->inputs[0];
  return m;
}

// The one product that a token's energies and query are columns of; of queries
// alone, where x is its own energies.
struct TokenMatch {
  const Node* product = nullptr;
  const Node* energies = nullptr;
  const Node* query = nullptr;
};

TokenMatch MatchToken(const Rewriter& r, ValueId energies, ValueId query) {
  TokenMatch m;
  m.query = r.Maker(query, kSliceColumns);
  if (m.query == nullptr) {
    const Node* const product = LinearMaker(r, query);
    if (product == nullptr || product->inputs[0] != energies) return {};
    m.product = product;
    return m;
  }
  m.energies = r.Maker(energies, kSliceColumns);
  if (m.energies == nullptr || m.energies->inputs[0] != m.query->inputs[0]) {
    return {};
  }
  const auto columns = [&](ValueId value) {
    return r.graph().value(value).type.dims[1].bound;
  };
  if (m.energies->attrs.Int("begin") != 0 ||
      m.query->attrs.Int("begin") != columns(energies) ||
      columns(energies) + columns(query) != columns(m.query->inputs[0])) {
    return {};
  }
  m.product = LinearMaker(r, m.query->inputs[0]);
  return m;
}

void MatchGate(Rewriter& r, const Node& weight) {
  const Node* const select = r.Maker(weight.inputs[1], kAdaptiveSelect);
  if (select == nullptr || select->inputs[0] != weight.inputs[0] ||
      Optional(*select, 3) != kNone) {
    return;
  }
  const Node* const p = r.Maker(weight.inputs[0], kSigmoid);
  const Node* const filter = r.Maker(Optional(*select, 1), kCoarseFilter);
  if (p == nullptr || filter == nullptr ||
      Optional(*filter, 1) != Optional(*select, 2)) {
    return;
  }
  const Node* const score = r.Maker(filter->inputs[0], kSigmoid);
  if (score == nullptr) return;
  const Node* const coarse = LinearMaker(r, score->inputs[0]);
  if (coarse == nullptr) return;
  const Node* const signature = r.Maker(coarse->inputs[0], kEnergySignature);
  if (signature == nullptr) return;

  ValueId affinity = p->inputs[0];
  const Node* const add = r.Maker(affinity, kAdd);
  if (add != nullptr) {
    if (add->inputs[1] != coarse->outputs[0]) return;
    affinity = add->inputs[0];
  }
  const FineMatch fine = MatchFine(r, affinity);
  if (!fine.complete() || Optional(*fine.softmax, 1) != filter->outputs[0]) {
    return;
  }
  const TokenMatch token = MatchToken(r, signature->inputs[0], fine.query);
  if (token.product == nullptr) return;

  TierGateOptions options;
  options.groups = signature->attrs.Int("groups");
  options.keep = filter->attrs.Int("keep");
  options.attention_scale = fine.softmax->attrs.Float("scale");
  options.affinity_scale = fine.scale->attrs.Float("factor");
  options.add_coarse = add != nullptr;
  options.tau = select->attrs.Float("tau");
  options.k_min = select->attrs.Int("k_min");
  options.k_max = select->attrs.Int("k_max");
  options.exit_threshold = select->attrs.Float("exit_threshold");
  options.normalize = weight.attrs.Int("normalize") != 0;
  options.floor = weight.attrs.Float("floor");
  options.scale = weight.attrs.Float("scale");
  Rewriter::Fusion fusion;
  fusion.op = &kTierGate;
  fusion.attrs = TierGateAttrs(options);
  fusion.nodes = {signature,     coarse,        score,        filter,
                  token.product, fine.scores,   fine.softmax, fine.mixed,
                  fine.refined,  fine.affinity, fine.scale,   p,
                  select,        &weight};
  for (const Node* node : {add, token.energies, token.query}) {
    if (node != nullptr) fusion.nodes.push_back(node);
  }
  fusion.inputs = {token.product->inputs[0], token.product->inputs[1],
                   coarse->inputs[1],        Optional(*filter, 1),
                   fine.affinity->inputs[1], fine.scores->inputs[1],
                   fine.mixed->inputs[1]};
  fusion.outputs = {select->outputs[0], select->outputs[1], weight.outputs[0]};
  r.Replace(fusion);
}

}  // namespace

void FuseTierGates(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (!rewriter.IsThere(node)) continue;
    if (node.op->name == kAdd.name) MatchContext(rewriter, node);
    if (node.op->name == kSelectedWeight.name) MatchGate(rewriter, node);
  }
}

}  // namespace strata
