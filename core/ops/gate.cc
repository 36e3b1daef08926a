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

// For operators through which nothing is learned.
void NoGradient(GradContext& context) {}

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

// --- CoarseFilter ---

Types InferCoarseFilter(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "score", 2));
  const ValueType& score = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "bias", {score.dtype, {score.dims[1]}}));
  RETURN_IF_ERROR(
      WantInRange("keep", op.attrs.Int("keep"), 1, score.dims[1].bound));
  return std::vector<ValueType>{{DType::kU8, score.dims}};
}

// The bias added, and one comparison.
double TwoPerElement(const OpView& op, const Binding& binding) {
  return PerElement(2, op, binding);
}

// --- AdaptiveSelect ---

Types InferAdaptiveSelect(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "p", 2));
  const ValueType& p = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "mask", {DType::kU8, p.dims}));
  RETURN_IF_ERROR(WantType(op, 2, "bias", {p.dtype, {p.dims[1]}}));
  const int64_t k_max = op.attrs.Int("k_max");
  RETURN_IF_ERROR(WantInRange("k_max", k_max, 1, p.dims[1].bound));
  RETURN_IF_ERROR(WantInRange("k_min", op.attrs.Int("k_min"), 1, k_max));
  const double tau = op.attrs.Float("tau");
  if (!(tau > 0 && tau <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tau is ", tau, "; want more than 0, at most 1"));
  }
  const double exit_threshold = op.attrs.Float("exit_threshold");
  if (!(exit_threshold >= 0 && exit_threshold <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("exit_threshold is ", exit_threshold, "; want 0 to 1"));
  }
  return std::vector<ValueType>{{DType::kI32, {p.dims[0], Static(k_max)}},
                                {DType::kU8, {p.dims[0]}}};
}

// The sum of p and its maximum, the bias added, one comparison.
double AdaptiveSelectFlops(const OpView& op, const Binding& binding) {
  return PerElement(4, op, binding);
}

// --- TopKSelect ---

Types InferTopKSelect(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "score", 2));
  const ValueType& score = op.type(0);
  if (op.has(1)) {
    RETURN_IF_ERROR(WantType(op, 1, "bias", {score.dtype, {score.dims[1]}}));
  }
  const int64_t experts = score.dims[1].bound;
  const int64_t groups = op.attrs.Int("num_groups");
  if (groups < 1 || experts % groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_groups is ", groups, "; want a divisor of ", experts,
                     ", the number of experts"));
  }
  const int64_t top_groups = op.attrs.Int("top_groups");
  RETURN_IF_ERROR(WantInRange("top_groups", top_groups, 1, groups));
  const int64_t k = op.attrs.Int("k");
  RETURN_IF_ERROR(WantInRange("k", k, 1, top_groups * (experts / groups)));
  return std::vector<ValueType>{{DType::kI32, {score.dims[0], Static(k)}}};
}

// The bias added, one comparison; in groups another one to find the best two.
double TopKSelectFlops(const OpView& op, const Binding& binding) {
  return PerElement(
      1 + (op.has(1) ? 1 : 0) + (op.attrs.Int("num_groups") > 1 ? 1 : 0), op,
      binding);
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

// --- CoarseDistill ---

Types InferCoarseDistill(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "c", 2));
  const ValueType& c = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "p", c));
  RETURN_IF_ERROR(WantType(op, 2, "mask", {DType::kU8, c.dims}));
  return std::vector<ValueType>{{c.dtype, {}}};
}

Types InferCoarseDistillGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "c", 2));
  const ValueType& c = op.type(1);
  RETURN_IF_ERROR(WantType(op, 0, "dloss", {c.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 2, "p", c));
  RETURN_IF_ERROR(WantType(op, 3, "mask", {DType::kU8, c.dims}));
  return std::vector<ValueType>{c};
}

void CoarseDistillGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kCoarseDistillGrad, {g.OutputGrad(0), g.input(0),
                                              g.input(1), g.input(2)}));
}

// max(c, 0) - c p + log(1 + exp(-|c|)), and the sum.
double CoarseDistillFlops(const OpView& op, const Binding& binding) {
  return PerElement(7, op, binding);
}

// (sigmoid(c) - p) * factor.
double CoarseDistillGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(5, op, binding, 1);
}

// --- ExpectedCost ---

Types InferExpectedCost(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "p", 2));
  const ValueType& p = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "mask", {DType::kU8, p.dims}));
  return std::vector<ValueType>{{p.dtype, {}}};
}

