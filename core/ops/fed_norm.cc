#include "core/ops/fed_norm.h"

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

using Types = absl::StatusOr<std::vector<ValueType>>;

ValueType OfRows(const ValueType& x) { return {x.dtype, {x.dims[0]}}; }
ValueType OfColumns(const ValueType& x) { return {x.dtype, {x.dims[1]}}; }

Types Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "before", 2));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "rows", x));
  RETURN_IF_ERROR(WantType(op, 2, "gain", OfColumns(x)));
  RETURN_IF_ERROR(WantType(op, 3, "fed_gain", OfColumns(x)));
  const double eps = op.attrs.Float("eps");
  if (!(eps > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("eps is ", eps, "; want more than 0"));
  }
  return std::vector<ValueType>{x, OfRows(x), OfRows(x)};
}

// That inputs 0 to 2 are dx, before and rows.
absl::Status CheckRows(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dx", 2));
  RETURN_IF_ERROR(WantType(op, 1, "before", op.type(0)));
  return WantType(op, 2, "rows", op.type(0));
}

Types InferInputGrad(const OpView& op) {
  RETURN_IF_ERROR(CheckRows(op));
  const ValueType& dx = op.type(0);
  RETURN_IF_ERROR(WantType(op, 3, "gain", OfColumns(dx)));
  RETURN_IF_ERROR(WantType(op, 4, "fed_gain", OfColumns(dx)));
  RETURN_IF_ERROR(WantType(op, 5, "rstd", OfRows(dx)));
  RETURN_IF_ERROR(WantType(op, 6, "fed_rstd", OfRows(dx)));
  if (op.has(kFedNormToBefore)) {
    RETURN_IF_ERROR(WantType(op, kFedNormToBefore, "to_before", dx));
  }
  if (op.has(kFedNormToRows)) {
    RETURN_IF_ERROR(WantType(op, kFedNormToRows, "to_rows", dx));
  }
  return std::vector<ValueType>{dx, dx};
}

Types InferWeightGrad(const OpView& op) {
  RETURN_IF_ERROR(CheckRows(op));
  const ValueType& dx = op.type(0);
  RETURN_IF_ERROR(WantType(op, 3, "rstd", OfRows(dx)));
  RETURN_IF_ERROR(WantType(op, 4, "fed_rstd", OfRows(dx)));
  return std::vector<ValueType>{OfColumns(dx), OfColumns(dx)};
}

void Gradient(GradContext& g) {
  const ValueId dx = g.OutputGrad(0);
  if (dx == kNone) return;  // Nothing is differentiated through either rstd.
  const ValueId before = g.input(0), rows = g.input(1);
  const ValueId rstd = g.output(1), fed_rstd = g.output(2);
  if (g.Needs(0) || g.Needs(1)) {
    const std::vector<ValueId> d = g.Shared().Add(
        kFedNormInputGrad,
        {dx, before, rows, g.input(2), g.input(3), rstd, fed_rstd});
    g.Set(0, d[0]);
    g.Set(1, d[1]);
  }
  if (g.Needs(2) || g.Needs(3)) {
    const std::vector<ValueId> d =
        g.For(g.Needs(2) ? 2 : 3)
            .Add(kFedNormWeightGrad, {dx, before, rows, rstd, fed_rstd});
    g.Set(2, d[0]);
    g.Set(3, d[1]);
  }
}

// Per element: a difference, a square and an add twice; two products twice, and
// their sum.
double Flops(const OpView& op, const Binding& binding) {
  return 10 * Elements(op.type(0), binding);
}

// Per element: a difference, RmsNormInputGrad's seven twice, another
// difference, and what is added.
double InputGradFlops(const OpView& op, const Binding& binding) {
  const int added = op.has(kFedNormToBefore) + op.has(kFedNormToRows);
  return (16 + added) * Elements(op.type(0), binding);
}

// Per element: a difference, and dx * x * rstd, added up, twice.
double WeightGradFlops(const OpView& op, const Binding& binding) {
  return 7 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kFedNorm = {"FedNorm", Infer, Gradient, Flops};
const OpDef kFedNormInputGrad = {"FedNormInputGrad", InferInputGrad, nullptr,
                                 InputGradFlops};
const OpDef kFedNormWeightGrad = {"FedNormWeightGrad", InferWeightGrad, nullptr,
                                  WeightGradFlops};

ValueId FedNorm(GraphBuilder& b, ValueId before, ValueId rows, ValueId gain,
                ValueId fed_gain, double eps) {
  return b.Add(kFedNorm, {before, rows, gain, fed_gain}, {{"eps", eps}})[0];
}

}  // namespace strata
