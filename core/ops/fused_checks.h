// Checks of operands that fused operators share.

#ifndef CORE_OPS_FUSED_CHECKS_H_
#define CORE_OPS_FUSED_CHECKS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {

// That `input` is a matrix [*, columns] of `dtype` or, beside F32, BF16; with
// `experts`, as many of them: [experts, *, columns].
absl::Status WantWeight(const OpView& op, int input, absl::string_view name,
                        DType dtype, const Dim& columns, int64_t experts = 0);

}  // namespace strata

#endif  // CORE_OPS_FUSED_CHECKS_H_
