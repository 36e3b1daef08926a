#include "sim/workload/model_graph.h"

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/ops/elementwise.h"
#include "core/passes/autodiff.h"

namespace strata::sim {
namespace {

// Of the graph's tokens: counts are bound to what a layout has.
constexpr int64_t kMaxTokens = int64_t{1} << 20;

constexpr absl::string_view kLayerScope = "model.layers.";

int LayerOf(absl::string_view scope) {
  if (absl::StartsWith(scope, kLayerScope)) {
    absl::string_view digits = scope.substr(kLayerScope.size());
    digits = digits.substr(0, digits.find('.'));
    int layer = 0;
    if (absl::SimpleAtoi(digits, &layer)) return layer;
  }
  return absl::StartsWith(scope, "embedding") ? kEmbedding : kOutput;
}

int LayerOfParameter(absl::string_view name) {
  if (absl::StartsWith(name, "model.embed_tokens")) return kEmbedding;
  return LayerOf(name);
}

bool IsExperts(absl::string_view name) {
  return absl::StrContains(name, ".experts.");
}

// Which dimensions of a parameter tensor parallelism cuts, as bits.
uint8_t CutOfParameter(absl::string_view name) {
  if (IsExperts(name)) {  // [experts, out, in]
    return absl::EndsWith(name, "gate_up_proj.weight") ? 2 : 4;
  }
  for (const char* column : {"q_proj", "k_proj", "v_proj", "q_b_proj",
                             "kv_b_proj", "gate_up_proj"}) {
    if (absl::EndsWith(name, absl::StrCat(".", column, ".weight"))) return 1;
  }
  if (absl::EndsWith(name, ".o_proj.weight") &&
      absl::StrContains(name, "self_attn")) {
    return 2;
  }
  if (absl::EndsWith(name, ".down_proj.weight")) return 2;
  if (name == "lm_head.weight" || name == "model.embed_tokens.weight") return 1;
  return 0;
}

bool IsProduct(absl::string_view op) {
  return op == "MatMul" || op == "GroupedMatMul" || op == "GroupedWeightGrad";
}

}  // namespace

absl::StatusOr<ModelGraph> ModelGraph::Create(const ModelConfig& config) {
  RETURN_IF_ERROR(Validate(config));
  ModelGraph model;
  model.config_ = config;
  GraphBuilder b;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kTrain;
  options.max_tokens = kMaxTokens;
  options.max_sequences = 1;
  const Decoder decoder = BuildDecoder(b, config, options);
  RETURN_IF_ERROR(b.status());
  std::vector<ValueId> parameters;
  for (size_t id = 0; id < b.graph().values().size(); ++id) {
    if (b.graph().value(id).role == Role::kParameter) parameters.push_back(id);
  }
  b.set_phase(Phase::kInputGrad);
  const Seed seed = {decoder.total_loss, Fill(b, 1.0)};
  RETURN_IF_ERROR(Differentiate(b, {seed}, parameters).status());
  ASSIGN_OR_RETURN(model.graph_, b.Finish());
  model.Place();
  model.SpreadCuts();
  model.Fuse();
  model.CountParameters();
  return model;
}

int ModelGraph::GateOfCount(ValueId count) const {
  const auto it = gate_of_count_.find(count);
  return it == gate_of_count_.end() ? -1 : it->second;
}

void ModelGraph::Place() {
  const MoeConfig& moe = config_.moe();
  absl::flat_hash_map<int, int> tiers;  // Seen so far, by layer.
  for (const Node& node : graph_.nodes()) {
    NodePlace place;
    place.layer = LayerOf(node.scope);
    if (node.op->name == "DispatchPlan") {
      Gate gate;
      gate.layer = place.layer;
      gate.tier = tiers[place.layer]++;
      if (moe.has_flat()) {
        gate.num_experts = moe.flat().num_experts();
        gate.rows_per_token = static_cast<double>(moe.flat().k());
      } else {
        const HierarchicalRouterConfig& router = moe.hierarchical();
        gate.num_experts = router.tier_experts(gate.tier);
        // What a token uses is only known of a trained gate (--routing).
        gate.rows_per_token = (router.k_min() + router.k_max()) / 2.0;
      }
      // row_slot, slot_row, offset, rows: the count is what row_slot is ragged
      // by.
      const Dim& rows = graph_.value(node.outputs[0]).type.dims[0];
      gate_of_count_[rows.count] = static_cast<int>(gates_.size());
      gates_.push_back(gate);
    }
    for (const auto& values :
         {node.inputs,
          decltype(node.inputs)(node.outputs.begin(), node.outputs.end())}) {
      for (const ValueId id : values) {
        if (id == kNone) continue;
        const Dims& dims = graph_.value(id).type.dims;
        if (dims.size() < 2 || !dims[0].ragged()) continue;
        const int gate = GateOfCount(dims[0].count);
        if (gate >= 0) place.gate = gate;
      }
    }
    place_.push_back(place);
  }
}

uint8_t ModelGraph::CutOf(const Node& node, int output) const {
  const absl::string_view op = node.op->name;
  const auto bit = [&](int input, int dim) -> uint8_t {
    return node.inputs[input] != kNone && IsCut(node.inputs[input], dim);
  };
  if (op == "MatMul") {
    const int m = node.attrs.Int("transpose_lhs") != 0 ? 1 : 0;
    const int n = node.attrs.Int("transpose_rhs") != 0 ? 0 : 1;
    return bit(0, m) | bit(1, n) << 1;
  }
  if (op == "GroupedMatMul") {
    return bit(1, node.attrs.Int("transpose_w") != 0 ? 1 : 2) << 1;
  }
  if (op == "GroupedWeightGrad") return bit(0, 1) << 1 | bit(1, 1) << 2;
  // The rotary key is one for all heads.
  if (op == "LatentKeyValueGrad" && output == 1) return 0;
  const Dims& dims = graph_.value(node.outputs[output]).type.dims;
  if (dims.size() < 2 || !dims[0].ragged()) return 0;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNone) continue;
    const Dims& input = graph_.value(node.inputs[i]).type.dims;
    if (input.size() == 2 && input[0] == dims[0] && bit(i, 1)) return 2;
  }
  return 0;
}

