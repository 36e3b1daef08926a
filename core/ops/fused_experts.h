// What the feed-forward part of a block is when its operators are fused
// (docs/fusion.md):
//
//   h --NormMlp--> h + down(swiglu(up(norm(h))))        a dense layer
//   h --RoutedExperts--> h + experts(norm(h))           a flat mixture: norm,
//                                                       gate, choice, dispatch,
//                                                       experts, combination
//   x, plan, h --ExpertsResidual--> h + experts(x)      experts behind a gate
//                                                       of any other kind
//
// Each is defined by the operators it stands for: same FLOPs, and the bytes of
// what lies between them left out. Rows are not copied expert by expert: the
// products read tokens where they lie, and the rows of experts are never all
// there at once. core/passes/fuse makes these; they have no gradient.

#ifndef CORE_OPS_FUSED_EXPERTS_H_
#define CORE_OPS_FUSED_EXPERTS_H_

#include <cstdint>

#include "core/graph/attrs.h"
#include "core/graph/op_def.h"

namespace strata {

// Weights, here and below, are BF16 or of h's dtype.
extern const OpDef kNormMlp;
enum NormMlpInput {
  kMlpH,         // [t, d]
  kMlpGain,      // [d]
  kMlpGateUp,    // [2 width, d]
  kMlpDown,      // [d, width]
  kMlpUpBias,    // [2 width] or absent
  kMlpDownBias,  // [d] or absent
};
// Attributes: eps. Outputs beyond h's successor: tiles of what lies between.

extern const OpDef kRoutedExperts;
enum RoutedInput {
  kRoutedH,           // [t, d]
  kRoutedGain,        // [d]
  kRoutedGate,        // [E, d]
  kRoutedBias,        // [E] or absent: what is added where experts are chosen
  kRoutedGateUp,      // [E, 2 width, d]
  kRoutedDown,        // [E, d, width]
  kRoutedSharedUp,    // [2 shared width, d], or both absent
  kRoutedSharedDown,  // [d, shared width]
};
enum RoutedOutput {
  kRoutedY,       // [t, d]
  kRoutedOffset,  // I32 [E + 1], as DispatchPlan's
  kRoutedRows,    // I32 []
  kRoutedX,       // [t, d], the normalised rows, which experts read
  kRoutedHidden,  // [rows, width]
  kRoutedShared,  // [t, shared width], if there is a shared expert
};
struct RoutedOptions {
  double eps = 0;
  bool softmax = true;  // p of the logits; else sigmoid.
  int64_t k = 1;        // The next four as TopKOptions'.
  int64_t num_groups = 1;
  int64_t top_groups = 1;
  bool group_max = false;
  bool normalize = false;  // The next three as WeightOptions'.
  double floor = 0;
  double scale = 1;
};
Attrs RoutedAttrs(const RoutedOptions& options);

extern const OpDef kExpertsResidual;
enum ExpertsInput {
  kExpertsX,        // [n, d]
  kExpertsRowSlot,  // I32 [rows], of DispatchPlan; and the next two
  kExpertsSlotRow,  // I32 [n, k]
  kExpertsOffset,   // I32 [E + 1]
  kExpertsWeight,   // [n, k] or absent
  kExpertsGateUp,   // [E, 2 width, d]
  kExpertsDown,     // [E, d, width]
  kExpertsH,        // [t, d]
  kExpertsIndex,    // I32 [n], the rows of h that are added to; absent: all
};
// Outputs: [t, d], and the hidden rows [rows, width].

}  // namespace strata

#endif  // CORE_OPS_FUSED_EXPERTS_H_
