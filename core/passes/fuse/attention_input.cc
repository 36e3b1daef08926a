// norm -> q, k, v (-> bias) (-> norm of heads) (-> rotary) -> caches
#include <cstdint>
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_attention.h"
#include "core/ops/norm.h"
#include "core/ops/packed_cache.h"
#include "core/ops/rope.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"
#include "core/quant/cache_format.h"

namespace strata {
namespace {

// One projection and what is done to it.
struct Branch {
  LinearMatch linear;
  const Node* head_norm = nullptr;
  const Node* rope = nullptr;
  const Node* write = nullptr;
  ValueId result = kNone;

  Branch(const Rewriter& r, const Node& product)
      : linear(MatchLinear(r, product)), result(linear.result()) {
    head_norm = r.OnlyReader(result, kRmsNorm);
    if (head_norm != nullptr) result = head_norm->outputs[0];
    rope = r.OnlyReader(result, kRope);
    if (rope != nullptr) result = rope->outputs[0];
    write = r.OnlyReader(result, kCacheWrite, 1);
    if (write == nullptr) write = r.OnlyReader(result, kPackedCacheWrite, 1);
  }

  bool is_query() const { return rope != nullptr && write == nullptr; }
  bool is_key() const { return rope != nullptr && write != nullptr; }
  bool is_value() const {
    return rope == nullptr && head_norm == nullptr && write != nullptr;
  }
  void AddNodes(std::vector<const Node*>& nodes) const {
    for (const Node* node :
         {linear.product, linear.add_bias, head_norm, rope, write}) {
      if (node != nullptr) nodes.push_back(node);
    }
  }
};

// Whether heads of two writes are rounded alike, so many a token.
bool StoredAlike(const Node& k, const Node& v, int64_t num_heads) {
  const CacheOptions a = StoredBy(k), b = StoredBy(v);
  return a.format == b.format && a.attention_bits == b.attention_bits &&
         (!a.packed() || (k.attrs.Int("num_heads") == num_heads &&
                          v.attrs.Int("num_heads") == num_heads));
}

// The gain of the norm of heads, if it has one a head.
bool IsHeadNorm(const Rewriter& r, const Branch& branch) {
  const int64_t columns =
      r.graph().value(branch.linear.result()).type.dims[1].bound;
  const int64_t gain =
      r.graph().value(branch.head_norm->inputs[1]).type.dims[0].bound;
  return gain * branch.rope->attrs.Int("num_heads") == columns;
}

void Match(Rewriter& r, const Node& norm) {
  const auto readers = r.Readers(norm.outputs[0]);
  if (readers.size() != 3) return;
  const Branch* q = nullptr;
  const Branch* k = nullptr;
  const Branch* v = nullptr;
  std::vector<Branch> branches;
  for (const NodeId reader : readers) {
    const Node& product = r.graph().node(reader);
    if (!IsLinear(product) || product.inputs[0] != norm.outputs[0]) return;
    branches.emplace_back(r, product);
  }
  for (const Branch& branch : branches) {
    if (branch.is_query()) q = &branch;
    if (branch.is_key()) k = &branch;
    if (branch.is_value()) v = &branch;
  }
  if (q == nullptr || k == nullptr || v == nullptr) return;
  const bool has_bias = q->linear.add_bias != nullptr;
  const bool has_norm = q->head_norm != nullptr;
  if (!TurnAlike(*q->rope, *k->rope) ||
      has_bias != (k->linear.add_bias != nullptr) ||
      has_bias != (v->linear.add_bias != nullptr) ||
      has_norm != (k->head_norm != nullptr) ||
      k->write->inputs[0] == v->write->inputs[0] ||
      k->write->inputs[2] != v->write->inputs[2] ||
      !StoredAlike(*k->write, *v->write, k->rope->attrs.Int("num_heads"))) {
    return;
  }
  if (has_norm &&
      (!IsHeadNorm(r, *q) || !IsHeadNorm(r, *k) ||
       q->head_norm->attrs.Float("eps") != k->head_norm->attrs.Float("eps"))) {
    return;
  }
  const RopeOptions rope = RopeOptionsOf(q->rope->attrs);
  const std::vector<ValueId> table = SharedTable(r, *q->rope);
  if (table.empty()) return;

  NormQkvOptions options;
  options.num_heads = rope.num_heads;
  options.num_kv_heads = k->rope->attrs.Int("num_heads");
  options.eps = norm.attrs.Float("eps");
  if (has_norm) options.qk_eps = q->head_norm->attrs.Float("eps");
  options.interleaved = rope.interleaved;
  options.cache = StoredBy(*k->write);
  Rewriter::Fusion fusion;
  fusion.op = &kNormQkv;
  fusion.attrs = NormQkvAttrs(options);
  fusion.nodes = {&norm};
  for (const Branch& branch : branches) branch.AddNodes(fusion.nodes);
  fusion.inputs = {norm.inputs[0],
                   norm.inputs[1],
                   q->linear.weight(),
                   k->linear.weight(),
                   v->linear.weight(),
                   q->linear.bias(),
                   k->linear.bias(),
                   v->linear.bias(),
                   has_norm ? q->head_norm->inputs[1] : kNone,
                   has_norm ? k->head_norm->inputs[1] : kNone,
                   table[0],
                   table[1],
                   k->write->inputs[0],
                   v->write->inputs[0],
                   k->write->inputs[2]};
  fusion.outputs = {q->result, kNone};
  r.Replace(fusion);
}

}  // namespace

void FuseAttentionInputs(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (node.op->name == kRmsNorm.name) Match(rewriter, node);
  }
}

}  // namespace strata
