#include "core/passes/fuse/patterns.h"

#include <vector>

#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_attention.h"
#include "core/ops/matmul.h"
#include "core/ops/packed_cache.h"
#include "core/ops/rope.h"
#include "core/passes/fuse/rewriter.h"
#include "core/quant/cache_format.h"

namespace strata {

bool IsLinear(const Node& node) {
  return node.op->name == kMatMul.name &&
         node.attrs.Int("transpose_lhs") == 0 &&
         node.attrs.Int("transpose_rhs") != 0;
}

LinearMatch MatchLinear(const Rewriter& rewriter, const Node& product) {
  return {&product, rewriter.OnlyReader(product.outputs[0], kAddBias)};
}

bool TurnAlike(const Node& a, const Node& b) {
  const RopeOptions of_a = RopeOptionsOf(a.attrs);
  const RopeOptions of_b = RopeOptionsOf(b.attrs);
  return a.inputs[1] == b.inputs[1] && Optional(a, 2) == Optional(b, 2) &&
         a.attrs.Int("inverse") == 0 && b.attrs.Int("inverse") == 0 &&
         of_a.interleaved == of_b.interleaved &&
         RopeTableAttrs(of_a, DType::kF32).ToString() ==
             RopeTableAttrs(of_b, DType::kF32).ToString();
}

std::vector<ValueId> SharedTable(Rewriter& rewriter, const Node& rope) {
  const DType dtype = rewriter.graph().value(rope.inputs[0]).type.dtype;
  return rewriter.Shared(kRopeTable,
                         RopeTableAttrs(RopeOptionsOf(rope.attrs), dtype),
                         {rope.inputs[1], Optional(rope, 2)});
}

CacheOptions StoredBy(const Node& write) {
  return write.op->name == kPackedCacheWrite.name ? CacheOptionsOf(write.attrs)
                                                  : CacheOptions();
}

ValueId Optional(const Node& node, size_t input) {
  return node.inputs.size() > input ? node.inputs[input] : kNone;
}

ValueId OtherOperand(const Node& add, ValueId value) {
  return add.inputs[add.inputs[0] == value ? 1 : 0];
}

const Node* OnlyAdd(const Rewriter& rewriter, ValueId value) {
  const Node* const add = rewriter.OnlyReader(value, kAdd, 0);
  return add != nullptr ? add : rewriter.OnlyReader(value, kAdd, 1);
}

}  // namespace strata
