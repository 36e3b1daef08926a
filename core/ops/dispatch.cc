#include "core/ops/dispatch.h"

#include <cstdint>
#include <limits>
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

// Inputs and outputs by index, for those operators whose graph functions unpack
// a plan.
enum { kRowSlot = 0, kSlotRow = 1, kOffset = 2, kRows = 3 };

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// --- DispatchPlan ---

Types InferDispatchPlan(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "expert", DType::kI32, 2));
  const ValueType& expert = op.type(0);
  const int64_t num_experts = op.attrs.Int("num_experts");
  RETURN_IF_ERROR(WantInRange("num_experts", num_experts, 1,
                              std::numeric_limits<int32_t>::max() - 1));
  const int64_t max_rows = expert.max_elements();
  RETURN_IF_ERROR(WantInRange("the number of slots", max_rows, 0,
                              std::numeric_limits<int32_t>::max()));
  return std::vector<ValueType>{{DType::kI32, {Ragged(max_rows, -2 - kRows)}},
                                expert,
                                {DType::kI32, {Static(num_experts + 1)}},
                                {DType::kI32, {}}};
}

// --- DispatchRows ---

// That inputs 1 and 2 are row_slot [rows] and slot_row [t, k], and input 3, if
// given, a weight [t, k].
absl::Status WantPlan(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 1, "row_slot", DType::kI32, 1));
  RETURN_IF_ERROR(WantRank(op, 2, "slot_row", DType::kI32, 2));
  if (!op.has(3)) return absl::OkStatus();
  return WantType(op, 3, "weight", {op.type(0).dtype, op.type(2).dims});
}

Types InferDispatchRows(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  RETURN_IF_ERROR(WantPlan(op));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(
      WantType(op, 0, "x", {x.dtype, {op.type(2).dims[0], x.dims[1]}}));
  return std::vector<ValueType>{{x.dtype, {op.type(1).dims[0], x.dims[1]}}};
}

DispatchPlanResult PlanOf(const GradContext& g) {
  DispatchPlanResult plan;
  plan.row_slot = g.input(1);
  plan.slot_row = g.input(2);
  return plan;
}

void DispatchRowsGradient(GradContext& g) {
  const ValueId dout = g.OutputGrad(0);
  const ValueId weight = g.Has(3) ? g.input(3) : kNone;
  if (g.Needs(0)) g.Set(0, CombineRows(g.For(0), dout, PlanOf(g), weight));
  if (weight != kNone && g.Needs(3)) {
    g.Set(3, g.For(3).Add1(kRowDot, {g.input(0), dout, g.input(2)}));
  }
}

// A product an element where there are weights.
double DispatchRowsFlops(const OpView& op, const Binding& binding) {
  return op.has(3) ? Elements(op.output_type(0), binding) : 0;
}

// x is read once a row of the result, slot_row not at all.
void DispatchRowsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const double rows = Extent(op.type(1).dims[0], binding);
  cost.bytes_read = Bytes(op.output_type(0), binding) +
                    Bytes(op.type(1), binding) +
                    (op.has(3) ? rows * SizeOf(op.type(3).dtype) : 0);
}

// --- CombineRows ---

Types InferCombineRows(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "y", 2));
  RETURN_IF_ERROR(WantPlan(op));
  const ValueType& y = op.type(0);
  RETURN_IF_ERROR(
      WantType(op, 0, "y", {y.dtype, {op.type(1).dims[0], y.dims[1]}}));
  const ValueType out = {y.dtype, {op.type(2).dims[0], y.dims[1]}};
  RETURN_IF_ERROR(WantAddends(op, kCombineRowsAdd, out));
  return std::vector<ValueType>{out};
}

void CombineRowsGradient(GradContext& g) {
  const ValueId dout = g.OutputGrad(0);
  const ValueId weight = g.Has(3) ? g.input(3) : kNone;
  if (g.Needs(0)) g.Set(0, DispatchRows(g.For(0), dout, PlanOf(g), weight));
  if (weight != kNone && g.Needs(3)) {
    g.Set(3, g.For(3).Add1(kRowDot, {dout, g.input(0), g.input(2)}));
  }
  for (const int i : {kCombineRowsAdd, kCombineRowsAdd + 1}) {
    if (g.Has(i) && g.Needs(i)) g.Set(i, dout);
  }
}

// An add an element of y, and a product where there are weights; and what is
// added.
double CombineRowsFlops(const OpView& op, const Binding& binding) {
  return (op.has(3) ? 2 : 1) * Elements(op.type(0), binding) +
         NumAddends(op, kCombineRowsAdd) * Elements(op.output_type(0), binding);
}

// row_slot is not read.
void CombineRowsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read -= Bytes(op.type(1), binding);
}

// --- RowDot ---

Types InferRowDot(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "dout", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "y", 2));
  RETURN_IF_ERROR(WantRank(op, 2, "slot_row", DType::kI32, 2));
  const ValueType& dout = op.type(0);
  RETURN_IF_ERROR(
      WantType(op, 1, "y", {dout.dtype, {op.type(1).dims[0], dout.dims[1]}}));
  RETURN_IF_ERROR(WantType(op, 2, "slot_row",
                           {DType::kI32, {dout.dims[0], op.type(2).dims[1]}}));
  return std::vector<ValueType>{{dout.dtype, op.type(2).dims}};
}

