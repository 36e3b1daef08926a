#include "core/ops/full_attention.h"

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
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "q", 2));
  const int64_t heads = op.attrs.Int("num_heads");
  const int64_t kv_heads = op.attrs.Int("num_kv_heads");
  if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads is ", heads,
                     "; want a multiple of num_kv_heads, which is ", kv_heads));
  }
  const ValueType& q = op.type(0);
  const int64_t width = q.dims[1].bound;
  if (width % heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "q has ", width, " columns; want a multiple of ", heads, " heads"));
  }
  const int64_t k_width = width / heads * kv_heads;
  RETURN_IF_ERROR(
      WantType(op, 1, "k", {q.dtype, {q.dims[0], Static(k_width)}}));
  RETURN_IF_ERROR(WantFloat(op, 2, "v", 2));
  const Dim v_width = op.type(2).dims[1];
  RETURN_IF_ERROR(WantType(op, 2, "v", {q.dtype, {q.dims[0], v_width}}));
  if (v_width.bound % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("v has ", v_width.bound, " columns; want a multiple of ",
                     kv_heads, " heads"));
  }
  RETURN_IF_ERROR(WantRank(op, 3, "seq_start", DType::kI32, 1));
  if (!(op.attrs.Float("scale") > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scale is ", op.attrs.Float("scale"), "; want more than 0"));
  }
  return std::vector<ValueType>{
      {q.dtype, {q.dims[0], Static(v_width.bound / kv_heads * heads)}}};
}

// Sequences of one length: how rows divide is data.
double Flops(const OpView& op, const Binding& binding) {
  const double t = Extent(op.type(0).dims[0], binding);
  const auto sequences = static_cast<double>(op.type(3).dims[0].bound - 1);
  const auto columns = static_cast<double>(op.type(0).dims[1].bound +
                                           op.output_type(0).dims[1].bound);
  return 2 * t * (t / sequences) * columns;
}

}  // namespace

const OpDef kFullAttention = {"FullAttention", Infer, nullptr, Flops};

ValueId FullAttention(GraphBuilder& b, ValueId q, ValueId k, ValueId v,
                      ValueId seq_start, const FullAttentionOptions& options) {
  return b.Add1(kFullAttention, {q, k, v, seq_start},
                {{"num_heads", options.num_heads},
                 {"num_kv_heads", options.num_kv_heads},
                 {"scale", options.scale},
                 {"window", int64_t{0}}});
}

}  // namespace strata
