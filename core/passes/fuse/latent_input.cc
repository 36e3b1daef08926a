// norm -> (q down -> norm ->) q -> rotary -> LatentQuery
//      -> kv down -> norm of the latent, rotary part -> side by side -> cache
#include <cstdint>
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_latent.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/packed_cache.h"
#include "core/ops/rope.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {
namespace {

// From a cache write back to the product that it comes from.
struct KeyMatch {
  const Node* write = nullptr;
  const Node* add = nullptr;
  const Node* place_latent = nullptr;
  const Node* place_rope = nullptr;
  const Node* norm = nullptr;
  const Node* rope = nullptr;
  const Node* slice_latent = nullptr;
  const Node* slice_rope = nullptr;
  ValueId source = kNone;  // [t, rank + rope], which both are slices of.

  bool complete() const { return source != kNone; }
};

KeyMatch MatchKey(const Rewriter& r, const Node& write) {
  KeyMatch m;
  m.write = &write;
  m.add = r.Maker(write.inputs[1], kAdd);
  if (m.add == nullptr) return {};
  m.place_latent = r.Maker(m.add->inputs[0], kPlaceColumns);
  m.place_rope = r.Maker(m.add->inputs[1], kPlaceColumns);
  if (m.place_latent == nullptr || m.place_rope == nullptr) return {};
  m.norm = r.Maker(m.place_latent->inputs[0], kRmsNorm);
  m.rope = r.Maker(m.place_rope->inputs[0], kRope);
  if (m.norm == nullptr || m.rope == nullptr) return {};
  m.slice_latent = r.Maker(m.norm->inputs[0], kSliceColumns);
  m.slice_rope = r.Maker(m.rope->inputs[0], kSliceColumns);
  if (m.slice_latent == nullptr || m.slice_rope == nullptr ||
      m.slice_latent->inputs[0] != m.slice_rope->inputs[0]) {
    return {};
  }
  const auto columns = [&](ValueId value) {
    return r.graph().value(value).type.dims[1].bound;
  };
  const int64_t rank = columns(m.slice_latent->outputs[0]);
  if (m.slice_latent->attrs.Int("begin") != 0 ||
      m.slice_rope->attrs.Int("begin") != rank ||
      m.place_latent->attrs.Int("begin") != 0 ||
      m.place_rope->attrs.Int("begin") != rank ||
      columns(m.add->outputs[0]) != rank + columns(m.slice_rope->outputs[0]) ||
      columns(m.slice_latent->inputs[0]) != columns(m.add->outputs[0])) {
    return {};
  }
  m.source = m.slice_latent->inputs[0];
  return m;
}

// The node that stores `key` in a cache that LatentQkv takes.
const Node* CacheWriteOf(const Rewriter& r, ValueId key) {
  if (const Node* const write = r.OnlyReader(key, kCacheWrite, 1)) return write;
  const Node* const packed = r.OnlyReader(key, kPackedCacheWrite, 1);
  const bool fits = packed != nullptr && packed->attrs.Int("num_heads") == 1;
  return fits ? packed : nullptr;
}

// The product, with its bias if it has one, that makes `value`.
LinearMatch MakerOf(const Rewriter& r, ValueId value) {
  const Node* const bias = r.Maker(value, kAddBias);
  const Node* const product =
      r.Maker(bias == nullptr ? value : bias->inputs[0], kMatMul);
  if (product == nullptr || !IsLinear(*product)) return {};
  return {product, bias};
}

void Match(Rewriter& r, const Node& query) {
  const Node* const rope = r.Maker(query.inputs[0], kRope);
  if (rope == nullptr) return;
  const Node* const q = r.Maker(rope->inputs[0], kMatMul);
  if (q == nullptr || !IsLinear(*q)) return;
  Rewriter::Fusion fusion;
  fusion.nodes = {&query, rope, q};
  // From q's input to the norm of the block.
  LinearMatch down;
  const Node* q_norm = nullptr;
  const Node* norm = r.Maker(q->inputs[0], kRmsNorm);
  if (norm == nullptr) return;
  if (const LinearMatch maker = MakerOf(r, norm->inputs[0]);
      maker.product != nullptr) {
    q_norm = norm;
    down = maker;
    norm = r.Maker(down.product->inputs[0], kRmsNorm);
    if (norm == nullptr) return;
    fusion.nodes.push_back(q_norm);
    fusion.nodes.push_back(down.product);
    if (down.add_bias != nullptr) fusion.nodes.push_back(down.add_bias);
  }
  fusion.nodes.push_back(norm);
  // Who else reads the norm: the product of the keys.
  LinearMatch kv;
  KeyMatch key;
  for (const NodeId reader : r.Readers(norm->outputs[0])) {
    const Node& node = r.graph().node(reader);
    if (!IsLinear(node) || &node == q || &node == down.product) continue;
    kv = MatchLinear(r, node);
    for (const NodeId slice : r.Readers(kv.result())) {
      const Node& part = r.graph().node(slice);
      if (part.op->name != kSliceColumns.name) return;
      const Node* const latent_norm = r.OnlyReader(part.outputs[0], kRmsNorm);
      if (latent_norm == nullptr) continue;
      const Node* const place =
          r.OnlyReader(latent_norm->outputs[0], kPlaceColumns);
      const Node* const add =
          place == nullptr ? nullptr : OnlyAdd(r, place->outputs[0]);
      const Node* const write =
          add == nullptr ? nullptr : CacheWriteOf(r, add->outputs[0]);
      if (write != nullptr) key = MatchKey(r, *write);
    }
  }
  if (!key.complete() || key.source != kv.result() ||
      !TurnAlike(*rope, *key.rope)) {
    return;
  }
  const RopeOptions turn = RopeOptionsOf(rope->attrs);
  if (key.rope->attrs.Int("num_heads") != 1 ||
      turn.rotary_dim != query.attrs.Int("rope")) {
    return;
  }
  const std::vector<ValueId> table = SharedTable(r, *rope);
  if (table.empty()) return;

  LatentQkvOptions options;
  options.num_heads = turn.num_heads;
  options.nope = query.attrs.Int("nope");
  options.rope = query.attrs.Int("rope");
  options.value = query.attrs.Int("value");
  options.eps = norm->attrs.Float("eps");
  if (q_norm != nullptr) options.q_eps = q_norm->attrs.Float("eps");
  options.kv_eps = key.norm->attrs.Float("eps");
  options.interleaved = turn.interleaved;
  options.cache = StoredBy(*key.write);
  fusion.op = &kLatentQkv;
  fusion.attrs = LatentQkvAttrs(options);
  for (const Node* node :
       {kv.product, kv.add_bias, key.write, key.add, key.place_latent,
        key.place_rope, key.norm, key.rope, key.slice_latent, key.slice_rope}) {
    if (node != nullptr) fusion.nodes.push_back(node);
  }
  const bool has_down = q_norm != nullptr;
  fusion.inputs = {norm->inputs[0],
                   norm->inputs[1],
                   has_down ? down.weight() : kNone,
                   has_down ? down.bias() : kNone,
                   has_down ? q_norm->inputs[1] : kNone,
                   q->inputs[1],
                   kv.weight(),
                   kv.bias(),
                   key.norm->inputs[1],
                   query.inputs[1],
                   table[0],
                   table[1],
                   key.write->inputs[0],
                   key.write->inputs[2]};
  fusion.outputs = {query.outputs[0], kNone, kNone};
  if (has_down) fusion.outputs.push_back(kNone);
  r.Replace(fusion);
}

}  // namespace

void FuseLatentInputs(Rewriter& rewriter) {
  for (const Node& node : rewriter.graph().nodes()) {
    if (node.op->name == kLatentQuery.name) Match(rewriter, node);
  }
}

}  // namespace strata
