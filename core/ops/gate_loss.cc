#include "core/ops/gate_loss.h"

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

// --- BalanceLoss ---

// Operands from `p` on: p, expert, seq_start?.
absl::Status WantBalanced(const OpView& op, int p) {
  RETURN_IF_ERROR(WantFloat(op, p, "p", 2));
  RETURN_IF_ERROR(WantRank(op, p + 1, "expert", DType::kI32, 2));
  RETURN_IF_ERROR(
      WantType(op, p + 1, "expert",
               {DType::kI32, {op.type(p).dims[0], op.type(p + 1).dims[1]}}));
  if (!op.has(p + 2)) return absl::OkStatus();
  return WantRank(op, p + 2, "seq_start", DType::kI32, 1);
}

Types InferBalanceLoss(const OpView& op) {
  RETURN_IF_ERROR(WantBalanced(op, 0));
  return std::vector<ValueType>{{op.type(0).dtype, {}}};
}

Types InferBalanceLossGrad(const OpView& op) {
  RETURN_IF_ERROR(WantBalanced(op, 1));
  RETURN_IF_ERROR(WantType(op, 0, "dloss", {op.type(1).dtype, {}}));
  return std::vector<ValueType>{op.type(1)};
}

void BalanceLossGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kBalanceLossGrad,
                         {g.OutputGrad(0), g.input(0), g.input(1),
                          g.Has(2) ? g.input(2) : kNone}));
}

// The row's sum, and a product and a sum with f.
double BalanceLossFlops(const OpView& op, const Binding& binding) {
  return PerElement(3, op, binding);
}

// The same, and (f - mean) * factor.
double BalanceLossGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(5, op, binding, 1);
}

// --- ZLoss ---

Types InferZLoss(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "logits", 2));
  return std::vector<ValueType>{{op.type(0).dtype, {}}};
}

Types InferZLossGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 1, "logits", 2));
  RETURN_IF_ERROR(WantType(op, 0, "dloss", {op.type(1).dtype, {}}));
  return std::vector<ValueType>{op.type(1)};
}

void ZLossGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, g.For(0).Add1(kZLossGrad, {g.OutputGrad(0), g.input(0)}));
}

// Maximum, subtraction, exponential, sum.
double ZLossFlops(const OpView& op, const Binding& binding) {
  return PerElement(4, op, binding);
}

// The same, then subtraction, exponential, product.
double ZLossGradFlops(const OpView& op, const Binding& binding) {
  return PerElement(7, op, binding, 1);
}

}  // namespace

const OpDef kCoarseDistill = {"CoarseDistill", InferCoarseDistill,
                              CoarseDistillGradient, CoarseDistillFlops};
const OpDef kCoarseDistillGrad = {"CoarseDistillGrad", InferCoarseDistillGrad,
                                  nullptr, CoarseDistillGradFlops};
const OpDef kExpectedCost = {"ExpectedCost", InferExpectedCost,
                             ExpectedCostGradient, ExpectedCostFlops};
const OpDef kExpectedCostGrad = {
    "ExpectedCostGrad",    InferExpectedCostGrad, nullptr,
    ExpectedCostGradFlops, /*mutates=*/{},        ExpectedCostGradBytes};
const OpDef kBalanceLoss = {"BalanceLoss", InferBalanceLoss,
                            BalanceLossGradient, BalanceLossFlops};
const OpDef kBalanceLossGrad = {"BalanceLossGrad", InferBalanceLossGrad,
                                nullptr, BalanceLossGradFlops};
const OpDef kZLoss = {"ZLoss", InferZLoss, ZLossGradient, ZLossFlops};
const OpDef kZLossGrad = {"ZLossGrad", InferZLossGrad, nullptr, ZLossGradFlops};

ValueId CoarseDistill(GraphBuilder& b, ValueId c, ValueId p, ValueId mask) {
  return b.Add1(kCoarseDistill, {c, p, mask});
}

ValueId ExpectedCost(GraphBuilder& b, ValueId p, ValueId mask) {
  return b.Add1(kExpectedCost, {p, mask});
}

ValueId BalanceLoss(GraphBuilder& b, ValueId p, ValueId expert,
                    ValueId seq_start) {
  return b.Add1(kBalanceLoss, {p, expert, seq_start});
}

ValueId ZLoss(GraphBuilder& b, ValueId logits) {
  return b.Add1(kZLoss, {logits});
}

}  // namespace strata
