#include "core/passes/quantize_weights.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/mixed_matmul.h"
#include "core/ops/quant_fused.h"
#include "core/ops/quant_matmul.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

constexpr int kWeight = 1;  // Which input it is, of all these operators.

bool IsCandidate(const Value& value) {
  return value.role == Role::kParameter && value.type.dtype == DType::kF32;
}

// Whether `node` multiplies rows by the transpose of its input kWeight.
bool IsLayer(const Node& node) {
  if (node.op->name == kMatMul.name) {
    return node.attrs.Int("transpose_lhs") == 0 &&
           node.attrs.Int("transpose_rhs") != 0;
  }
  return node.op->name == kGroupedMatMul.name &&
         node.attrs.Int("transpose_w") != 0;
}

// Whether `node`, a product or a fused operator, may have input `i` packed.
bool MayBePacked(const Node& node, int i) {
  if (IsLayer(node)) return i == kWeight;
  const QuantFused* const twin = FindQuantFused(*node.op);
  return twin != nullptr && twin->MayBePacked(i);
}

// Bytes of experts' matrices F32[experts, n, k] in those formats.
absl::StatusOr<int64_t> MixedBytes(const Value& value,
                                   const ExpertFormats& formats) {
  const Dims& dims = value.type.dims;
  if (dims.size() != 3 ||
      dims[0].bound != static_cast<int64_t>(formats.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(value.name, " has formats of ", formats.size(),
                     " experts; want one for each of its matrices"));
  }
  for (const QuantFormat& format : formats) {
    RETURN_IF_ERROR(CheckFormat(value.name, format, dims[2].bound));
  }
  return MixedOffsets(formats, dims[1].bound, dims[2].bound).back();
}

}  // namespace

std::set<std::string> QuantizableWeights(const Graph& graph) {
  std::vector<bool> read(graph.values().size()), refused(read.size());
  for (const Node& node : graph.nodes()) {
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNone || !IsCandidate(graph.value(id))) continue;
      read[id] = true;
      if (!MayBePacked(node, static_cast<int>(i))) refused[id] = true;
    }
  }
  std::set<std::string> names;
  for (size_t id = 0; id < read.size(); ++id) {
    if (read[id] && !refused[id]) names.insert(graph.value(id).name);
  }
  return names;
}

absl::StatusOr<Graph> QuantizeWeights(
    const Graph& graph, const std::map<std::string, QuantFormat>& formats,
    const std::map<std::string, ExpertFormats>& mixed) {
  const std::set<std::string> quantizable = QuantizableWeights(graph);
  Graph packed;
  for (Value value : graph.values()) {
    const auto one = formats.find(value.name);
    const auto several = mixed.find(value.name);
    if ((one != formats.end() || several != mixed.end()) &&
        IsCandidate(value)) {
      if (quantizable.count(value.name) == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(value.name,
                         " is packed in integers; the graph has an operator "
                         "that wants it in F32"));
      }
      const int64_t columns = value.type.dims.back().bound;
      if (one != formats.end()) {
        RETURN_IF_ERROR(CheckFormat(value.name, one->second, columns));
        value.type.dims.back() = Static(PackedRow(one->second, columns).bytes);
      } else {
        ASSIGN_OR_RETURN(const int64_t bytes,
                         MixedBytes(value, several->second));
        value.type.dims = {Static(bytes)};
      }
      value.type.dtype = DType::kU8;
    }
    packed.AddValue(std::move(value));
  }
  for (Node node : graph.nodes()) {
    if (IsLayer(node)) {
      const Value& weight = graph.value(node.inputs[kWeight]);
      const auto one = formats.find(weight.name);
      const auto several = mixed.find(weight.name);
      if (!IsCandidate(weight)) {
        // Not ours.
      } else if (one != formats.end()) {
        node.op = node.op->name == kMatMul.name ? &kQuantMatMul
                                                : &kQuantGroupedMatMul;
        node.attrs = QuantAttrs(one->second);
      } else if (several != mixed.end()) {
        node.op = &kMixedGroupedMatMul;
        node.attrs = MixedAttrs(several->second, weight.type.dims[1].bound);
      }
    }
    if (const QuantFused* const twin = FindQuantFused(*node.op)) {
      for (const QuantWeight& weight : twin->weights) {
        const auto input = static_cast<size_t>(weight.input);
        if (input >= node.inputs.size() || node.inputs[input] == kNone) {
          continue;
        }
        const Value& value = graph.value(node.inputs[input]);
        if (!IsCandidate(value)) continue;
        if (mixed.count(value.name) > 0) {
          return absl::InvalidArgumentError(
              absl::StrCat(value.name, " has formats of its experts' own; ",
                           node.op->name, " takes one"));
        }
        if (formats.count(value.name) > 0) node.op = twin->op;
      }
    }
    packed.AddNode(std::move(node));
  }
  for (const auto& [name, value] : graph.outputs()) {
    packed.SetOutput(name, value);
  }
  return packed;
}

}  // namespace strata
