#include "core/ops/move_codes.h"

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
#include "core/quant/format.h"
#include "core/quant/straight_through.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Of a parameter in groups of `group`: [all rows, groups].
Dims DimsOfGroups(const Dims& dims, int64_t group) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) rows *= dims[i].bound;
  QuantFormat format;
  format.group = group;
  return {Static(rows), Static(NumGroups(format, dims.back().bound))};
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(
      WantRank(op, 0, "w", DType::kF32, op.has(0) ? op.type(0).rank() : 2));
  const ValueType& w = op.type(0);
  const int64_t columns = w.rank() < 2 ? 0 : w.dims.back().bound;
  const int64_t group = op.attrs.Int("group");
  if (columns == 0 || (group > 0 && columns % group != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("w is ", ToText(op.graph, w),
                     "; want rows of whole groups of ", group, " columns"));
  }
  const Dims groups = DimsOfGroups(w.dims, group);
  const int64_t rows = groups[0].bound;
  RETURN_IF_ERROR(WantType(op, 1, "gradient", w));
  RETURN_IF_ERROR(WantType(op, 2, "position", w));
  RETURN_IF_ERROR(WantType(op, 3, "scale", {DType::kF32, groups}));
  RETURN_IF_ERROR(WantType(op, 4, "zero", {DType::kF32, groups}));
  RETURN_IF_ERROR(
      WantType(op, 5, "moments",
               {DType::kF32, {groups[0], groups[1], Static(kGroupMoments)}}));
  RETURN_IF_ERROR(WantRank(op, 6, "bits", DType::kI32, 1));
  const int64_t matrices = op.type(6).dims[0].bound;
  if (matrices == 0 || rows % matrices != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "bits are of ", matrices, " matrices; want as many as divide the ",
        rows, " rows of w"));
  }
  RETURN_IF_ERROR(WantType(op, 7, "lr", {DType::kF32, {}}));
  RETURN_IF_ERROR(WantType(op, 8, "step", {DType::kI32, {}}));
  return std::vector<ValueType>{};
}

// An element: what it is before and after 2 each, its part of the sums 3, its
// move 3.
double Flops(const OpView& op, const Binding& binding) {
  return 10 * Elements(op.type(0), binding);
}

}  // namespace

const OpDef kMoveCodes = {"MoveCodes", Infer, nullptr, Flops,
                          /*mutates=*/{0, 2, 3, 4, 5}};

CodeStates AddCodeStates(GraphBuilder& b, absl::string_view prefix,
                         const Dims& dims, int64_t group, int64_t matrices) {
  const Dims groups = DimsOfGroups(dims, group);
  const auto state = [&](const char* name, const Dims& of) {
    return b.State(absl::StrCat(prefix, name), DType::kF32, of);
  };
  CodeStates states;
  states.position = state("position", dims);
  states.scale = state("scale", groups);
  states.zero = state("zero", groups);
  states.moments =
      state("moments", {groups[0], groups[1], Static(kGroupMoments)});
  states.bits =
      b.State(absl::StrCat(prefix, "bits"), DType::kI32, {Static(matrices)});
  return states;
}

void MoveCodes(GraphBuilder& b, ValueId w, ValueId gradient,
               const CodeStates& states, ValueId lr, ValueId step,
               const MoveCodesOptions& options) {
  const Phase before = b.phase();
  b.set_phase(Phase::kUpdate);
  b.Add(kMoveCodes,
        {w, gradient, states.position, states.scale, states.zero,
         states.moments, states.bits, lr, step},
        {{"group", options.group},
         {"symmetric", int64_t{options.symmetric}},
         {"beta1", options.beta1},
         {"beta2", options.beta2},
         {"eps", options.eps}});
  b.set_phase(before);
}

}  // namespace strata
