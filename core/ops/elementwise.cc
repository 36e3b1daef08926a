#include "core/ops/elementwise.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// A float of any rank.
absl::Status WantAnyFloat(const OpView& op, int input, absl::string_view name) {
  return WantFloat(op, input, name, op.has(input) ? op.type(input).rank() : 0);
}

absl::StatusOr<std::vector<ValueType>> InferAdd(const OpView& op) {
  RETURN_IF_ERROR(WantAnyFloat(op, 0, "x"));
  RETURN_IF_ERROR(WantType(op, 1, "y", op.type(0)));
  return std::vector<ValueType>{op.type(0)};
}

void AddGradient(GradContext& g) {
  for (const int i : {0, 1}) {
    if (g.Needs(i)) g.Set(i, g.OutputGrad(0));
  }
}

absl::StatusOr<std::vector<ValueType>> InferAddBias(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "bias", {x.dtype, {x.dims[1]}}));
  return std::vector<ValueType>{x};
}

void AddBiasGradient(GradContext& g) {
  if (g.Needs(0)) g.Set(0, g.OutputGrad(0));
  if (g.Needs(1)) g.Set(1, SumRows(g.For(1), g.OutputGrad(0)));
}

absl::StatusOr<std::vector<ValueType>> InferSumRows(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  return std::vector<ValueType>{{x.dtype, {x.dims[1]}}};
}

double OneFlopPerInput(const OpView& op, const Binding& binding) {
  return Elements(op.type(0), binding);
}

absl::StatusOr<std::vector<ValueType>> InferScale(const OpView& op) {
  RETURN_IF_ERROR(WantAnyFloat(op, 0, "x"));
  return std::vector<ValueType>{op.type(0)};
}

void ScaleGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, Scale(g.For(0), g.OutputGrad(0), g.attrs().Float("factor")));
}

absl::StatusOr<std::vector<ValueType>> InferFill(const OpView& op) {
  return std::vector<ValueType>{
      {static_cast<DType>(op.attrs.Int("dtype")), {}}};
}

absl::StatusOr<std::vector<ValueType>> InferSliceColumns(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  const int64_t begin = op.attrs.Int("begin");
  const int64_t width = op.attrs.Int("width");
  if (begin < 0 || width < 1 || begin + width > x.dims[1].bound) {
    return absl::InvalidArgumentError(absl::StrCat(
        "columns ", begin, " to ", begin + width, " of x, which is ",
        ToText(op.graph, x), "; want some within 0 to ", x.dims[1].bound));
  }
  return std::vector<ValueType>{{x.dtype, {x.dims[0], Static(width)}}};
}

void SliceColumnsGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  GraphBuilder& b = g.For(0);
  g.Set(0, PlaceColumns(b, g.OutputGrad(0), g.attrs().Int("begin"),
                        b.type(g.input(0)).dims[1].bound));
}

absl::StatusOr<std::vector<ValueType>> InferPlaceColumns(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  const int64_t begin = op.attrs.Int("begin");
  const int64_t n = op.attrs.Int("n");
  if (begin < 0 || begin + x.dims[1].bound > n) {
    return absl::InvalidArgumentError(
        absl::StrCat("x, which is ", ToText(op.graph, x), ", at column ", begin,
                     " of ", n, "; want it to end within them"));
  }
  return std::vector<ValueType>{{x.dtype, {x.dims[0], Static(n)}}};
}

void PlaceColumnsGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  GraphBuilder& b = g.For(0);
  g.Set(0, SliceColumns(b, g.OutputGrad(0), g.attrs().Int("begin"),
                        b.type(g.input(0)).dims[1].bound));
}

double OneFlopPerElement(const OpView& op, const Binding& binding) {
  return Elements(op.output_type(0), binding);
}

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// Only the columns that are taken are read.
void SliceBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read = Bytes(op.output_type(0), binding);
}

}  // namespace

const OpDef kAdd = {"Add", InferAdd, AddGradient, OneFlopPerElement};
const OpDef kAddBias = {"AddBias", InferAddBias, AddBiasGradient,
                        OneFlopPerElement};
const OpDef kSumRows = {"SumRows", InferSumRows, nullptr, OneFlopPerInput};
const OpDef kScale = {"Scale", InferScale, ScaleGradient, OneFlopPerElement};
const OpDef kFill = {"Fill", InferFill, nullptr, NoFlops};
const OpDef kSliceColumns = {"SliceColumns",       InferSliceColumns,
                             SliceColumnsGradient, NoFlops,
                             /*mutates=*/{},       SliceBytes};
const OpDef kPlaceColumns = {"PlaceColumns", InferPlaceColumns,
                             PlaceColumnsGradient, NoFlops};

ValueId Add(GraphBuilder& b, ValueId x, ValueId y) {
  return b.Add1(kAdd, {x, y});
}

ValueId AddBias(GraphBuilder& b, ValueId x, ValueId bias) {
  return b.Add1(kAddBias, {x, bias});
}

ValueId SumRows(GraphBuilder& b, ValueId x) { return b.Add1(kSumRows, {x}); }

ValueId Scale(GraphBuilder& b, ValueId x, double factor) {
  return b.Add1(kScale, {x}, {{"factor", factor}});
}

ValueId Fill(GraphBuilder& b, double value) {
  return b.Add1(
      kFill, {},
      {{"value", value}, {"dtype", static_cast<int64_t>(b.compute())}});
}

ValueId SliceColumns(GraphBuilder& b, ValueId x, int64_t begin, int64_t width) {
  return b.Add1(kSliceColumns, {x}, {{"begin", begin}, {"width", width}});
}

ValueId PlaceColumns(GraphBuilder& b, ValueId x, int64_t begin, int64_t n) {
  return b.Add1(kPlaceColumns, {x}, {{"begin", begin}, {"n", n}});
}

}  // namespace strata
