#include "core/passes/bf16_training.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/adamw_halves.h"
#include "core/ops/collective_rows.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/optimizer.h"
#include "core/ops/weight_grad_sum.h"
#include "core/passes/narrow_weights.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Rows are moved in pieces of 16 bytes.
constexpr int64_t kColumns = 8;

struct RowOperands {
  absl::string_view op;
  std::vector<int> inputs, outputs;
};

const std::vector<RowOperands>& Operators() {
  static const auto* const operators = new std::vector<RowOperands>{
      {"Add", {0, 1}, {0}},
      {"Attention", {0, 1, 2}, {0}},
      {"AttentionGrad", {0, 1, 2, 3, 4}, {0, 1, 2}},
      {"CombineRows", {0, 4, 5}, {0}},
      {"CrossEntropyGrad", {}, {0}},
      {"DispatchRows", {0}, {0}},
      {"FedNorm", {}, {0}},
      {"FedNormInputGrad", {0, 7, 8}, {0, 1}},
      {"FedNormWeightGrad", {0}, {}},
      {"GroupedMatMul", {0}, {0}},
      {"GroupedWeightGrad", {0, 1}, {}},
      {"HeadLoss", {0}, {3}},
      {"LatentKeyValue", {0}, {0, 1}},
      {"LatentKeyValueGrad", {0, 1}, {0}},
      {"MatMul", {0}, {0}},
      {"RmsNorm", {}, {0}},
      {"RmsNormInputGrad", {0, 4, 5}, {0}},
      {"RmsNormWeightGrad", {0}, {}},
      {"ReturnRows", {0}, {0}},
      {"Rope", {0}, {0}},
      {"RowDot", {0, 1}, {}},
      {"SendRows", {0}, {0}},
      {"SlotDot", {0, 1}, {}},
      {"SumWeightGrad", {1, 2}, {}},
      {"SwiGlu", {0}, {0}},
      {"SwiGluGrad", {0, 1}, {0}},
  };
  return *operators;
}

// The weight that a state belongs to, or the parameter itself.
absl::string_view WeightOf(absl::string_view name) {
  for (const absl::string_view prefix : {"grad.", "adam.m.", "adam.v."}) {
    if (absl::ConsumePrefix(&name, prefix)) break;
  }
  return name;
}

void NarrowState(const std::set<std::string>& weights, WeightState state,
                 Value& value) {
  const bool is_state =
      value.role == Role::kParameter ||
      (value.role == Role::kState && state == WeightState::kBf16);
  if (is_state && value.type.dtype == DType::kF32 &&
      weights.count(std::string(WeightOf(value.name))) > 0) {
    value.type.dtype = DType::kBF16;
  }
}

// How often each value is read, outputs of the graph counted.
std::vector<int> CountReaders(const Graph& graph) {
  std::vector<int> readers(graph.values().size(), 0);
  for (const Node& node : graph.nodes()) {
    for (const ValueId id : node.inputs) {
      if (id != kNone) ++readers[id];
    }
  }
  for (const auto& [name, id] : graph.outputs()) ++readers[id];
  return readers;
}

// dy^T x, by expert or of all rows.
bool IsWeightGrad(const Node& node) {
  if (node.op == &kGroupedWeightGrad) return true;
  return node.op == &kMatMul && node.attrs.Int("transpose_lhs") != 0 &&
         node.attrs.Int("transpose_rhs") == 0;
}

// Whether each operand that may be BF16 has whole pieces a row.
bool MovesWholePieces(const Graph& graph, const Node& node) {
  const auto is_whole = [&](ValueId id, bool is_output, size_t index) {
    if (id == kNone ||
        !TakesBf16(node.op->name, is_output, static_cast<int>(index))) {
      return true;
    }
    const ValueType& type = graph.value(id).type;
    return type.rank() != 2 || type.dims[1].bound % kColumns == 0;
  };
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (!is_whole(node.inputs[i], false, i)) return false;
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (!is_whole(node.outputs[i], true, i)) return false;
  }
  return true;
}

