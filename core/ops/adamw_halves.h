// AdamW of F32 weights that lie in two halves, so that products read BF16 and
// the optimizer loses nothing, in no more memory than F32 takes:
//
//   param  [..] BF16   the F32 weight rounded to the nearest, halves away from
//                      zero: what products read
//   low    [..] I16    what is to be added to param's bits, those of a float
//                      whose upper half they are, to have the weight's
//
// (param, m, v, grad, norm, divisor, lr, step, low) in place: on the weight as
// AdamW (core/ops/optimizer.h), of whose attributes it has all; m, v and grad
// are F32. Passes emit it (core/passes/bf16_training.h); backends may have no
// kernel.

#ifndef CORE_OPS_ADAMW_HALVES_H_
#define CORE_OPS_ADAMW_HALVES_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kAdamWHalves;
inline constexpr int kLowHalf = 8;  // Its input.

// The state that is `low` of a parameter.
inline std::string LowHalfName(absl::string_view parameter) {
  return absl::StrCat("low.", parameter);
}

}  // namespace strata

#endif  // CORE_OPS_ADAMW_HALVES_H_
