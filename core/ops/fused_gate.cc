#include "core/ops/fused_gate.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

// FLOPs of the operators that these stand for, an element.
constexpr double kSoftmax = 6, kSigmoid = 3, kCoarseFilter = 2,
                 kAdaptiveSelect = 4;

// --- ExpertContext ---

// ExpertContext's own inputs, from `first` on.
absl::Status WantContext(const OpView& op, int first) {
  RETURN_IF_ERROR(WantFloat(op, first + kContextEmbedding, "embedding", 2));
  const ValueType& e = op.type(first + kContextEmbedding);
  const Dim r = e.dims[1];
  for (int w = first + kContextQ; w <= first + kContextCrossO; ++w) {
    RETURN_IF_ERROR(WantWeight(op, w, "weight", e.dtype, r));
    RETURN_IF_ERROR(WantType(op, w, "weight", {op.type(w).dtype, {r, r}}));
  }
  return absl::OkStatus();
}

Types InferExpertContext(const OpView& op) {
  RETURN_IF_ERROR(WantContext(op, /*first=*/0));
  const ValueType& e = op.type(kContextEmbedding);
  return std::vector<ValueType>{e, e, e};
}

// Seven products by a matrix, two among experts, a softmax, a sum.
double ExpertContextFlops(const OpView& op, const Binding& binding) {
  const ValueType& e = op.type(kContextEmbedding);
  const auto n = static_cast<double>(e.dims[0].bound);
  const auto r = static_cast<double>(e.dims[1].bound);
  return 7 * 2 * n * r * r + 2 * 2 * n * n * r + kSoftmax * n * n + n * r;
}

void ExpertContextGradient(GradContext& g) {
  std::vector<ValueId> inputs;
  for (int i = 0; i < kContextGrads; ++i) inputs.push_back(g.OutputGrad(i));
  bool of_values = false;  // Whether an input gradient waits for this.
  for (int i = kContextEmbedding; i <= kContextCrossO; ++i) {
    inputs.push_back(g.input(i));
    of_values |= g.Needs(i) && g.For(i).phase() == Phase::kInputGrad;
  }
  GraphBuilder& b = g.Shared();
  if (!of_values) b.set_phase(Phase::kWeightGrad);
  const std::vector<ValueId> grads =
      b.Add(kExpertContextGrad, inputs, g.attrs());
  for (int i = kContextEmbedding; i <= kContextCrossO; ++i) {
    if (g.Needs(i)) g.Set(i, grads[i]);
  }
}

Types InferExpertContextGrad(const OpView& op) {
  RETURN_IF_ERROR(WantContext(op, kContextGrads));
  const ValueType& e = op.type(kContextGrads + kContextEmbedding);
  for (int i = 0; i < kContextGrads; ++i) {
    if (op.has(i)) RETURN_IF_ERROR(WantType(op, i, "gradient", e));
  }
  std::vector<ValueType> grads = {e};
  for (int w = kContextQ; w <= kContextCrossO; ++w) {
    grads.push_back({e.dtype, op.type(kContextGrads + w).dims});
  }
  return grads;
}

// Five of the seven products and both among experts again; two for each of the
// seven, and four among experts; the softmax again and its gradient; sums.
double ExpertContextGradFlops(const OpView& op, const Binding& binding) {
  const ValueType& e = op.type(kContextGrads + kContextEmbedding);
  const auto n = static_cast<double>(e.dims[0].bound);
  const auto r = static_cast<double>(e.dims[1].bound);
  return (5 + 2 * 7) * 2 * n * r * r + (2 + 4) * 2 * n * n * r +
         2 * kSoftmax * n * n + 7 * n * r;
}

// --- TierGate ---