Types InferExpectedCostGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "p", 2));
  const ValueType& p = op.type(1);
  RETURN_IF_ERROR(WantType(op, 0, "dcost", {p.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 2, "mask", {DType::kU8, p.dims}));
  return std::vector<ValueType>{p};
}

void ExpectedCostGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kExpectedCostGrad,
                         {g.OutputGrad(0), g.input(0), g.input(1)}));
}

double ExpectedCostFlops(const OpView& op, const Binding& binding) {
  return PerElement(1, op, binding);
}

double ExpectedCostGradFlops(const OpView& op, const Binding& binding) {
  return 1;  // dcost / n; the rest places it.
}

// p is read for its extents alone.
void ExpectedCostGradBytes(const OpView& op, const Binding& binding,
                           Cost& cost) {
  cost.bytes_read = Bytes(op.type(0), binding) + Bytes(op.type(2), binding);
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

}  // namespace

const OpDef kEnergySignature = {"EnergySignature", InferEnergySignature,
                                NoGradient, EnergySignatureFlops};
const OpDef kCoarseFilter = {"CoarseFilter", InferCoarseFilter, nullptr,
                             TwoPerElement};
const OpDef kAdaptiveSelect = {"AdaptiveSelect", InferAdaptiveSelect, nullptr,
                               AdaptiveSelectFlops};
const OpDef kTopKSelect = {"TopKSelect", InferTopKSelect, nullptr,
                           TopKSelectFlops};
const OpDef kSelectedWeight = {"SelectedWeight",       InferSelectedWeight,
                               SelectedWeightGradient, SelectedWeightFlops,
                               /*mutates=*/{},         SelectedWeightBytes};
const OpDef kSelectedWeightGrad = {
    "SelectedWeightGrad",    InferSelectedWeightGrad, nullptr,
    SelectedWeightGradFlops, /*mutates=*/{},          SelectedWeightGradBytes};
const OpDef kCoarseDistill = {"CoarseDistill", InferCoarseDistill,
                              CoarseDistillGradient, CoarseDistillFlops};
const OpDef kCoarseDistillGrad = {"CoarseDistillGrad", InferCoarseDistillGrad,
                                  nullptr, CoarseDistillGradFlops};
const OpDef kExpectedCost = {"ExpectedCost", InferExpectedCost,
                             ExpectedCostGradient, ExpectedCostFlops};
const OpDef kExpectedCostGrad = {
    "ExpectedCostGrad",    InferExpectedCostGrad, nullptr,
    ExpectedCostGradFlops, /*mutates=*/{},        ExpectedCostGradBytes};
const OpDef kLoadBias = {"LoadBias", InferLoadBias, nullptr, LoadBiasFlops,
                         /*mutates=*/{1, 2, 3}};

ValueId EnergySignature(GraphBuilder& b, ValueId x, int64_t groups) {
  return b.Add1(kEnergySignature, {x}, {{"groups", groups}});
}

ValueId CoarseFilter(GraphBuilder& b, ValueId score, ValueId bias,
                     int64_t keep) {
  return b.Add1(kCoarseFilter, {score, bias}, {{"keep", keep}});
}

Selection AdaptiveSelect(GraphBuilder& b, ValueId p, ValueId mask, ValueId bias,
                         const AdaptiveSelectOptions& options) {
  const std::vector<ValueId> out =
      b.Add(kAdaptiveSelect, {p, mask, bias},
            {{"tau", options.tau},
             {"k_min", options.k_min},
             {"k_max", options.k_max},
             {"exit_threshold", options.exit_threshold}});
  return {out[0], out[1]};
}

ValueId TopKSelect(GraphBuilder& b, ValueId score, ValueId bias,
                   const TopKOptions& options) {
  return b.Add1(kTopKSelect, {score, bias},
                {{"k", options.k},
                 {"num_groups", options.num_groups},
                 {"top_groups", options.top_groups}});
}

ValueId SelectedWeight(GraphBuilder& b, ValueId p, ValueId expert,
                       const WeightOptions& options) {
  return b.Add1(kSelectedWeight, {p, expert},
                {{"normalize", int64_t{options.normalize}},
                 {"floor", options.floor},
                 {"scale", options.scale}});
}

ValueId CoarseDistill(GraphBuilder& b, ValueId c, ValueId p, ValueId mask) {
  return b.Add1(kCoarseDistill, {c, p, mask});
}

ValueId ExpectedCost(GraphBuilder& b, ValueId p, ValueId mask) {
  return b.Add1(kExpectedCost, {p, mask});
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

}  // namespace strata
