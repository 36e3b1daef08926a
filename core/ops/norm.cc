#include "core/ops/norm.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"

namespace strata {
namespace {

// The type of rstd: one a row, or one a row and group.
ValueType RstdType(const ValueType& x, const ValueType& gain) {
  const int64_t groups = x.dims[1].bound / gain.dims[0].bound;
  if (groups == 1) return {x.dtype, {x.dims[0]}};
  return {x.dtype, {x.dims[0], Static(groups)}};
}

// That the columns of `x` are whole groups of the size of `gain`.
absl::Status CheckGain(const OpView& op, const ValueType& x, int gain) {
  if (op.has(gain) && op.type(gain).rank() == 1 &&
      op.type(gain).dtype == x.dtype) {
    const Dim& n = op.type(gain).dims[0];
    if (!n.ragged() && n.bound > 0 && x.dims[1].bound % n.bound == 0) {
      return absl::OkStatus();
    }
  }
  return WantType(op, gain, "gain", {x.dtype, {x.dims[1]}});
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(CheckGain(op, x, 1));
  const double eps = op.attrs.Float("eps");
  if (!(eps > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("eps is ", eps, "; want more than 0"));
  }
  return std::vector<ValueType>{x, RstdType(x, op.type(1))};
}

absl::Status CheckGradInputs(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dy", 2));
  const ValueType& dy = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "x", dy));
  RETURN_IF_ERROR(CheckGain(op, dy, 2));
  return WantType(op, 3, "rstd", RstdType(dy, op.type(2)));
}

absl::StatusOr<std::vector<ValueType>> InferInputGrad(const OpView& op) {
  RETURN_IF_ERROR(CheckGradInputs(op));
  RETURN_IF_ERROR(WantAddends(op, kRmsNormInputGradAdd, op.type(0)));
  return std::vector<ValueType>{op.type(1)};
}

absl::StatusOr<std::vector<ValueType>> InferWeightGrad(const OpView& op) {
  RETURN_IF_ERROR(CheckGradInputs(op));
  return std::vector<ValueType>{op.type(2)};
}

void Gradient(GradContext& g) {
  const ValueId dy = g.OutputGrad(0);
  if (dy == kNone) return;  // Nothing is differentiated through rstd.
  const ValueId x = g.input(0), gain = g.input(1), rstd = g.output(1);
  if (g.Needs(0)) {
    g.Set(0, g.For(0).Add1(kRmsNormInputGrad, {dy, x, gain, rstd}));
  }
  if (g.Needs(1)) {
    g.Set(1, g.For(1).Add1(kRmsNormWeightGrad, {dy, x, gain, rstd}));
  }
}

// Per element: square, add; times rstd, times gain.
double Flops(const OpView& op, const Binding& binding) {
  return 4 * Elements(op.type(0), binding);
}

// Per element: dot(dy gain, x) is 3, a * dy * gain + b * x is 4; and what is
// added.
double InputGradFlops(const OpView& op, const Binding& binding) {
  return (7 + NumAddends(op, kRmsNormInputGradAdd)) *
         Elements(op.type(0), binding);
}

// Per element: dy * x * rstd, added up.
double WeightGradFlops(const OpView& op, const Binding& binding) {
  return 3 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kRmsNorm = {"RmsNorm", Infer, Gradient, Flops};
const OpDef kRmsNormInputGrad = {"RmsNormInputGrad", InferInputGrad, nullptr,
                                 InputGradFlops};
const OpDef kRmsNormWeightGrad = {"RmsNormWeightGrad", InferWeightGrad, nullptr,
                                  WeightGradFlops};

ValueId RmsNorm(GraphBuilder& b, ValueId x, ValueId gain, double eps) {
  return b.Add(kRmsNorm, {x, gain}, {{"eps", eps}})[0];
}

}  // namespace strata
