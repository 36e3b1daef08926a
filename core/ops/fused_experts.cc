#include "core/ops/fused_experts.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

// FLOPs of the operators that these stand for, by row.
constexpr double kNormFlops = 4;     // RmsNorm, an element.
constexpr double kSwiGluFlops = 5;   // SwiGlu, an element of its result.
constexpr double kSoftmaxFlops = 6;  // MaskedSoftmax, an element.
constexpr double kSigmoidFlops = 3;  // Sigmoid, an element.

// A product with [2 width, d], SwiGLU, a product with [d, width].
double MlpFlops(double d, double width) {
  return 4 * width * d + kSwiGluFlops * width + 2 * width * d;
}

// gate_up [.., 2 width, d] and down [.., d, width] of `experts` (0: of no
// expert) for x of `type`; the width to `width`.
absl::Status WantMlp(const OpView& op, int gate_up, int down,
                     const ValueType& type, int64_t experts, int64_t& width) {
  const Dim d = type.dims[1];
  RETURN_IF_ERROR(WantWeight(op, gate_up, "gate_up", type.dtype, d, experts));
  RETURN_IF_ERROR(WantFloat(op, down, "down", experts > 0 ? 3 : 2));
  const Dims& up = op.type(gate_up).dims;
  const int64_t rows = up[up.size() - 2].bound;
  width = rows / 2;
  RETURN_IF_ERROR(
      WantWeight(op, down, "down", type.dtype, Static(width), experts));
  const Dims& dims = op.type(down).dims;
  if (rows % 2 == 0 && dims[dims.size() - 2] == d) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("gate_up is ", ToText(op.graph, op.type(gate_up)),
                   " and down ", ToText(op.graph, op.type(down)),
                   "; want twice the width and ", d.bound, " rows"));
}

Dim TileRows(const Dim& t) { return Static(std::min(t.bound, kFusedTileRows)); }

// --- NormMlp ---

Types InferNormMlp(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kMlpH, "h", 2));
  const ValueType& h = op.type(kMlpH);
  RETURN_IF_ERROR(WantType(op, kMlpGain, "gain", {h.dtype, {h.dims[1]}}));
  int64_t width = 0;
  RETURN_IF_ERROR(WantMlp(op, kMlpGateUp, kMlpDown, h, 0, width));
  if (op.has(kMlpUpBias)) {
    RETURN_IF_ERROR(
        WantType(op, kMlpUpBias, "bias", {h.dtype, {Static(2 * width)}}));
  }
  if (op.has(kMlpDownBias)) {
    RETURN_IF_ERROR(WantType(op, kMlpDownBias, "bias", {h.dtype, {h.dims[1]}}));
  }
  const Dim tile = TileRows(h.dims[0]);
  return std::vector<ValueType>{
      h, {h.dtype, {tile, h.dims[1]}}, {h.dtype, {tile, Static(width)}}};
}

double NormMlpFlops(const OpView& op, const Binding& binding) {
  const ValueType& h = op.type(kMlpH);
  const auto d = static_cast<double>(h.dims[1].bound);
  const auto width = static_cast<double>(op.type(kMlpDown).dims[1].bound);
  return Extent(h.dims[0], binding) * (kNormFlops * d + MlpFlops(d, width) + d +
                                       (op.has(kMlpUpBias) ? 2 * width : 0) +
                                       (op.has(kMlpDownBias) ? d : 0));
}

// The tiles stay in the processor.
void NormMlpBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_written = Bytes(op.output_type(0), binding);
}

// --- RoutedExperts ---

Types InferRouted(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kRoutedH, "h", 2));
  const ValueType& h = op.type(kRoutedH);
  const Dim t = h.dims[0], d = h.dims[1];
  RETURN_IF_ERROR(WantType(op, kRoutedGain, "gain", {h.dtype, {d}}));
  RETURN_IF_ERROR(WantWeight(op, kRoutedGate, "gate", h.dtype, d));
  const int64_t experts = op.type(kRoutedGate).dims[0].bound;
  if (op.has(kRoutedBias)) {
    RETURN_IF_ERROR(
        WantType(op, kRoutedBias, "bias", {h.dtype, {Static(experts)}}));
  }
  const int64_t groups = op.attrs.Int("num_groups");
  RETURN_IF_ERROR(WantInRange("num_groups", groups, 1, experts));
  RETURN_IF_ERROR(
      WantInRange("top_groups", op.attrs.Int("top_groups"), 1, groups));
  const int64_t k = op.attrs.Int("k");
  RETURN_IF_ERROR(
      WantInRange("k", k, 1, op.attrs.Int("top_groups") * (experts / groups)));
  int64_t width = 0;
  RETURN_IF_ERROR(WantMlp(op, kRoutedGateUp, kRoutedDown, h, experts, width));
  std::vector<ValueType> types = {
      h,
      {DType::kI32, {Static(experts + 1)}},
      {DType::kI32, {}},
      h,
      {h.dtype, {Ragged(t.bound * k, -2 - kRoutedRows), Static(width)}}};
  if (op.has(kRoutedSharedUp)) {
    RETURN_IF_ERROR(
        WantMlp(op, kRoutedSharedUp, kRoutedSharedDown, h, 0, width));
    types.push_back({h.dtype, {t, Static(width)}});
  }
  return types;
}

