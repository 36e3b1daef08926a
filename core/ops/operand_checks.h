// Checks of operands that shape inference shares.
//
// Each error names the operand, what it is and what was wanted:
// "mask is U8[4, 8]; want U8[4, 16]".

#ifndef CORE_OPS_OPERAND_CHECKS_H_
#define CORE_OPS_OPERAND_CHECKS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

// That `input` is there, of floating point and of that rank.
absl::Status WantFloat(const OpView& op, int input, absl::string_view name,
                       int rank);

// That `input` is there and of exactly that type; ragged extents match by their
// counts too.
absl::Status WantType(const OpView& op, int input, absl::string_view name,
                      const ValueType& want);

// That `input` is there, of that dtype and rank.
absl::Status WantRank(const OpView& op, int input, absl::string_view name,
                      DType dtype, int rank);

// That input `first`, and the one behind it only beside it, are of that type
// where they are there: what an operator adds to its result.
absl::Status WantAddends(const OpView& op, int first, const ValueType& want);
inline int NumAddends(const OpView& op, int first) {
  return op.has(first) + op.has(first + 1);
}

// That attribute `name`, of value `value`, lies in [min, max].
absl::Status WantInRange(absl::string_view name, int64_t value, int64_t min,
                         int64_t max);

}  // namespace strata

#endif  // CORE_OPS_OPERAND_CHECKS_H_
