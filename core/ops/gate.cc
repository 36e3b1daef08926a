#include "core/ops/gate.h"

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

using Types = absl::StatusOr<std::vector<ValueType>>;

// What costs are counted in: elements of the first input under `binding`. An
// add, a comparison, a division, an exponential each count as one.
double PerElement(double flops, const OpView& op, const Binding& binding,
                  int input = 0) {
  return flops * Elements(op.type(input), binding);
}

// --- EnergySignature ---

Types InferEnergySignature(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  const int64_t groups = op.attrs.Int("groups");
  if (groups < 1 || x.dims[1].bound % groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("groups is ", groups, "; want a divisor of ",
                     x.dims[1].bound, ", the columns of x"));
  }
  return std::vector<ValueType>{{x.dtype, {x.dims[0], Static(groups)}}};
}

// A square and an add an element; a root and a product a slice.
double EnergySignatureFlops(const OpView& op, const Binding& binding) {
  return PerElement(2, op, binding) +
         2 * Extent(op.type(0).dims[0], binding) * op.attrs.Int("groups");
}

Types InferEnergySignatureGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "x", 2));
  const ValueType& x = op.type(1);
  RETURN_IF_ERROR(WantType(
      op, 0, "ds", {x.dtype, {x.dims[0], Static(op.attrs.Int("groups"))}}));
  return std::vector<ValueType>{x};
}

void EnergySignatureGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kEnergySignatureGrad, {g.OutputGrad(0), g.input(0)},
                         g.attrs()));
}

// The squares again, and a product an element; about five a slice.
double EnergySignatureGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(3, op, binding, 1) + PerElement(5, op, binding, 0);
}

// --- SelectedWeight ---

absl::Status WantScoreAndChoice(const OpView& op, int p) {
  RETURN_IF_ERROR(WantFloat(op, p, "p", 2));
  RETURN_IF_ERROR(WantRank(op, p + 1, "expert", DType::kI32, 2));
  const Dims& expert = op.type(p + 1).dims;
  return WantType(op, p + 1, "expert",
                  {DType::kI32, {op.type(p).dims[0], expert[1]}});
}

Types InferSelectedWeight(const OpView& op) {
  RETURN_IF_ERROR(WantScoreAndChoice(op, 0));
  return std::vector<ValueType>{{op.type(0).dtype, op.type(1).dims}};
}

Types InferSelectedWeightGrad(const OpView& op) {
  RETURN_IF_ERROR(WantScoreAndChoice(op, 1));
  RETURN_IF_ERROR(
      WantType(op, 0, "dweight", {op.type(1).dtype, op.type(2).dims}));
  return std::vector<ValueType>{op.type(1)};
}

void SelectedWeightGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kSelectedWeightGrad,
                         {g.OutputGrad(0), g.input(0), g.input(1)}, g.attrs()));
}

// The product with `scale`; if normalised, the sum and the division.
double SelectedWeightFlops(const OpView& op, const Binding& binding) {
  return PerElement(op.attrs.Int("normalize") != 0 ? 3 : 1, op, binding, 1);
}

// If normalised, two sums over the row first: of p and of p * dweight.
double SelectedWeightGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(op.attrs.Int("normalize") != 0 ? 5 : 1, op, binding, 0);
}

// Of p, only the chosen are read.
void SelectedWeightBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read = Bytes(op.type(1), binding) +
                    Elements(op.type(1), binding) * SizeOf(op.type(0).dtype);
}

void SelectedWeightGradBytes(const OpView& op, const Binding& binding,
                             Cost& cost) {
  cost.bytes_read = 2 * Bytes(op.type(0), binding) + Bytes(op.type(2), binding);
}

// --- CarryWeight ---

Types CarryTypes(const ValueType& weight) {
  return std::vector<ValueType>{weight,
                                {weight.dtype, {weight.dims[0], Static(1)}}};
}

Types InferCarryWeight(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "weight", 2));
  const ValueType& weight = op.type(0);
  if (op.has(1)) {
    RETURN_IF_ERROR(
        WantType(op, 1, "carry", {weight.dtype, {weight.dims[0], Static(1)}}));
  }
  return CarryTypes(weight);
}

Types InferCarryWeightGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 2, "weight", 2));
  const ValueType& weight = op.type(2);
  const ValueType carry = {weight.dtype, {weight.dims[0], Static(1)}};
  if (op.has(0)) RETURN_IF_ERROR(WantType(op, 0, "dscaled", weight));
  if (op.has(1)) RETURN_IF_ERROR(WantType(op, 1, "dcarry", carry));
  if (op.has(3)) RETURN_IF_ERROR(WantType(op, 3, "carry", carry));
  return CarryTypes(weight);
}

void CarryWeightGradient(GradContext& g) {
  const std::vector<ValueId> grads = g.Shared().Add(
      kCarryWeightGrad, {g.OutputGrad(0), g.OutputGrad(1), g.input(0),
                         g.Has(1) ? g.input(1) : kNone});
  if (g.Needs(0)) g.Set(0, grads[0]);
  if (g.Has(1) && g.Needs(1)) g.Set(1, grads[1]);
}

