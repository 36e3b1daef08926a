// Linear CKA: how alike two representations of the same tokens are.
//
//   x [n, dx], y [n, dy], columns centred
//   CKA = |Y'X|^2 / (|X'X| |Y'Y|), norms of Frobenius
//
// Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network
// Representations Revisited" (ICML 2019), section 3. 1 for the same up to
// rotation, shift and scale. Of few rows it is too large even where nothing is
// shared, so compare only what was measured on equally many.

#ifndef TOOLS_SCORECARD_CKA_H_
#define TOOLS_SCORECARD_CKA_H_

#include <cstdint>

#include "absl/types/span.h"

namespace strata {

// 0 where x or y does not vary. Both have `num_rows` rows, at least one.
double LinearCka(absl::Span<const float> x,  // [num_rows, dx]
                 absl::Span<const float> y,  // [num_rows, dy]
                 int64_t num_rows);

}  // namespace strata

#endif  // TOOLS_SCORECARD_CKA_H_
