#include "core/ops/tier_route.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

// FLOPs an element of what this stands for.
constexpr double kSoftmax = 6, kSigmoid = 3, kFilter = 2, kSelect = 4,
                 kLoss = 4;

// The operands that both have, which begin with the token's.
struct Shape {
  Dim t, experts, r, groups;
  int64_t energies = 0;
};

absl::StatusOr<Shape> WantShape(const OpView& op, int token, int key,
                                int experts) {
  RETURN_IF_ERROR(WantFloat(op, token, "token", 2));
  RETURN_IF_ERROR(WantFloat(op, key, "key", 2));
  RETURN_IF_ERROR(WantFloat(op, experts, "experts", 2));
  const ValueType& of_token = op.type(token);
  Shape shape;
  shape.t = of_token.dims[0];
  shape.experts = op.type(key).dims[0];
  shape.groups = Static(op.attrs.Int("groups"));
  shape.r = op.type(experts).dims[1];
  shape.energies = of_token.dims[1].bound - shape.r.bound;
  RETURN_IF_ERROR(WantWeight(op, key, "key", of_token.dtype, shape.groups));
  for (int e = experts; e < experts + 3; ++e) {
    RETURN_IF_ERROR(
        WantType(op, e, "experts", {of_token.dtype, {shape.experts, shape.r}}));
  }
  if (shape.groups.bound < 1 || shape.energies < 1 ||
      shape.energies % shape.groups.bound != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token has ", of_token.dims[1].bound, " columns; want ", shape.r.bound,
        " more than a multiple of ", shape.groups.bound, " groups"));
  }
  RETURN_IF_ERROR(
      WantInRange("keep", op.attrs.Int("keep"), 1, shape.experts.bound));
  RETURN_IF_ERROR(
      WantInRange("k_max", op.attrs.Int("k_max"), 1, shape.experts.bound));
  RETURN_IF_ERROR(
      WantInRange("k_min", op.attrs.Int("k_min"), 0, op.attrs.Int("k_max")));
  return shape;
}

Types InferTierRoute(const OpView& op) {
  ASSIGN_OR_RETURN(const Shape shape,
                   WantShape(op, kRouteToken, kRouteKey, kRouteExperts));
  const DType dtype = op.type(kRouteToken).dtype;
  RETURN_IF_ERROR(WantType(op, kRouteBias, "bias", {dtype, {shape.experts}}));
  if (op.attrs.Float("exit_threshold") != 0) {
    return absl::InvalidArgumentError(
        "exit_threshold is not 0: no token "
        "leaves in training");
  }
  const Dim k = Static(op.attrs.Int("k_max"));
  return std::vector<ValueType>{{DType::kI32, {shape.t, k}},
                                {dtype, {shape.t, k}},
                                {DType::kU8, {shape.t, shape.experts}},
                                {dtype, {shape.experts}},
                                {dtype, {}},
                                {dtype, {}},
                                {dtype, {}}};
}

Types InferTierRouteGrad(const OpView& op) {
  ASSIGN_OR_RETURN(
      const Shape shape,
      WantShape(op, kRouteGradToken, kRouteGradKey, kRouteGradExperts));
  const ValueType& token = op.type(kRouteGradToken);
  const Dim k = Static(op.attrs.Int("k_max"));
  if (op.has(kRouteGradWeight)) {
    RETURN_IF_ERROR(
        WantType(op, kRouteGradWeight, "dweight", {token.dtype, {shape.t, k}}));
  }
  for (int loss = kRouteGradDistill; loss <= kRouteGradBalance; ++loss) {
    if (!op.has(loss)) continue;
    RETURN_IF_ERROR(WantType(op, loss, "dloss", {token.dtype, {}}));
  }
  RETURN_IF_ERROR(
      WantType(op, kRouteGradExpert, "expert", {DType::kI32, {shape.t, k}}));
  RETURN_IF_ERROR(WantType(op, kRouteGradLeft, "left",
                           {DType::kU8, {shape.t, shape.experts}}));
  RETURN_IF_ERROR(
      WantType(op, kRouteGradLoad, "load", {token.dtype, {shape.experts}}));
  std::vector<ValueType> types = {token,
                                  {token.dtype, op.type(kRouteGradKey).dims}};
  for (int e = 0; e < 3; ++e) types.push_back(op.type(kRouteGradExperts));
  return types;
}

void TierRouteGradient(GradContext& g) {
  const std::vector<ValueId> grads = g.Shared().Add(
      kTierRouteGrad,
      {g.OutputGrad(kRouteWeight), g.OutputGrad(kRouteDistill),
       g.OutputGrad(kRouteCost), g.OutputGrad(kRouteBalance),
       g.input(kRouteToken), g.input(kRouteKey), g.input(kRouteExperts),
       g.input(kRouteExpertKey), g.input(kRouteExpertValue),
       g.output(kRouteExpert), g.output(kRouteLeft), g.output(kRouteLoad)},
      g.attrs());
  const int of[] = {kRouteToken, kRouteKey, kRouteExperts, kRouteExpertKey,
                    kRouteExpertValue};
  for (int i = 0; i < 5; ++i) {
    if (g.Needs(of[i])) g.Set(of[i], grads[i]);
  }
}

// Of a token: energies, coarse scores, three products with experts, and what
// becomes of the scores.
double TokenFlops(const OpView& op, int token, int key, int experts) {
  const auto e = static_cast<double>(op.type(key).dims[0].bound);
  const auto groups = static_cast<double>(op.attrs.Int("groups"));
  const auto r = static_cast<double>(op.type(experts).dims[1].bound);
  const auto projected = static_cast<double>(op.type(token).dims[1].bound);
  return 2 * (projected - r) + 2 * groups + 2 * groups * e + 3 * 2 * r * e + r +
         e * (2 * kSoftmax + 2 * kSigmoid + kFilter + kSelect + 3 * kLoss);
}

double TierRouteFlops(const OpView& op, const Binding& binding) {
  return Extent(op.type(kRouteToken).dims[0], binding) *
         TokenFlops(op, kRouteToken, kRouteKey, kRouteExperts);
}

// The same again, and two products for each of its own.
double TierRouteGradFlops(const OpView& op, const Binding& binding) {
  return 3 * Extent(op.type(kRouteGradToken).dims[0], binding) *
         TokenFlops(op, kRouteGradToken, kRouteGradKey, kRouteGradExperts);
}

}  // namespace

const OpDef kTierRoute = {"TierRoute", InferTierRoute, TierRouteGradient,
                          TierRouteFlops};
const OpDef kTierRouteGrad = {"TierRouteGrad", InferTierRouteGrad, nullptr,
                              TierRouteGradFlops};

TierRouteResult TierRoute(GraphBuilder& b, ValueId token, ValueId key,
                          ValueId bias, const ExpertSide& experts,
                          const TierGateOptions& options) {
  const std::vector<ValueId> out =
      b.Add(kTierRoute,
            {token, key, bias, experts.context, experts.key, experts.value},
            TierGateAttrs(options));
  return {out[kRouteExpert], out[kRouteWeight], out[kRouteDistill],
          out[kRouteCost], out[kRouteBalance]};
}

}  // namespace strata
