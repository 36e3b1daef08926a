#include "core/ops/operand_checks.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::Status WantPresent(const OpView& op, int input, absl::string_view name) {
  if (op.has(input)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is missing"));
}

}  // namespace

absl::Status WantFloat(const OpView& op, int input, absl::string_view name,
                       int rank) {
  RETURN_IF_ERROR(WantPresent(op, input, name));
  const ValueType& type = op.type(input);
  if (IsFloat(type.dtype) && type.rank() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type),
                   "; want floating point of rank ", rank));
}

absl::Status WantType(const OpView& op, int input, absl::string_view name,
                      const ValueType& want) {
  RETURN_IF_ERROR(WantPresent(op, input, name));
  const ValueType& type = op.type(input);
  if (type.dtype == want.dtype && type.dims == want.dims) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      name, " is ", ToText(op.graph, type), "; want ", ToText(op.graph, want)));
}

absl::Status WantRank(const OpView& op, int input, absl::string_view name,
                      DType dtype, int rank) {
  RETURN_IF_ERROR(WantPresent(op, input, name));
  const ValueType& type = op.type(input);
  if (type.dtype == dtype && type.rank() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type), "; want ", Name(dtype),
                   " of rank ", rank));
}

absl::Status WantAddends(const OpView& op, int first, const ValueType& want) {
  if (op.has(first)) RETURN_IF_ERROR(WantType(op, first, "a", want));
  if (!op.has(first + 1)) return absl::OkStatus();
  if (!op.has(first)) {
    return absl::InvalidArgumentError("b is added without a");
  }
  return WantType(op, first + 1, "b", want);
}

absl::Status WantInRange(absl::string_view name, int64_t value, int64_t min,
                         int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; want ", min, " to ", max));
}

}  // namespace strata
