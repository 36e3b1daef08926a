#include "core/ops/mixed_matmul.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "x", DType::kF32, 2));
  RETURN_IF_ERROR(WantRank(op, 1, "w", DType::kU8, 1));
  const std::optional<ExpertFormats> formats =
      FormatsOfLetters(op.attrs.String("formats"));
  const int64_t n = op.attrs.Int("n"), k = op.type(0).dims[1].bound;
  if (!formats.has_value() || formats->empty() || n < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("formats are \"", op.attrs.String("formats"), "\" and n ",
                     n, "; want a letter from A to P an expert, and rows"));
  }
  for (const QuantFormat& format : *formats) {
    RETURN_IF_ERROR(CheckFormat("w", format, k));
  }
  const int64_t bytes = MixedOffsets(*formats, n, k).back();
  if (op.type(1).dims[0] != Static(bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("w is ", ToText(op.graph, op.type(1)), "; want ", bytes,
                     " bytes, which ", formats->size(), " experts of ", n,
                     " rows of ", k, " columns are in their formats"));
  }
  const auto experts = static_cast<int64_t>(formats->size());
  RETURN_IF_ERROR(
      WantType(op, 2, "offset", {DType::kI32, {Static(experts + 1)}}));
  return std::vector<ValueType>{{DType::kF32, {op.type(0).dims[0], Static(n)}}};
}

double Flops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(0), binding) *
         static_cast<double>(op.attrs.Int("n"));
}

// Experts without rows are not read: with r rows, at most r experts are, of
// average bytes.
void BytesOfBusy(const OpView& op, const Binding& binding, Cost& cost) {
  const auto experts = static_cast<double>(op.attrs.String("formats").size());
  const double rows = Extent(op.type(0).dims[0], binding);
  cost.bytes_read -=
      Bytes(op.type(1), binding) * (1 - std::min(experts, rows) / experts);
}

}  // namespace

const OpDef kMixedGroupedMatMul = {
    "MixedGroupedMatMul", Infer, nullptr, Flops, /*mutates=*/{}, BytesOfBusy};

Attrs MixedAttrs(const ExpertFormats& formats, int64_t n) {
  return {{"formats", LettersOf(formats)}, {"n", n}};
}

}  // namespace strata
