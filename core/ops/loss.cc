#include "core/ops/loss.h"

#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "logits", 2));
  const ValueType& logits = op.type(0);
  const Dim t = logits.dims[0];
  RETURN_IF_ERROR(WantType(op, 1, "target", {DType::kI32, {t}}));
  return std::vector<ValueType>{{logits.dtype, {}},
                                {logits.dtype, {t}},
                                {logits.dtype, {t}},
                                {DType::kU8, {t}}};
}

absl::StatusOr<std::vector<ValueType>> InferGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dloss", 0));
  RETURN_IF_ERROR(WantFloat(op, 1, "logits", 2));
  const ValueType& logits = op.type(1);
  const Dim t = logits.dims[0];
  RETURN_IF_ERROR(WantType(op, 0, "dloss", {logits.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 2, "target", {DType::kI32, {t}}));
  RETURN_IF_ERROR(WantType(op, 3, "lse", {logits.dtype, {t}}));
  return std::vector<ValueType>{logits};
}

void Gradient(GradContext& g) {
  // Only the mean is differentiated; the others are for reading.
  if (g.OutputGrad(0) == kNone || !g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kCrossEntropyGrad, {g.OutputGrad(0), g.input(0),
                                             g.input(1), g.output(2)}));
}

// Per logit: maximum, subtraction, exponential, sum.
double Flops(const OpView& op, const Binding& binding) {
  return 4 * Elements(op.type(0), binding);
}

// Per logit: subtraction, exponential, product.
double GradFlops(const OpView& op, const Binding& binding) {
  return 3 * Elements(op.type(1), binding);
}

absl::StatusOr<std::vector<ValueType>> InferNextTarget(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "target", DType::kI32, 1));
  RETURN_IF_ERROR(WantRank(op, 1, "seq_start", DType::kI32, 1));
  return std::vector<ValueType>{op.type(0), op.type(0)};
}

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

}  // namespace

const OpDef kNextTarget = {"NextTarget", InferNextTarget, nullptr, NoFlops};
const OpDef kCrossEntropy = {"CrossEntropy", Infer, Gradient, Flops};
const OpDef kCrossEntropyGrad = {"CrossEntropyGrad", InferGrad, nullptr,
                                 GradFlops};

NextTargetResult NextTarget(GraphBuilder& b, ValueId target,
                            ValueId seq_start) {
  const std::vector<ValueId> out = b.Add(kNextTarget, {target, seq_start});
  return {out[0], out[1]};
}

CrossEntropyResult CrossEntropy(GraphBuilder& b, ValueId logits,
                                ValueId target) {
  const std::vector<ValueId> out = b.Add(kCrossEntropy, {logits, target});
  return {out[0], out[1], out[3]};
}

}  // namespace strata