Types InferTierGate(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kTierX, "x", 2));
  const ValueType& x = op.type(kTierX);
  const Dim t = x.dims[0], d = x.dims[1];
  const int64_t groups = op.attrs.Int("groups");
  RETURN_IF_ERROR(WantWeight(op, kTierKey, "key", x.dtype, Static(groups)));
  const Dim experts = op.type(kTierKey).dims[0];
  RETURN_IF_ERROR(WantFloat(op, kTierExperts, "experts", 2));
  const Dim r = op.type(kTierExperts).dims[1];
  RETURN_IF_ERROR(WantWeight(op, kTierToken, "token", x.dtype, d));
  const int64_t projected = op.type(kTierToken).dims[0].bound;
  RETURN_IF_ERROR(WantInRange("the query's columns", r.bound, 1, projected));
  const int64_t energies = projected > r.bound ? projected - r.bound : d.bound;
  if (groups < 1 || energies % groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("groups is ", groups, "; want a divisor of ", energies));
  }
  RETURN_IF_ERROR(WantInRange("keep", op.attrs.Int("keep"), 1, experts.bound));
  if (op.has(kTierBias)) {
    RETURN_IF_ERROR(WantType(op, kTierBias, "bias", {x.dtype, {experts}}));
  }
  for (const int e : {kTierExperts, kTierExpertKey, kTierExpertValue}) {
    RETURN_IF_ERROR(WantType(op, e, "experts", {x.dtype, {experts, r}}));
  }
  const int64_t k_max = op.attrs.Int("k_max");
  RETURN_IF_ERROR(WantInRange("k_max", k_max, 1, experts.bound));
  RETURN_IF_ERROR(WantInRange("k_min", op.attrs.Int("k_min"), 0, k_max));
  return std::vector<ValueType>{{DType::kI32, {t, Static(k_max)}},
                                {DType::kU8, {t}},
                                {x.dtype, {t, Static(k_max)}}};
}

double TierGateFlops(const OpView& op, const Binding& binding) {
  const ValueType& x = op.type(kTierX);
  const auto d = static_cast<double>(x.dims[1].bound);
  const auto experts = static_cast<double>(op.type(kTierKey).dims[0].bound);
  const auto r = static_cast<double>(op.type(kTierExperts).dims[1].bound);
  const auto projected = static_cast<double>(op.type(kTierToken).dims[0].bound);
  const auto groups = static_cast<double>(op.attrs.Int("groups"));
  const double energies = projected > r ? projected - r : d;
  const double coarse = 2 * d * projected + 2 * energies + 2 * groups +
                        experts * (2 * groups + kSigmoid + kCoarseFilter);
  const double fine =
      3 * 2 * r * experts + r +
      experts * (kSoftmax + 1 + (op.attrs.Int("add_coarse") != 0 ? 1 : 0) +
                 kSigmoid + kAdaptiveSelect);
  const double weights = static_cast<double>(op.attrs.Int("k_max")) *
                         (op.attrs.Int("normalize") != 0 ? 3 : 1);
  return Extent(x.dims[0], binding) * (coarse + fine + weights);
}

}  // namespace

const OpDef kExpertContext = {"ExpertContext", InferExpertContext,
                              ExpertContextGradient, ExpertContextFlops};
const OpDef kExpertContextGrad = {"ExpertContextGrad", InferExpertContextGrad,
                                  nullptr, ExpertContextGradFlops};
const OpDef kTierGate = {"TierGate", InferTierGate, nullptr, TierGateFlops};

ExpertSide ExpertContext(GraphBuilder& b, absl::Span<const ValueId> inputs,
                         double scale) {
  const std::vector<ValueId> out =
      b.Add(kExpertContext, inputs, {{"scale", scale}});
  return {out[0], out[1], out[2]};
}

Attrs TierGateAttrs(const TierGateOptions& options) {
  return {{"groups", options.groups},
          {"keep", options.keep},
          {"attention_scale", options.attention_scale},
          {"affinity_scale", options.affinity_scale},
          {"add_coarse", int64_t{options.add_coarse}},
          {"tau", options.tau},
          {"k_min", options.k_min},
          {"k_max", options.k_max},
          {"exit_threshold", options.exit_threshold},
          {"normalize", int64_t{options.normalize}},
          {"floor", options.floor},
          {"scale", options.scale}};
}

}  // namespace strata
