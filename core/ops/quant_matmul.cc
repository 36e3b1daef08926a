#include "core/ops/quant_matmul.h"

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
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// That x is F32 [t, k] and w, of `rank`, has packed rows of k columns.
absl::Status WantOperands(const OpView& op, int rank) {
  RETURN_IF_ERROR(WantRank(op, 0, "x", DType::kF32, 2));
  RETURN_IF_ERROR(WantRank(op, 1, "w", DType::kU8, rank));
  const QuantFormat format = FormatOf(op.attrs);
  const int64_t k = op.type(0).dims[1].bound;
  RETURN_IF_ERROR(CheckFormat("w", format, k));
  const int64_t bytes = PackedRow(format, k).bytes;
  if (op.type(1).dims[rank - 1] != Static(bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "w is ", ToText(op.graph, op.type(1)), "; want rows of ", bytes,
        " bytes, which ", k, " columns of ", ToText(format), " are"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ValueType>> InferDense(const OpView& op) {
  RETURN_IF_ERROR(WantOperands(op, 2));
  return std::vector<ValueType>{
      {DType::kF32, {op.type(0).dims[0], op.type(1).dims[0]}}};
}

double DenseFlops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(0), binding) * op.type(1).dims[0].bound;
}

absl::StatusOr<std::vector<ValueType>> InferGrouped(const OpView& op) {
  RETURN_IF_ERROR(WantOperands(op, 3));
  const Dims& w = op.type(1).dims;
  RETURN_IF_ERROR(
      WantType(op, 2, "offset", {DType::kI32, {Static(w[0].bound + 1)}}));
  return std::vector<ValueType>{{DType::kF32, {op.type(0).dims[0], w[1]}}};
}

double GroupedFlops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(0), binding) * op.type(1).dims[1].bound;
}

// Experts without rows are not read: with r rows, at most r experts are.
void GroupedBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const ValueType& w = op.type(1);
  const double experts = w.dims[0].bound;
  const double rows = Extent(op.type(0).dims[0], binding);
  cost.bytes_read -=
      Bytes(w, binding) * (1 - std::min(experts, rows) / experts);
}

}  // namespace

const OpDef kQuantMatMul = {"QuantMatMul", InferDense, nullptr, DenseFlops};
const OpDef kQuantGroupedMatMul = {
    "QuantGroupedMatMul", InferGrouped,   nullptr,
    GroupedFlops,         /*mutates=*/{}, GroupedBytes};

Attrs QuantAttrs(const QuantFormat& format) {
  return {{"bits", int64_t{format.bits}},
          {"group", format.group},
          {"symmetric", int64_t{format.symmetric}}};
}

QuantFormat FormatOf(const Attrs& attrs) {
  return {static_cast<int>(attrs.Int("bits")), attrs.Int("group"),
          attrs.Int("symmetric") != 0};
}

ValueId QuantMatMul(GraphBuilder& b, ValueId x, ValueId w,
                    const QuantFormat& format) {
  return b.Add1(kQuantMatMul, {x, w}, QuantAttrs(format));
}

ValueId QuantGroupedMatMul(GraphBuilder& b, ValueId x, ValueId w,
                           ValueId offset, const QuantFormat& format) {
  return b.Add1(kQuantGroupedMatMul, {x, w, offset}, QuantAttrs(format));
}

}  // namespace strata
