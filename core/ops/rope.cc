#include "core/ops/rope.h"

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
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "position", {DType::kI32, {x.dims[0]}}));
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t rotary_dim = op.attrs.Int("rotary_dim");
  const int64_t columns = x.dims[1].bound;
  if (num_heads < 1 || columns % num_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads is ", num_heads, "; want a divisor of ",
                     columns, ", the columns of x"));
  }
  const int64_t head_dim = columns / num_heads;
  if (rotary_dim < 2 || rotary_dim % 2 != 0 || rotary_dim > head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rotary_dim is ", rotary_dim, "; want an even number from ", "2 to ",
        head_dim, ", the columns of a head"));
  }
  const double theta = op.attrs.Float("theta");
  if (!(theta > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("theta is ", theta, "; want more than 0"));
  }
  return std::vector<ValueType>{x};
}

void Gradient(GradContext& g) {
  if (!g.Needs(0)) return;
  RopeOptions options;
  options.num_heads = g.attrs().Int("num_heads");
  options.rotary_dim = g.attrs().Int("rotary_dim");
  options.theta = g.attrs().Float("theta");
  g.Set(0, Rope(g.For(0), g.OutputGrad(0), g.input(1), options,
                /*inverse=*/g.attrs().Int("inverse") == 0));
}

// Four products and two additions a pair, three FLOPs a rotated column.
double Flops(const OpView& op, const Binding& binding) {
  return 3 * Extent(op.type(0).dims[0], binding) *
         static_cast<double>(op.attrs.Int("num_heads") *
                             op.attrs.Int("rotary_dim"));
}

}  // namespace

const OpDef kRope = {"Rope", Infer, Gradient, Flops};

ValueId Rope(GraphBuilder& b, ValueId x, ValueId position,
             const RopeOptions& options, bool inverse) {
  return b.Add1(kRope, {x, position},
                {{"num_heads", options.num_heads},
                 {"rotary_dim", options.rotary_dim},
                 {"theta", options.theta},
                 {"inverse", int64_t{inverse}}});
}

}  // namespace strata