// Of an Accumulate, the product that makes its value and whose only reader it
// is; null if there is none.
const Node* ProductOf(const Graph& graph, const Node& node,
                      const std::vector<int>& readers) {
  if (node.op != &kAccumulate) return nullptr;
  const ValueId value = node.inputs[1];
  const NodeId producer = graph.value(value).producer;
  if (producer == kNone || readers[value] != 1) return nullptr;
  const Node& product = graph.node(producer);
  return IsWeightGrad(product) ? &product : nullptr;
}

// `graph` with each weight's product and its Accumulate in one.
Bf16Gradients SumWeightGrads(const Graph& graph,
                             const std::set<std::string>& weights) {
  const std::vector<int> readers = CountReaders(graph);
  std::vector<bool> gone(graph.nodes().size());
  for (const Node& node : graph.nodes()) {
    const Node* const product = ProductOf(graph, node, readers);
    if (product == nullptr) continue;
    const std::string& sum = graph.value(node.inputs[0]).name;
    if (weights.count(std::string(WeightOf(sum))) == 0) continue;
    gone[graph.value(node.inputs[1]).producer] = true;
  }
  Bf16Gradients result;
  Graph& summed = result.graph;
  std::vector<ValueId>& moved = result.value;
  std::vector<bool> stays;
  for (const Value& value : graph.values()) {
    stays.push_back(value.producer == kNone || !gone[value.producer]);
  }
  moved = CopyValues(graph.values(), stays, summed);
  for (size_t id = 0; id < gone.size(); ++id) {
    if (gone[id]) continue;
    Node node = graph.node(id);
    const Node* const product = ProductOf(graph, node, readers);
    if (product != nullptr && gone[graph.value(node.inputs[1]).producer]) {
      const ValueId sum = node.inputs[0], keep = node.inputs[2];
      node.op = &kSumWeightGrad;
      node.attrs = {};
      node.inputs = {sum, product->inputs[0], product->inputs[1], keep};
      if (product->inputs.size() > 2) node.inputs.push_back(product->inputs[2]);
      node.scope = product->scope;
    }
    for (ValueId& input : node.inputs) {
      if (input != kNone) input = moved[input];
    }
    for (ValueId& output : node.outputs) output = moved[output];
    summed.AddNode(std::move(node));
  }
  for (const auto& [name, id] : graph.outputs()) {
    summed.SetOutput(name, moved[id]);
  }
  return result;
}

// The activations that may be BF16: rows that every node which touches them
// takes so, and no caller reads.
std::vector<bool> RowsInBf16(const Graph& graph) {
  std::vector<bool> narrow(graph.values().size());
  for (size_t id = 0; id < narrow.size(); ++id) {
    const Value& value = graph.value(id);
    narrow[id] = value.producer != kNone && value.type.dtype == DType::kF32 &&
                 value.type.rank() == 2 &&
                 value.type.dims[1].bound % kColumns == 0;
  }
  for (const Node& node : graph.nodes()) {
    const bool is_whole = MovesWholePieces(graph, node);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id != kNone &&
          !(is_whole && TakesBf16(node.op->name, false, static_cast<int>(i)))) {
        narrow[id] = false;
      }
    }
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (!(is_whole && TakesBf16(node.op->name, true, static_cast<int>(i)))) {
        narrow[node.outputs[i]] = false;
      }
    }
  }
  for (const auto& [name, id] : graph.outputs()) narrow[id] = false;
  return narrow;
}

// Whether a plan of dispatch counts the rows, at home or at their owner.
bool AreOfExperts(const Graph& graph, const Value& value) {
  const ValueId count = value.type.dims[0].count;
  if (count == kNone || graph.value(count).producer == kNone) return false;
  const OpDef* const op = graph.node(graph.value(count).producer).op;
  return op == &kDispatchPlan || op == &kExchangePlan;
}

