#include "core/ops/matmul.h"

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

// The extents of c [m, n] = op(a) [m, k] * op(b) [k, n].
struct Extents {
  Dim m, n, lhs_k, rhs_k;
};

Extents ExtentsOf(const OpView& op) {
  const bool transpose_lhs = op.attrs.Int("transpose_lhs") != 0;
  const bool transpose_rhs = op.attrs.Int("transpose_rhs") != 0;
  const Dims& lhs = op.type(0).dims;
  const Dims& rhs = op.type(1).dims;
  return {lhs[transpose_lhs ? 1 : 0], rhs[transpose_rhs ? 0 : 1],
          lhs[transpose_lhs ? 0 : 1], rhs[transpose_rhs ? 1 : 0]};
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "lhs", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "rhs", 2));
  const DType dtype = op.type(0).dtype;
  const Extents e = ExtentsOf(op);
  const bool narrow =
      dtype == DType::kF32 && op.type(1).dtype == DType::kBF16 &&
      op.attrs.Int("transpose_lhs") == 0 && op.attrs.Int("transpose_rhs") != 0;
  if ((op.type(1).dtype != dtype && !narrow) || e.lhs_k != e.rhs_k) {
    return absl::InvalidArgumentError(
        absl::StrCat("lhs is ", ToText(op.graph, op.type(0)),
                     op.attrs.Int("transpose_lhs") != 0 ? " transposed" : "",
                     " and rhs ", ToText(op.graph, op.type(1)),
                     op.attrs.Int("transpose_rhs") != 0 ? " transposed" : "",
                     "; want one dtype and equal inner extents"));
  }
  if (e.n.ragged()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rhs is ", ToText(op.graph, op.type(1)),
                     " transposed; want columns of the result to be static"));
  }
  return std::vector<ValueType>{{dtype, {e.m, e.n}}};
}

void Gradient(GradContext& g) {
  const bool transpose_lhs = g.attrs().Int("transpose_lhs") != 0;
  const bool transpose_rhs = g.attrs().Int("transpose_rhs") != 0;
  const ValueId dy = g.OutputGrad(0);
  if (g.Needs(0)) {
    GraphBuilder& b = g.For(0);
    g.Set(0, transpose_lhs ? MatMul(b, g.input(1), dy, transpose_rhs, true)
                           : MatMul(b, dy, g.input(1), false, !transpose_rhs));
  }
  if (g.Needs(1)) {
    GraphBuilder& b = g.For(1);
    g.Set(1, transpose_rhs ? MatMul(b, dy, g.input(0), true, transpose_lhs)
                           : MatMul(b, g.input(0), dy, !transpose_lhs, false));
  }
}

double Flops(const OpView& op, const Binding& binding) {
  const Extents e = ExtentsOf(op);
  return 2 * Extent(e.m, binding) * Extent(e.n, binding) *
         Extent(e.lhs_k, binding);
}

}  // namespace

const OpDef kMatMul = {"MatMul", Infer, Gradient, Flops};

ValueId MatMul(GraphBuilder& b, ValueId lhs, ValueId rhs, bool transpose_lhs,
               bool transpose_rhs) {
  return b.Add1(kMatMul, {lhs, rhs},
                {{"transpose_lhs", int64_t{transpose_lhs}},
                 {"transpose_rhs", int64_t{transpose_rhs}}});
}

}  // namespace strata
