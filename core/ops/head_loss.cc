#include "core/ops/head_loss.h"

#include <cstdint>
#include <limits>
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
  RETURN_IF_ERROR(WantFloat(op, kHeadX, "x", 2));
  RETURN_IF_ERROR(WantFloat(op, kHeadWeight, "w", 2));
  const ValueType& x = op.type(kHeadX);
  const ValueType& w = op.type(kHeadWeight);
  const Dim t = x.dims[0];
  RETURN_IF_ERROR(
      WantType(op, kHeadWeight, "w", {x.dtype, {w.dims[0], x.dims[1]}}));
  RETURN_IF_ERROR(WantType(op, kHeadTarget, "target", {DType::kI32, {t}}));
  RETURN_IF_ERROR(WantType(op, kHeadLossGrad, "dloss", {x.dtype, {}}));
  RETURN_IF_ERROR(WantInRange("chunk_rows", op.attrs.Int("chunk_rows"), 1,
                              std::numeric_limits<int32_t>::max()));
  return std::vector<ValueType>{
      {x.dtype, {}}, {x.dtype, {t}}, {DType::kU8, {t}}, x, w};
}

// Three products, and the seven of a logit that CrossEntropy and its gradient
// have.
double Flops(const OpView& op, const Binding& binding) {
  const auto vocab = static_cast<double>(op.type(kHeadWeight).dims[0].bound);
  return 6 * Elements(op.type(kHeadX), binding) * vocab +
         7 * Elements(op.type(kHeadTarget), binding) * vocab;
}

}  // namespace

const OpDef kHeadLoss = {"HeadLoss", Infer, nullptr, Flops};

}  // namespace strata
