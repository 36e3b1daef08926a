#include "core/ops/head_loss.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// What both have; w may be BF16 beside F32 rows.
absl::StatusOr<std::vector<ValueType>> InferScore(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kHeadX, "x", 2));
  const ValueType& x = op.type(kHeadX);
  const Dim t = x.dims[0];
  RETURN_IF_ERROR(WantWeight(op, kHeadWeight, "w", x.dtype, x.dims[1]));
  RETURN_IF_ERROR(WantType(op, kHeadTarget, "target", {DType::kI32, {t}}));
  RETURN_IF_ERROR(WantInRange("chunk_rows", op.attrs.Int("chunk_rows"), 1,
                              std::numeric_limits<int32_t>::max()));
  return std::vector<ValueType>{
      {x.dtype, {}}, {x.dtype, {t}}, {DType::kU8, {t}}};
}

absl::StatusOr<std::vector<ValueType>> InferLoss(const OpView& op) {
  ASSIGN_OR_RETURN(std::vector<ValueType> types, InferScore(op));
  RETURN_IF_ERROR(
      WantType(op, kHeadLossGrad, "dloss", {op.type(kHeadX).dtype, {}}));
  types.push_back(op.type(kHeadX));
  types.push_back({op.type(kHeadX).dtype, op.type(kHeadWeight).dims});
  return types;
}

// `products`, and `of_logit` operations with each logit.
double FlopsOf(const OpView& op, const Binding& binding, double products,
               double of_logit) {
  const auto vocab = static_cast<double>(op.type(kHeadWeight).dims[0].bound);
  return 2 * products * Elements(op.type(kHeadX), binding) * vocab +
         of_logit * Elements(op.type(kHeadTarget), binding) * vocab;
}

// Four operations with a logit are CrossEntropy's, three its gradient's.
double LossFlops(const OpView& op, const Binding& binding) {
  return FlopsOf(op, binding, 3, 7);
}
double ScoreFlops(const OpView& op, const Binding& binding) {
  return FlopsOf(op, binding, 1, 4);
}

}  // namespace

const OpDef kHeadLoss = {"HeadLoss", InferLoss, nullptr, LossFlops};
const OpDef kHeadScore = {"HeadScore", InferScore, nullptr, ScoreFlops};

}  // namespace strata