void ModelGraph::SpreadCuts() {
  cut_.resize(graph_.values().size());
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const Value& value = graph_.value(id);
    if (value.role == Role::kParameter) cut_[id] = CutOfParameter(value.name);
  }
  for (const Node& node : graph_.nodes()) {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      cut_[node.outputs[i]] = CutOf(node, static_cast<int>(i));
    }
  }
}

// Products of one activation with several weights are one product with the
// weights side by side, in the gradients too.
void ModelGraph::Fuse() {
  const auto is_parameter = [&](ValueId id) {
    return graph_.value(id).role == Role::kParameter;
  };
  // By the activation, of forward products; then by the weight.
  absl::flat_hash_map<ValueId, std::vector<NodeId>> by_input;
  for (size_t i = 0; i < graph_.nodes().size(); ++i) {
    const Node& node = graph_.node(i);
    if (node.op->name != "MatMul" || node.phase != Phase::kForward) continue;
    if (!absl::StrContains(node.scope, "self_attn")) continue;
    if (is_parameter(node.inputs[1])) by_input[node.inputs[0]].push_back(i);
  }
  absl::flat_hash_map<ValueId, int> of_weight;
  absl::flat_hash_map<ValueId, int> of_activation;
  for (const auto& [input, nodes] : by_input) {
    if (nodes.size() < 2) continue;
    for (const NodeId id : nodes) {
      place_[id].fused = nodes[0];
      of_weight[graph_.node(id).inputs[1]] = nodes[0];
      of_activation[input] = nodes[0];
    }
  }
  for (size_t i = 0; i < graph_.nodes().size(); ++i) {
    const Node& node = graph_.node(i);
    if (node.op->name != "MatMul") continue;
    const auto& by =
        node.phase == Phase::kInputGrad ? of_weight : of_activation;
    if (node.phase == Phase::kForward) continue;
    const auto it = by.find(node.inputs[1]);
    if (it != by.end()) place_[i].fused = it->second;
  }
}

void ModelGraph::CountParameters() {
  parameters_.resize(config_.num_layers() + 2);
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const Value& value = graph_.value(id);
    if (value.role != Role::kParameter) continue;
    const int layer = LayerOfParameter(value.name);
    Parameters& p = parameters_[layer < 0 ? -layer - 1 : layer + 2];
    const double elements = static_cast<double>(value.type.max_elements());
    if (IsExperts(value.name)) {
      p.experts += elements;
    } else if (cut_[id] != 0) {
      p.dense_cut += elements;
    } else {
      p.dense_whole += elements;
    }
  }
}

ModelGraph::Flops ModelGraph::FlopsOfSequence(int64_t sequence) const {
  const Binding binding = [&](ValueId count, int64_t) {
    const int gate = GateOfCount(count);
    return static_cast<double>(sequence) *
           (gate < 0 ? 1 : gates_[gate].rows_per_token);
  };
  Flops flops;
  for (const Node& node : graph_.nodes()) {
    if (node.phase == Phase::kUpdate) continue;
    if (IsProduct(node.op->name)) {
      flops.products += CostOf(graph_, node, binding).flops;
    } else if (absl::StartsWith(node.op->name, "Attention")) {
      flops.causal_attention += CostOf(graph_, node, binding).flops;
    }
  }
  return flops;
}

}  // namespace strata::sim
