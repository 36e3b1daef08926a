// How far experts get from one placement to another within a budget: after each
// leg every expert has a slot, so training can go on in between.
//
//   present  0 1 | 2 3 | 3 0
//   leg      2 1 | 2 3 | 3 0     over one of two copies of 0
//   leg      2 1 | 0 3 | 3 0     over one of two copies of 2
//   target   2 1 | 0 3 | 3 2

#ifndef TRAINING_BALANCE_MOVE_LEG_H_
#define TRAINING_BALANCE_MOVE_LEG_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/parallel/placement.h"

namespace strata {

struct MoveLeg {
  // [slots]: slot s takes what slot origin[s] held before the leg.
  std::vector<int32_t> origin;
  int64_t changed = 0;  // Slots that take what another one held,
  int64_t sent = 0;     // and of those, one of another rank.
};

// The next leg from `present` to `target`, valid placements of `shape` (GPUs
// are ranks), that changes at most `max_changed` slots, or as few as one step
// needs: a copy over one of several, or two experts that change places. Each
// step brings at least one slot to what it is to hold. Nothing changes if the
// placements are the same.
MoveLeg NextLeg(const PlacementShape& shape, const Placement& present,
                const Placement& target, int64_t max_changed);

// The placement after a leg.
Placement After(const Placement& present, const MoveLeg& leg);

}  // namespace strata

#endif  // TRAINING_BALANCE_MOVE_LEG_H_
