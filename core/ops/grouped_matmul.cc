#include "core/ops/grouped_matmul.h"

#include <algorithm>
#include <cstdint>
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

// --- GroupedMatMul ---

absl::StatusOr<std::vector<ValueType>> InferProduct(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "w", 3));
  const ValueType& x = op.type(0);
  const ValueType& w = op.type(1);
  const bool transpose = op.attrs.Int("transpose_w") != 0;
  const Dim& inner = w.dims[transpose ? 2 : 1];
  const bool narrow =
      x.dtype == DType::kF32 && w.dtype == DType::kBF16 && transpose;
  if ((w.dtype != x.dtype && !narrow) || inner != x.dims[1]) {
    return absl::InvalidArgumentError(
        absl::StrCat("x is ", ToText(op.graph, x), " and w ",
                     ToText(op.graph, w), transpose ? " transposed" : "",
                     "; want one dtype and equal inner extents"));
  }
  RETURN_IF_ERROR(
      WantType(op, 2, "offset", {DType::kI32, {Static(w.dims[0].bound + 1)}}));
  return std::vector<ValueType>{
      {x.dtype, {x.dims[0], w.dims[transpose ? 1 : 2]}}};
}

void ProductGradient(GradContext& g) {
  const bool transpose = g.attrs().Int("transpose_w") != 0;
  const ValueId dy = g.OutputGrad(0);
  const ValueId x = g.input(0);
  const ValueId offset = g.input(2);
  if (g.Needs(0)) {
    g.Set(0, GroupedMatMul(g.For(0), dy, g.input(1), offset, !transpose));
  }
  if (g.Needs(1)) {
    const ValueId rows = transpose ? dy : x;
    const ValueId columns = transpose ? x : dy;
    g.Set(1, g.For(1).Add1(kGroupedWeightGrad, {rows, columns, offset}));
  }
}

// A multiply and an add for each row and element of one expert's matrix.
double ProductFlops(const OpView& op, const Binding& binding) {
  const Dims& w = op.type(1).dims;
  return 2 * Extent(op.type(0).dims[0], binding) * w[1].bound * w[2].bound;
}

// Experts without rows are not read: with r rows, at most r experts are.
void ProductBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const ValueType& w = op.type(1);
  const double experts = w.dims[0].bound;
  const double rows = Extent(op.type(0).dims[0], binding);
  cost.bytes_read -=
      Bytes(w, binding) * (1 - std::min(experts, rows) / experts);
}

// --- GroupedWeightGrad ---

absl::StatusOr<std::vector<ValueType>> InferWeightGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dy", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "x", 2));
  const ValueType& dy = op.type(0);
  const ValueType& x = op.type(1);
  RETURN_IF_ERROR(WantType(op, 1, "x", {dy.dtype, {dy.dims[0], x.dims[1]}}));
  RETURN_IF_ERROR(WantRank(op, 2, "offset", DType::kI32, 1));
  const Dim& offsets = op.type(2).dims[0];
  if (offsets.ragged() || offsets.bound < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("offset is ", ToText(op.graph, op.type(2)),
                     "; want one more than there are experts"));
  }
  return std::vector<ValueType>{
      {dy.dtype, {Static(offsets.bound - 1), dy.dims[1], x.dims[1]}}};
}

double WeightGradFlops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(0), binding) * op.type(1).dims[1].bound;
}

}  // namespace

const OpDef kGroupedMatMul = {"GroupedMatMul", InferProduct,   ProductGradient,
                              ProductFlops,    /*mutates=*/{}, ProductBytes};
const OpDef kGroupedWeightGrad = {"GroupedWeightGrad", InferWeightGrad, nullptr,
                                  WeightGradFlops};

ValueId GroupedMatMul(GraphBuilder& b, ValueId x, ValueId w, ValueId offset,
                      bool transpose_w) {
  return b.Add1(kGroupedMatMul, {x, w, offset},
                {{"transpose_w", int64_t{transpose_w}}});
}

}  // namespace strata
