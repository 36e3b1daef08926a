#include "core/ops/biased_score.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"

namespace strata {
namespace {

absl::Status WantScoreAndBias(const OpView& op, int p) {
  RETURN_IF_ERROR(WantFloat(op, p, "p", 2));
  const ValueType& score = op.type(p);
  return WantType(op, p + 1, "bias", {score.dtype, {score.dims[1]}});
}

absl::StatusOr<std::vector<ValueType>> InferBiasedScore(const OpView& op) {
  RETURN_IF_ERROR(WantScoreAndBias(op, 0));
  return std::vector<ValueType>{op.type(0)};
}

absl::StatusOr<std::vector<ValueType>> InferBiasedScoreGrad(const OpView& op) {
  RETURN_IF_ERROR(WantScoreAndBias(op, 1));
  RETURN_IF_ERROR(WantType(op, 0, "dout", op.type(1)));
  return std::vector<ValueType>{op.type(1)};
}

void BiasedScoreGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kBiasedScoreGrad,
                         {g.OutputGrad(0), g.input(0), g.input(1)}));
}

// The sum and the comparison.
double TwoPerElement(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.output_type(0), binding);
}

}  // namespace

const OpDef kBiasedScore = {"BiasedScore", InferBiasedScore,
                            BiasedScoreGradient, TwoPerElement};
const OpDef kBiasedScoreGrad = {"BiasedScoreGrad", InferBiasedScoreGrad,
                                nullptr, TwoPerElement};

ValueId BiasedScore(GraphBuilder& b, ValueId p, ValueId bias) {
  return b.Add1(kBiasedScore, {p, bias});
}

}  // namespace strata