template <typename Change>
Graph WithValues(const Graph& graph, Change change) {
  Graph changed;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    Value value = graph.value(id);
    change(id, value);
    changed.AddValue(std::move(value));
  }
  for (const Node& node : graph.nodes()) changed.AddNode(node);
  for (const auto& [name, id] : graph.outputs()) changed.SetOutput(name, id);
  return changed;
}

// `update` with the other halves of `weights`, which are narrow already.
Graph InHalves(const Graph& update, const std::set<std::string>& weights) {
  Graph halves;
  for (Value value : update.values()) {
    value.producer = kNone;
    halves.AddValue(std::move(value));
  }
  for (Node node : update.nodes()) {
    if (node.op == &kAdamW) {
      const Value& param = update.value(node.inputs[0]);
      if (weights.count(param.name) > 0) {
        Value low = param;
        low.name = LowHalfName(param.name);
        low.type.dtype = DType::kI16;
        low.role = Role::kState;
        node.op = &kAdamWHalves;
        node.inputs.push_back(halves.AddValue(std::move(low)));
        node.mutates.assign(kAdamWHalves.mutates.begin(),
                            kAdamWHalves.mutates.end());
      }
    }
    halves.AddNode(std::move(node));
  }
  for (const auto& [name, id] : update.outputs()) halves.SetOutput(name, id);
  return halves;
}

}  // namespace

std::set<std::string> Bf16Weights(const Graph& model) {
  std::set<std::string> weights = NarrowableWeights(model);
  for (const Value& value : model.values()) {
    if (value.role == Role::kParameter && value.type.rank() < 2) {
      weights.erase(value.name);
    }
  }
  return weights;
}

absl::Status CheckReadersTakeBf16(const Graph& gradients,
                                  const std::set<std::string>& weights) {
  for (const NarrowRefusal& refusal : NarrowRefusals(gradients)) {
    const Node& node = gradients.node(refusal.node);
    const std::string& weight = gradients.value(refusal.weight).name;
    // Products of input gradients, of which inference does not know.
    const bool is_product = node.op == &kMatMul || node.op == &kGroupedMatMul;
    if (is_product || weights.count(weight) == 0) continue;
    return absl::InternalError(absl::StrCat(node.scope, "/", node.op->name,
                                            " reads ", weight,
                                            " and does not take it in BF16"));
  }
  return absl::OkStatus();
}

bool TakesBf16(absl::string_view op, bool is_output, int index) {
  for (const RowOperands& operands : Operators()) {
    if (operands.op != op) continue;
    const std::vector<int>& indexes =
        is_output ? operands.outputs : operands.inputs;
    return std::find(indexes.begin(), indexes.end(), index) != indexes.end();
  }
  return false;
}

Bf16Gradients GradientsInBf16(const Graph& gradients,
                              const std::set<std::string>& weights,
                              WeightState state) {
  Bf16Gradients result = SumWeightGrads(gradients, weights);
  const std::vector<bool> narrow = RowsInBf16(result.graph);
  result.graph = WithValues(result.graph, [&](size_t id, Value& value) {
    NarrowState(weights, state, value);
    if (narrow[id]) value.type.dtype = DType::kBF16;
  });
  return result;
}

Graph ExpertRowsInBf16(const Graph& gradients) {
  const std::vector<bool> narrow = RowsInBf16(gradients);
  return WithValues(gradients, [&](size_t id, Value& value) {
    if (narrow[id] && AreOfExperts(gradients, value)) {
      value.type.dtype = DType::kBF16;
    }
  });
}

Graph UpdateInBf16(const Graph& update, const std::set<std::string>& weights,
                   WeightState state) {
  Graph narrow = WithValues(update, [&](size_t id, Value& value) {
    NarrowState(weights, state, value);
  });
  return state == WeightState::kBf16 ? narrow : InHalves(narrow, weights);
}

}  // namespace strata
