#include "core/ops/weight_grad_sum.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "sum", op.has(4) ? 3 : 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "dy", 2));
  RETURN_IF_ERROR(WantFloat(op, 2, "x", 2));
  RETURN_IF_ERROR(WantType(op, 3, "keep", {DType::kF32, {}}));
  const ValueType& sum = op.type(0);
  const Dims& dy = op.type(1).dims;
  const Dims& x = op.type(2).dims;
  const int first = op.has(4) ? 1 : 0;
  if (dy[0] != x[0] || sum.dims[first] != dy[1] ||
      sum.dims[first + 1] != x[1]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sum is ", ToText(op.graph, sum), ", dy ", ToText(op.graph, op.type(1)),
        " and x ", ToText(op.graph, op.type(2)),
        "; want as many rows of both, and their columns in the sum"));
  }
  if (op.has(4)) {
    RETURN_IF_ERROR(WantType(op, 4, "offset",
                             {DType::kI32, {Static(sum.dims[0].bound + 1)}}));
  }
  return std::vector<ValueType>{};
}

// The product, and a multiply and an add for each element of the sum.
double Flops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(1), binding) *
             static_cast<double>(op.type(2).dims[1].bound) +
         2 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kSumWeightGrad = {"SumWeightGrad", Infer, nullptr, Flops,
                              /*mutates=*/{0}};

}  // namespace strata