// The product and the sum.
double CarryWeightFlops(const OpView& op, const Binding& binding) {
  return PerElement(2, op, binding);
}

// carry * (dscaled + dcarry); the sum of that over weight.
double CarryWeightGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(4, op, binding, 2);
}

// --- LoadBias ---

Types InferLoadBias(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "ema", 1));
  const ValueType& ema = op.type(1);
  RETURN_IF_ERROR(WantType(op, 0, "offset",
                           {DType::kI32, {Static(ema.dims[0].bound + 1)}}));
  RETURN_IF_ERROR(WantType(op, 2, "integral", ema));
  RETURN_IF_ERROR(WantType(op, 3, "bias", ema));
  const double ema_decay = op.attrs.Float("ema_decay");
  if (!(ema_decay >= 0 && ema_decay < 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ema_decay is ", ema_decay, "; want at least 0, less than 1"));
  }
  for (const char* name : {"gain_p", "gain_i", "max_bias"}) {
    const double value = op.attrs.Float(name);
    if (!(value >= 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; want at least 0"));
    }
  }
  return std::vector<ValueType>{};
}

// The average (3), the error (2), the integral (3), the bias (2).
double LoadBiasFlops(const OpView& op, const Binding& binding) {
  return PerElement(10, op, binding, 1);
}

// --- SignBias ---

Types InferSignBias(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "bias", 1));
  RETURN_IF_ERROR(WantType(
      op, 0, "offset", {DType::kI32, {Static(op.type(1).dims[0].bound + 1)}}));
  const double rate = op.attrs.Float("rate");
  if (!(rate >= 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rate is ", rate, "; want at least 0"));
  }
  return std::vector<ValueType>{};
}

// The load, its comparison with the mean, the bias.
double SignBiasFlops(const OpView& op, const Binding& binding) {
  return PerElement(3, op, binding, 1);
}

}  // namespace

const OpDef kEnergySignature = {"EnergySignature", InferEnergySignature,
                                EnergySignatureGradient, EnergySignatureFlops};
const OpDef kEnergySignatureGrad = {"EnergySignatureGrad",
                                    InferEnergySignatureGrad, nullptr,
                                    EnergySignatureGradFlops};
const OpDef kSelectedWeight = {"SelectedWeight",       InferSelectedWeight,
                               SelectedWeightGradient, SelectedWeightFlops,
                               /*mutates=*/{},         SelectedWeightBytes};
const OpDef kSelectedWeightGrad = {
    "SelectedWeightGrad",    InferSelectedWeightGrad, nullptr,
    SelectedWeightGradFlops, /*mutates=*/{},          SelectedWeightGradBytes};
const OpDef kCarryWeight = {"CarryWeight", InferCarryWeight,
                            CarryWeightGradient, CarryWeightFlops};
const OpDef kCarryWeightGrad = {"CarryWeightGrad", InferCarryWeightGrad,
                                nullptr, CarryWeightGradFlops};
const OpDef kLoadBias = {"LoadBias", InferLoadBias, nullptr, LoadBiasFlops,
                         /*mutates=*/{1, 2, 3}};
const OpDef kSignBias = {"SignBias", InferSignBias, nullptr, SignBiasFlops,
                         /*mutates=*/{1}};

ValueId EnergySignature(GraphBuilder& b, ValueId x, int64_t groups) {
  return b.Add1(kEnergySignature, {x}, {{"groups", groups}});
}

ValueId SelectedWeight(GraphBuilder& b, ValueId p, ValueId expert,
                       const WeightOptions& options) {
  return b.Add1(kSelectedWeight, {p, expert},
                {{"normalize", int64_t{options.normalize}},
                 {"floor", options.floor},
                 {"scale", options.scale}});
}

Carried CarryWeight(GraphBuilder& b, ValueId weight, ValueId carry) {
  const std::vector<ValueId> out = b.Add(kCarryWeight, {weight, carry});
  return {out[0], out[1]};
}

void LoadBias(GraphBuilder& b, ValueId offset, ValueId ema, ValueId integral,
              ValueId bias, const LoadBiasOptions& options) {
  const Phase phase = b.phase();
  b.set_phase(Phase::kUpdate);
  b.Add(kLoadBias, {offset, ema, integral, bias},
        {{"ema_decay", options.ema_decay},
         {"gain_p", options.gain_p},
         {"gain_i", options.gain_i},
         {"max_bias", options.max_bias}});
  b.set_phase(phase);
}

void SignBias(GraphBuilder& b, ValueId offset, ValueId bias, double rate) {
  const Phase phase = b.phase();
  b.set_phase(Phase::kUpdate);
  b.Add(kSignBias, {offset, bias}, {{"rate", rate}});
  b.set_phase(phase);
}

}  // namespace strata
