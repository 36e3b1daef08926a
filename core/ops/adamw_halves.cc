#include "core/ops/adamw_halves.h"

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
  RETURN_IF_ERROR(WantFloat(op, 0, "param", op.has(0) ? op.type(0).rank() : 0));
  const Dims& dims = op.type(0).dims;
  RETURN_IF_ERROR(WantType(op, 0, "param", {DType::kBF16, dims}));
  RETURN_IF_ERROR(WantType(op, 1, "m", {DType::kF32, dims}));
  RETURN_IF_ERROR(WantType(op, 2, "v", {DType::kF32, dims}));
  RETURN_IF_ERROR(WantType(op, 3, "grad", {DType::kF32, dims}));
  RETURN_IF_ERROR(WantType(op, 4, "norm", {DType::kF32, {}}));
  RETURN_IF_ERROR(WantType(op, 5, "divisor", {DType::kF32, {}}));
  RETURN_IF_ERROR(WantType(op, 6, "lr", {DType::kF32, {}}));
  RETURN_IF_ERROR(WantType(op, 7, "step", {DType::kI32, {}}));
  RETURN_IF_ERROR(WantType(op, kLowHalf, "low", {DType::kI16, dims}));
  return std::vector<ValueType>{};
}

// AdamW's 17, and an addition and a subtraction of bits.
double Flops(const OpView& op, const Binding& binding) {
  return 19 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kAdamWHalves = {"AdamWHalves", Infer, nullptr, Flops,
                            /*mutates=*/{0, 1, 2, kLowHalf}};

}  // namespace strata