double RoutedFlops(const OpView& op, const Binding& binding) {
  const ValueType& h = op.type(kRoutedH);
  const double t = Extent(h.dims[0], binding);
  const double rows = Extent(op.output_type(kRoutedHidden).dims[0], binding);
  const auto d = static_cast<double>(h.dims[1].bound);
  const auto experts = static_cast<double>(op.type(kRoutedGate).dims[0].bound);
  const auto width = static_cast<double>(op.type(kRoutedDown).dims[2].bound);
  const bool softmax = op.attrs.Int("softmax") != 0;
  const double choice = 1 + (op.has(kRoutedBias) ? 1 : 0) +
                        (op.attrs.Int("num_groups") > 1 ? 1 : 0);
  const double weight = static_cast<double>(op.attrs.Int("k")) *
                        (op.attrs.Int("normalize") != 0 ? 3 : 1);
  double of_token =
      kNormFlops * d +
      experts * (2 * d + choice + (softmax ? kSoftmaxFlops : kSigmoidFlops)) +
      weight + d;
  if (op.has(kRoutedSharedUp)) {
    of_token += d + MlpFlops(d, static_cast<double>(
                                    op.type(kRoutedSharedDown).dims[1].bound));
  }
  return t * of_token + rows * (MlpFlops(d, width) + 2 * d);
}

// What lies between is written and read once; experts without rows are not
// read.
void RoutedBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const double rows = Extent(op.output_type(kRoutedHidden).dims[0], binding);
  const auto experts = static_cast<double>(op.type(kRoutedGate).dims[0].bound);
  for (const int w : {kRoutedGateUp, kRoutedDown}) {
    cost.bytes_read -=
        Bytes(op.type(w), binding) * (1 - std::min(experts, rows) / experts);
  }
  for (size_t i = kRoutedX; i < op.outputs.size(); ++i) {
    cost.bytes_read += Bytes(op.output_type(static_cast<int>(i)), binding);
  }
}

// --- ExpertsResidual ---

Types InferExperts(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kExpertsX, "x", 2));
  const ValueType& x = op.type(kExpertsX);
  RETURN_IF_ERROR(WantRank(op, kExpertsRowSlot, "row_slot", DType::kI32, 1));
  RETURN_IF_ERROR(WantRank(op, kExpertsSlotRow, "slot_row", DType::kI32, 2));
  const Dims& slots = op.type(kExpertsSlotRow).dims;
  RETURN_IF_ERROR(WantType(op, kExpertsSlotRow, "slot_row",
                           {DType::kI32, {x.dims[0], slots[1]}}));
  RETURN_IF_ERROR(WantRank(op, kExpertsOffset, "offset", DType::kI32, 1));
  const int64_t experts = op.type(kExpertsOffset).dims[0].bound - 1;
  RETURN_IF_ERROR(WantInRange("the number of experts", experts, 1, 1 << 20));
  if (op.has(kExpertsWeight)) {
    RETURN_IF_ERROR(WantType(op, kExpertsWeight, "weight", {x.dtype, slots}));
  }
  int64_t width = 0;
  RETURN_IF_ERROR(WantMlp(op, kExpertsGateUp, kExpertsDown, x, experts, width));
  RETURN_IF_ERROR(WantFloat(op, kExpertsH, "h", 2));
  const ValueType& h = op.type(kExpertsH);
  const Dim t = op.has(kExpertsIndex) ? h.dims[0] : x.dims[0];
  RETURN_IF_ERROR(WantType(op, kExpertsH, "h", {x.dtype, {t, x.dims[1]}}));
  if (op.has(kExpertsIndex)) {
    RETURN_IF_ERROR(
        WantType(op, kExpertsIndex, "index", {DType::kI32, {x.dims[0]}}));
  }
  return std::vector<ValueType>{
      h, {x.dtype, {op.type(kExpertsRowSlot).dims[0], Static(width)}}};
}

double ExpertsFlops(const OpView& op, const Binding& binding) {
  const ValueType& x = op.type(kExpertsX);
  const double rows = Extent(op.type(kExpertsRowSlot).dims[0], binding);
  const auto d = static_cast<double>(x.dims[1].bound);
  const auto width = static_cast<double>(op.type(kExpertsDown).dims[2].bound);
  const double combine = op.has(kExpertsWeight) ? 2 : 1;
  return Extent(x.dims[0], binding) * d +
         rows * (MlpFlops(d, width) + combine * d);
}

void ExpertsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const double rows = Extent(op.type(kExpertsRowSlot).dims[0], binding);
  const auto experts =
      static_cast<double>(op.type(kExpertsOffset).dims[0].bound - 1);
  for (const int w : {kExpertsGateUp, kExpertsDown}) {
    cost.bytes_read -=
        Bytes(op.type(w), binding) * (1 - std::min(experts, rows) / experts);
  }
  cost.bytes_read += Bytes(op.output_type(1), binding);
}

}  // namespace

const OpDef kNormMlp = {"NormMlp",    InferNormMlp,   nullptr,
                        NormMlpFlops, /*mutates=*/{}, NormMlpBytes};
const OpDef kRoutedExperts = {"RoutedExperts", InferRouted,    nullptr,
                              RoutedFlops,     /*mutates=*/{}, RoutedBytes};
const OpDef kExpertsResidual = {"ExpertsResidual", InferExperts,
                                nullptr,           ExpertsFlops,
                                /*mutates=*/{},    ExpertsBytes};

Attrs RoutedAttrs(const RoutedOptions& options) {
  return {{"eps", options.eps},
          {"softmax", int64_t{options.softmax}},
          {"k", options.k},
          {"num_groups", options.num_groups},
          {"top_groups", options.top_groups},
          {"group_max", int64_t{options.group_max}},
          {"normalize", int64_t{options.normalize}},
          {"floor", options.floor},
          {"scale", options.scale},
          {"in_place", int64_t{kRoutedH}}};
}

}  // namespace strata
