#include "core/ops/expert_placement.h"

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

constexpr int64_t kMaxExperts = std::numeric_limits<int32_t>::max();

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// That input `input` is a table of slots as the attributes say.
absl::Status WantTable(const OpView& op, int input) {
  RETURN_IF_ERROR(WantRank(op, input, "table", DType::kI32, 1));
  const Dim& slots = op.type(input).dims[0];
  const int64_t experts = op.attrs.Int("experts");
  const int64_t ranks = op.attrs.Int("ranks");
  RETURN_IF_ERROR(WantInRange("experts", experts, 1, kMaxExperts));
  RETURN_IF_ERROR(WantInRange("ranks", ranks, 1, kMaxExperts));
  if (!slots.ragged() && slots.bound >= experts && slots.bound % ranks == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there are ", slots.bound, " slots; want as many as the ",
                   experts, " experts or more, a multiple of ranks = ", ranks));
}

// That the inputs from `first` on are rows [slots / ranks, ...] of one float
// dtype, of the table in input `table`.
absl::Status WantRowsOfSlots(const OpView& op, int table, int first) {
  RETURN_IF_ERROR(WantTable(op, table));
  const int count = static_cast<int>(op.inputs.size()) - first;
  RETURN_IF_ERROR(
      WantInRange("the number of gradients", count, 1, kMaxPlacedGrads));
  const int64_t own = op.type(table).dims[0].bound / op.attrs.Int("ranks");
  for (int i = first; i < first + count; ++i) {
    const ValueType& type = op.type(i);
    if (IsFloat(type.dtype) && type.dtype == op.type(first).dtype &&
        type.rank() > 0 && !type.dims[0].ragged() &&
        type.dims[0].bound == own) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "gradient ", i - first, " is ", ToText(op.graph, type), "; want ", own,
        " rows of floats, of one type as the others"));
  }
  return absl::OkStatus();
}

Types InferPlaceChoices(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "expert", DType::kI32, 2));
  RETURN_IF_ERROR(WantTable(op, 1));
  return std::vector<ValueType>{op.type(0)};
}

Types InferSumCopies(const OpView& op) {
  RETURN_IF_ERROR(WantRowsOfSlots(op, /*table=*/0, /*first=*/1));
  return std::vector<ValueType>{};
}

Types InferExpertNorm(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "divisor", 0));
  RETURN_IF_ERROR(WantRowsOfSlots(op, /*table=*/1, /*first=*/2));
  RETURN_IF_ERROR(WantType(op, 0, "divisor", ValueType{op.type(2).dtype, {}}));
  return std::vector<ValueType>{{op.type(0).dtype, {}}};
}

double NormFlops(const OpView& op, const Binding& binding) {
  double elements = 0;
  for (int i = 2; i < static_cast<int>(op.inputs.size()); ++i) {
    elements += Elements(op.type(i), binding);
  }
  return 2 * elements;
}

// A number of each slot, from every rank to every other.
void NormBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_on_wire =
      static_cast<double>(op.type(1).dims[0].bound * SizeOf(DType::kF64));
}

// Every slot beyond an expert's first has a sender and a receiver, as far as
// the graph can know; the table may say that there are fewer.
void CopyBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const auto slots = static_cast<double>(op.type(0).dims[0].bound);
  const double spare = slots - static_cast<double>(op.attrs.Int("experts"));
  for (int i = 1; i < static_cast<int>(op.inputs.size()); ++i) {
    cost.bytes_on_wire += Bytes(op.type(i), binding) * 2 * spare / slots;
  }
  cost.bytes_read = cost.bytes_written = cost.bytes_on_wire;
}

std::vector<int> EveryGradient() {
  std::vector<int> inputs(kMaxPlacedGrads);
  std::iota(inputs.begin(), inputs.end(), 1);
  return inputs;
}

Attrs AttrsOf(const SlotTable& slots, absl::string_view group) {
  return {{"experts", slots.experts},
          {"ranks", slots.ranks},
          {"group", std::string(group)}};
}

}  // namespace

const OpDef kPlaceChoices = {"PlaceChoices", InferPlaceChoices, nullptr,
                             NoFlops};
const OpDef kSumCopies = {"SumCopies",
                          InferSumCopies,
                          nullptr,
                          NoFlops,
                          /*mutates=*/EveryGradient(),
                          CopyBytes};
const OpDef kExpertNorm = {"ExpertNorm", InferExpertNorm, nullptr,
                           NormFlops,    /*mutates=*/{},  NormBytes};

ValueId PlaceChoices(GraphBuilder& b, ValueId expert, const SlotTable& slots) {
  return b.Add1(kPlaceChoices, {expert, slots.table},
                {{"experts", slots.experts}, {"ranks", slots.ranks}});
}

void SumCopies(GraphBuilder& b, absl::Span<const ValueId> grads,
               const SlotTable& slots, absl::string_view group) {
  std::vector<ValueId> inputs = {slots.table};
  inputs.insert(inputs.end(), grads.begin(), grads.end());
  b.Add(kSumCopies, inputs, AttrsOf(slots, group));
}

ValueId ExpertNorm(GraphBuilder& b, absl::Span<const ValueId> grads,
                   ValueId divisor, const SlotTable& slots,
                   absl::string_view group) {
  std::vector<ValueId> inputs = {divisor, slots.table};
  inputs.insert(inputs.end(), grads.begin(), grads.end());
  return b.Add1(kExpertNorm, inputs, AttrsOf(slots, group));
}

}  // namespace strata
