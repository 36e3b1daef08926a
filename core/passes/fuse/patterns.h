// The patterns of fuse.h, a file each. Each goes through the graph once and
// replaces what it finds.

#ifndef CORE_PASSES_FUSE_PATTERNS_H_
#define CORE_PASSES_FUSE_PATTERNS_H_

#include <vector>

#include "core/graph/graph.h"
#include "core/passes/fuse/rewriter.h"
#include "core/quant/cache_format.h"

namespace strata {

void FuseAttentionInputs(Rewriter& rewriter);
void FuseLatentInputs(Rewriter& rewriter);
void FuseAttentionOutputs(Rewriter& rewriter);
void FuseDenseLayers(Rewriter& rewriter);
void FuseRoutedExperts(Rewriter& rewriter);
void FuseTierGates(Rewriter& rewriter);
void FuseExperts(Rewriter& rewriter);  // What the one before has left.

// What patterns share: x W^T by a matrix, and what may stand behind it.
bool IsLinear(const Node& node);

struct LinearMatch {
  const Node* product = nullptr;
  const Node* add_bias = nullptr;  // Null: none.

  ValueId weight() const { return product->inputs[1]; }
  ValueId bias() const {
    return add_bias == nullptr ? kNone : add_bias->inputs[1];
  }
  ValueId result() const {
    return (add_bias == nullptr ? product : add_bias)->outputs[0];
  }
};
// `product`, which must be linear, and the bias behind it, if its only reader.
LinearMatch MatchLinear(const Rewriter& rewriter, const Node& product);

// What a Rope node turns by: cos and sin of its positions, which all nodes with
// the same share; none if it cannot be looked up.
std::vector<ValueId> SharedTable(Rewriter& rewriter, const Node& rope);
// Whether two Rope nodes turn heads alike, however many.
bool TurnAlike(const Node& a, const Node& b);

// What a CacheWrite or PackedCacheWrite rounds to.
CacheOptions StoredBy(const Node& write);

// The input of that number; kNone if it is absent.
ValueId Optional(const Node& node, size_t input);

// The operand of `add`, an Add, that is not `value`.
ValueId OtherOperand(const Node& add, ValueId value);

// The only reader of `value` if it is an Add, whichever operand it is.
const Node* OnlyAdd(const Rewriter& rewriter, ValueId value);

}  // namespace strata

#endif  // CORE_PASSES_FUSE_PATTERNS_H_
