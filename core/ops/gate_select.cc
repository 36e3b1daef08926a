#include "core/ops/gate_select.h"

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

// --- CoarseFilter ---

Types InferCoarseFilter(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "score", 2));
  const ValueType& score = op.type(0);
  if (op.has(1)) {
    RETURN_IF_ERROR(WantType(op, 1, "bias", {score.dtype, {score.dims[1]}}));
  }
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
  if (op.has(1)) {
    RETURN_IF_ERROR(WantType(op, 1, "mask", {DType::kU8, p.dims}));
  }
  if (op.has(2)) {
    RETURN_IF_ERROR(WantType(op, 2, "bias", {p.dtype, {p.dims[1]}}));
  }
  if (op.has(3)) RETURN_IF_ERROR(WantType(op, 3, "tau", {p.dtype, {}}));
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

// --- ExpertChoice ---

Types InferExpertChoice(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "score", 2));
  const ValueType& score = op.type(0);
  RETURN_IF_ERROR(WantInRange("k", op.attrs.Int("k"), 1, score.dims[1].bound));
  return std::vector<ValueType>{{DType::kI32, score.dims}};
}

// One comparison to choose a token, one to order the token's experts.
double ExpertChoiceFlops(const OpView& op, const Binding& binding) {
  return PerElement(2, op, binding);
}

// --- BalancedSelect ---

Types InferBalancedSelect(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "score", 2));
  const ValueType& score = op.type(0);
  const int64_t k = op.attrs.Int("k");
  RETURN_IF_ERROR(WantInRange("k", k, 1, score.dims[1].bound));
  return std::vector<ValueType>{{DType::kI32, {score.dims[0], Static(k)}}};
}

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

void BalancedSelectBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read = 0;
}

}  // namespace

const OpDef kCoarseFilter = {"CoarseFilter", InferCoarseFilter, nullptr,
                             TwoPerElement};
const OpDef kAdaptiveSelect = {"AdaptiveSelect", InferAdaptiveSelect, nullptr,
                               AdaptiveSelectFlops};
const OpDef kTopKSelect = {"TopKSelect", InferTopKSelect, nullptr,
                           TopKSelectFlops};

const OpDef kExpertChoice = {"ExpertChoice", InferExpertChoice, nullptr,
                             ExpertChoiceFlops};
const OpDef kBalancedSelect = {"BalancedSelect", InferBalancedSelect,
                               nullptr,          NoFlops,
                               /*mutates=*/{},   BalancedSelectBytes};

ValueId CoarseFilter(GraphBuilder& b, ValueId score, ValueId bias,
                     int64_t keep) {
  return b.Add1(kCoarseFilter, {score, bias}, {{"keep", keep}});
}

Selection AdaptiveSelect(GraphBuilder& b, ValueId p, ValueId mask, ValueId bias,
                         const AdaptiveSelectOptions& options) {
  const std::vector<ValueId> out =
      b.Add(kAdaptiveSelect, {p, mask, bias, options.tau_value},
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
                 {"top_groups", options.top_groups},
                 {"group_max", int64_t{options.group_max}}});
}

ValueId ExpertChoice(GraphBuilder& b, ValueId score, int64_t k) {
  return b.Add1(kExpertChoice, {score}, {{"k", k}});
}

ValueId BalancedSelect(GraphBuilder& b, ValueId score, int64_t k) {
  return b.Add1(kBalancedSelect, {score}, {{"k", k}});
}

}  // namespace strata