double RowDotFlops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(1), binding);
}

// --- CompactRows ---

Types InferCompactRows(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 1, "stay", DType::kU8, 1));
  const Dim& t = op.type(1).dims[0];
  if (op.has(0)) {
    RETURN_IF_ERROR(WantType(op, 0, "index", {DType::kI32, {t}}));
  }
  return std::vector<ValueType>{
      {DType::kI32, {Ragged(t.bound, /*output 1*/ -2 - 1)}}, {DType::kI32, {}}};
}

// --- GatherRows, ScatterRows, AddRows ---

Types InferGatherRows(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  RETURN_IF_ERROR(WantRank(op, 1, "index", DType::kI32, 1));
  const ValueType& x = op.type(0);
  return std::vector<ValueType>{{x.dtype, {op.type(1).dims[0], x.dims[1]}}};
}

void GatherRowsGradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0,
        g.For(0).Add1(kScatterRows, {g.OutputGrad(0), g.input(1), g.input(0)}));
}

void GatherRowsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read =
      Bytes(op.output_type(0), binding) + Bytes(op.type(1), binding);
}

// That input `y` is [n, d] for an `index` [n] and rows of `x` [t, d].
absl::Status WantRowsOf(const OpView& op, int x, int y, int index) {
  RETURN_IF_ERROR(WantFloat(op, x, "x", 2));
  RETURN_IF_ERROR(WantRank(op, index, "index", DType::kI32, 1));
  const ValueType& type = op.type(x);
  return WantType(op, y, "y",
                  {type.dtype, {op.type(index).dims[0], type.dims[1]}});
}

Types InferScatterRows(const OpView& op) {
  RETURN_IF_ERROR(WantRowsOf(op, /*x=*/2, /*y=*/0, /*index=*/1));
  return std::vector<ValueType>{op.type(2)};
}

void ScatterRowsGradient(GradContext& g) {
  if (g.Needs(0)) g.Set(0, GatherRows(g.For(0), g.OutputGrad(0), g.input(1)));
}

// `like` is looked at for its extents alone.
void ScatterRowsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read -= Bytes(op.type(2), binding);
}

Types InferAddRows(const OpView& op) {
  RETURN_IF_ERROR(WantRowsOf(op, /*x=*/0, /*y=*/1, /*index=*/2));
  return std::vector<ValueType>{op.type(0)};
}

void AddRowsGradient(GradContext& g) {
  if (g.Needs(0)) g.Set(0, g.OutputGrad(0));
  if (g.Needs(1)) g.Set(1, GatherRows(g.For(1), g.OutputGrad(0), g.input(2)));
}

double AddRowsFlops(const OpView& op, const Binding& binding) {
  return Elements(op.type(1), binding);
}

}  // namespace

const OpDef kDispatchPlan = {"DispatchPlan", InferDispatchPlan, nullptr,
                             NoFlops};
const OpDef kDispatchRows = {"DispatchRows",       InferDispatchRows,
                             DispatchRowsGradient, DispatchRowsFlops,
                             /*mutates=*/{},       DispatchRowsBytes};
const OpDef kCombineRows = {"CombineRows",       InferCombineRows,
                            CombineRowsGradient, CombineRowsFlops,
                            /*mutates=*/{},      CombineRowsBytes};
const OpDef kRowDot = {"RowDot", InferRowDot, nullptr, RowDotFlops};
const OpDef kCompactRows = {"CompactRows", InferCompactRows, nullptr, NoFlops};
const OpDef kGatherRows = {"GatherRows", InferGatherRows, GatherRowsGradient,
                           NoFlops,      /*mutates=*/{},  GatherRowsBytes};
const OpDef kScatterRows = {"ScatterRows",       InferScatterRows,
                            ScatterRowsGradient, NoFlops,
                            /*mutates=*/{},      ScatterRowsBytes};
const OpDef kAddRows = {"AddRows", InferAddRows, AddRowsGradient, AddRowsFlops};

DispatchPlanResult DispatchPlan(GraphBuilder& b, ValueId expert,
                                int64_t num_experts) {
  const std::vector<ValueId> out =
      b.Add(kDispatchPlan, {expert}, {{"num_experts", num_experts}});
  return {out[kRowSlot], out[kSlotRow], out[kOffset], out[kRows]};
}

ValueId DispatchRows(GraphBuilder& b, ValueId x, const DispatchPlanResult& plan,
                     ValueId weight) {
  return b.Add1(kDispatchRows, {x, plan.row_slot, plan.slot_row, weight});
}

ValueId CombineRows(GraphBuilder& b, ValueId y, const DispatchPlanResult& plan,
                    ValueId weight) {
  return b.Add1(kCombineRows, {y, plan.row_slot, plan.slot_row, weight});
}

Compacted CompactRows(GraphBuilder& b, ValueId index, ValueId stay) {
  const std::vector<ValueId> out = b.Add(kCompactRows, {index, stay});
  return {out[0], out[1]};
}

ValueId GatherRows(GraphBuilder& b, ValueId x, ValueId index) {
  return b.Add1(kGatherRows, {x, index});
}

ValueId AddRows(GraphBuilder& b, ValueId x, ValueId y, ValueId index) {
  return b.Add1(kAddRows, {x, y, index});
}

}  // namespace strata
