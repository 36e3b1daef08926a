// C3, fusion: the 12 basic operators of a block become 3 composite ones. C4,
// memory: at least 35 % less is allocated than one buffer for each value.
//
// Both are properties of graphs, so they are counted, not timed; docs/fusion.md
// says how.

#ifndef TOOLS_SCORECARD_C3_C4_H_
#define TOOLS_SCORECARD_C3_C4_H_

#include "absl/status/statusor.h"
#include "tools/scorecard/claim.h"

namespace strata {

absl::StatusOr<ClaimResult> FusedOperators();  // C3
absl::StatusOr<ClaimResult> MemoryReuse();     // C4

}  // namespace strata

#endif  // TOOLS_SCORECARD_C3_C4_H_
