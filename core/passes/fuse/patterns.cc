#include "core/passes/fuse/patterns.h"

#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/passes/fuse/rewriter.h"

namespace strata {

bool IsLinear(const Node& node) {
  return node.op->name == kMatMul.name &&
         node.attrs.Int("transpose_lhs") == 0 &&
         node.attrs.Int("transpose_rhs") != 0;
}

LinearMatch MatchLinear(const Rewriter& rewriter, const Node& product) {
  return {&product, rewriter.OnlyReader(product.outputs[0], kAddBias)};
}

ValueId OtherOperand(const Node& add, ValueId value) {
  return add.inputs[add.inputs[0] == value ? 1 : 0];
}

const Node* OnlyAdd(const Rewriter& rewriter, ValueId value) {
  const Node* const add = rewriter.OnlyReader(value, kAdd, 0);
  return add != nullptr ? add : rewriter.OnlyReader(value, kAdd, 1);
}

}  // namespace strata
