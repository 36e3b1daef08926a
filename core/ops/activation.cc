#include "core/ops/activation.h"

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

absl::StatusOr<std::vector<ValueType>> InferSwiGlu(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "h", 2));
  const ValueType& h = op.type(0);
  if (h.dims[1].bound % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "h is ", ToText(op.graph, h), "; want an even number of columns"));
  }
  return std::vector<ValueType>{
      {h.dtype, {h.dims[0], Static(h.dims[1].bound / 2)}}};
}

absl::StatusOr<std::vector<ValueType>> InferSwiGluGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "h", 2));
  const ValueType& h = op.type(1);
  RETURN_IF_ERROR(WantType(
      op, 0, "dy", {h.dtype, {h.dims[0], Static(h.dims[1].bound / 2)}}));
  return std::vector<ValueType>{h};
}

void SwiGluGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kSwiGluGrad, {g.OutputGrad(0), g.input(0)}));
}

// silu(gate) * up: an exponential, an addition, a division, two products.
double SwiGluFlops(const OpView& op, const Binding& binding) {
  return 5 * Elements(op.output_type(0), binding);
}

// The same sigmoid (3), silu, dy * silu, the slope (2 for its multiply-add and
// an addition), dy * up, times the slope.
double SwiGluGradFlops(const OpView& op, const Binding& binding) {
  return 10 * Elements(op.type(0), binding);
}

absl::StatusOr<std::vector<ValueType>> InferSigmoid(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", op.has(0) ? op.type(0).rank() : 0));
  return std::vector<ValueType>{op.type(0)};
}

absl::StatusOr<std::vector<ValueType>> InferSigmoidGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dy", op.has(0) ? op.type(0).rank() : 0));
  RETURN_IF_ERROR(WantType(op, 1, "y", op.type(0)));
  return std::vector<ValueType>{op.type(0)};
}

void SigmoidGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kSigmoidGrad, {g.OutputGrad(0), g.output(0)}));
}

double SigmoidFlops(const OpView& op, const Binding& binding) {
  return 3 * Elements(op.type(0), binding);
}

double SigmoidGradFlops(const OpView& op, const Binding& binding) {
  return 3 * Elements(op.type(0), binding);
}

absl::Status CheckScale(const OpView& op) {
  const double scale = op.attrs.Float("scale");
  if (scale > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("scale is ", scale, "; want more than 0"));
}

absl::StatusOr<std::vector<ValueType>> InferMaskedSoftmax(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  if (op.has(1)) {
    RETURN_IF_ERROR(WantType(op, 1, "mask", {DType::kU8, op.type(0).dims}));
  }
  RETURN_IF_ERROR(CheckScale(op));
  return std::vector<ValueType>{op.type(0)};
}

absl::StatusOr<std::vector<ValueType>> InferMaskedSoftmaxGrad(
    const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dy", 2));
  RETURN_IF_ERROR(WantType(op, 1, "y", op.type(0)));
  RETURN_IF_ERROR(CheckScale(op));
  return std::vector<ValueType>{op.type(0)};
}

void MaskedSoftmaxGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kMaskedSoftmaxGrad, {g.OutputGrad(0), g.output(0)},
                         {{"scale", g.attrs().Float("scale")}}));
}

// Scale, maximum, subtraction, exponential, sum, product.
double MaskedSoftmaxFlops(const OpView& op, const Binding& binding) {
  return 6 * Elements(op.type(0), binding);
}

// The dot product (2), subtraction, two products.
double MaskedSoftmaxGradFlops(const OpView& op, const Binding& binding) {
  return 5 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kSwiGlu = {"SwiGlu", InferSwiGlu, SwiGluGradient, SwiGluFlops};
const OpDef kSwiGluGrad = {"SwiGluGrad", InferSwiGluGrad, nullptr,
                           SwiGluGradFlops};
const OpDef kSigmoid = {"Sigmoid", InferSigmoid, SigmoidGradient, SigmoidFlops};
const OpDef kSigmoidGrad = {"SigmoidGrad", InferSigmoidGrad, nullptr,
                            SigmoidGradFlops};
const OpDef kMaskedSoftmax = {"MaskedSoftmax", InferMaskedSoftmax,
                              MaskedSoftmaxGradient, MaskedSoftmaxFlops};
const OpDef kMaskedSoftmaxGrad = {"MaskedSoftmaxGrad", InferMaskedSoftmaxGrad,
                                  nullptr, MaskedSoftmaxGradFlops};

ValueId SwiGlu(GraphBuilder& b, ValueId h) { return b.Add1(kSwiGlu, {h}); }

ValueId Sigmoid(GraphBuilder& b, ValueId x) { return b.Add1(kSigmoid, {x}); }

ValueId MaskedSoftmax(GraphBuilder& b, ValueId x, ValueId mask, double scale) {
  return b.Add1(kMaskedSoftmax, {x, mask}, {{"scale", scale}});
}

}  // namespace strata
