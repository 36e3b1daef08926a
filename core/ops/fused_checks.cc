#include "core/ops/fused_checks.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {

absl::Status WantWeight(const OpView& op, int input, absl::string_view name,
                        DType dtype, const Dim& columns, int64_t experts) {
  RETURN_IF_ERROR(WantFloat(op, input, name, experts > 0 ? 3 : 2));
  const ValueType& type = op.type(input);
  const bool narrow = dtype == DType::kF32 && type.dtype == DType::kBF16;
  if ((type.dtype == dtype || narrow) && type.dims.back() == columns &&
      (experts == 0 || type.dims[0] == Static(experts))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type), "; want ",
                   columns.bound, " columns of ", Name(dtype)));
}

}  // namespace strata
