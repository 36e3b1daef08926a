// Experts in slots: which rank holds an expert is data, so that experts can
// move between steps while the graph and its memory stay as they are.
//
//   table [slots]     expert of each slot: a state; rank r of the group has
//                     slots [r slots / ranks, (r + 1) slots / ranks)
//   expert [t, k] --PlaceChoices--> slot [t, k] --DispatchPlan--> rows by slot
//
// An expert has one slot or more. Of those on one rank the first counts, which
// is its copy there; the others hold the same. Rows of an expert are dealt to
// its copies by the token's number, so each copy has the gradient of some rows:
// SumCopies adds them up before the update, which is then the same for all.

#ifndef CORE_OPS_EXPERT_PLACEMENT_H_
#define CORE_OPS_EXPERT_PLACEMENT_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kPlaceChoices;  // (expert, table) -> slot
extern const OpDef kSumCopies;     // (table, grad...) in place
extern const OpDef kExpertNorm;    // (divisor, table, grad...) -> norm []

constexpr int kMaxPlacedGrads = 64;

struct SlotTable {
  ValueId table = kNone;  // I32 [slots], a multiple of ranks
  int64_t experts = 0;
  int64_t ranks = 1;
};

// expert I32 [t, k], -1 where none -> slot I32 [t, k], -1 where none. Running
// it returns INVALID_ARGUMENT if an expert is out of range, in the choices or
// in the table, or chosen without having a slot.
ValueId PlaceChoices(GraphBuilder& b, ValueId expert, const SlotTable& slots);

// Up to kMaxPlacedGrads `grads` (states [slots / ranks, ...] of one dtype) of
// each slot become the sum over the copies of its expert, added in the order of
// ranks: all slots of an expert then have the same bits.
void SumCopies(GraphBuilder& b, absl::Span<const ValueId> grads,
               const SlotTable& slots, absl::string_view group);

// The L2 norm over all elements of all experts of all ranks of `group`, each
// expert once, divided by `divisor` []. Squares are summed by expert, in their
// order: where experts are does not change a bit.
ValueId ExpertNorm(GraphBuilder& b, absl::Span<const ValueId> grads,
                   ValueId divisor, const SlotTable& slots,
                   absl::string_view group);

}  // namespace strata

#endif  // CORE_OPS_EXPERT_PLACEMENT_H_
