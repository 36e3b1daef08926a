#include "core/ops/slot_dot.h"

#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dh", 2));
  const ValueType& dh = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "h", dh));
  RETURN_IF_ERROR(WantRank(op, 2, "slot_row", DType::kI32, 2));
  const ValueType weight = {dh.dtype, op.type(2).dims};
  RETURN_IF_ERROR(WantType(op, 3, "weight", weight));
  return std::vector<ValueType>{weight};
}

// A multiply and an add an element of h, a division a slot.
double Flops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(1), binding) + Elements(op.type(3), binding);
}

}  // namespace

const OpDef kSlotDot = {"SlotDot", Infer, nullptr, Flops};

}  // namespace strata
