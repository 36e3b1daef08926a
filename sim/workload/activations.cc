#include "sim/workload/activations.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata::sim {
namespace {

constexpr double kBf16Bytes = 2;
constexpr double kFp8Bytes = 1;
constexpr double kFp32Bytes = 4;

// Who reads a value.
struct Readers {
  bool gradients = false;     // Any of a gradient's nodes.
  bool only_products = true;  // Of those: all are products.
  bool only_swiglu = true;    // Of those: all are SwiGLU's.
  bool forward = false;       // Any of the forward pass,
  bool only_combine = true;   // all of which sum experts' rows up.
};

bool IsProduct(absl::string_view op) {
  return op == "MatMul" || op == "GroupedMatMul" || op == "GroupedWeightGrad";
}

std::vector<Readers> ReadersOf(const Graph& graph) {
  std::vector<Readers> readers(graph.values().size());
  for (const Node& node : graph.nodes()) {
    if (node.phase == Phase::kUpdate) continue;
    const absl::string_view op = node.op->name;
    for (const ValueId id : node.inputs) {
      if (id == kNone) continue;
      Readers& r = readers[id];
      if (node.phase == Phase::kForward) {
        r.forward = true;
        r.only_combine &= op == "CombineRows";
      } else {
        r.gradients = true;
        r.only_products &= IsProduct(op);
        r.only_swiglu &= absl::StartsWith(op, "SwiGlu");
      }
    }
  }
  return readers;
}

}  // namespace

bool IsRecomputed(const ModelGraph& model, const Layout& layout,
                  const Node& node) {
  if (layout.recompute == Recompute::kNone || node.phase != Phase::kForward) {
    return false;
  }
  const NodePlace& place = model.place(&node - model.graph().nodes().data());
  if (place.layer < 0) return false;
  if (layout.RecomputesLayers()) return true;
  const absl::string_view op = node.op->name;
  if (op == "RmsNorm") return true;
  if (layout.recompute == Recompute::kMoe) {
    return place.layer >= model.config().num_dense_layers() &&
           absl::StrContains(node.scope, ".mlp");
  }
  if (op == "SwiGlu") return true;
  if (!model.config().attention().has_latent()) return false;
  if (op == "LatentKeyValue" || op == "Rope") return true;
  if (op != "MatMul") return false;
  const absl::string_view weight = model.graph().value(node.inputs[1]).name;
  return absl::StrContains(weight, "q_b_proj") ||
         absl::StrContains(weight, "kv_b_proj");
}

Activations ActivationsOf(const ModelGraph& model, const Layout& layout,
                          const RankSizes& sizes) {
  const Graph& graph = model.graph();
  const std::vector<Readers> readers = ReadersOf(graph);
  Activations result;
  result.layers.resize(model.config().num_layers());
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const Value& value = graph.value(v);
    const Readers& r = readers[v];
    if (!r.gradients || value.role != Role::kActivation ||
        value.producer == kNone) {
      continue;
    }
    const Node& producer = graph.node(value.producer);
    if (producer.phase != Phase::kForward) continue;
    const bool is_experts_result =
        r.forward && r.only_combine && producer.op->name == "GroupedMatMul";
    if (is_experts_result) continue;
    const NodePlace& place = model.place(value.producer);
    const bool experts = place.gate >= 0;
    const bool in_layer = place.layer >= 0;
    double bytes =
        value.type.dtype == DType::kF32 ? kBf16Bytes : SizeOf(value.type.dtype);
    if (in_layer && ((layout.fp8 && r.only_products) ||
                     (layout.fp8_activations && r.only_swiglu))) {
      bytes = kFp8Bytes;
    }
    bool cut = false;
    for (size_t d = 0; d < value.type.dims.size(); ++d) {
      bytes *= sizes.Extent(v, static_cast<int>(d), experts);
      cut |= model.IsCut(v, static_cast<int>(d));
    }
    if (!cut && !experts && layout.sequence_parallel) bytes /= layout.tensor;
    KeptBytes& kept = place.layer == kEmbedding ? result.embedding
                      : in_layer                ? result.layers[place.layer]
                                                : result.output;
    (IsRecomputed(model, layout, producer) ? kept.made_again : kept.kept) +=
        bytes;
  }
  const double tokens = static_cast<double>(layout.TokensPerRank());
  if (layout.unfused_loss) {
    result.output.kept += tokens * kFp32Bytes / layout.tensor *
                          static_cast<double>(model.config().vocab_size());
  }
  if (layout.RecomputesLayers()) {
    for (KeptBytes& layer : result.layers) {  // Its input alone.
      layer.kept = tokens * static_cast<double>(model.config().d_model()) *
                   kBf16Bytes / (layout.sequence_parallel ? layout.tensor : 1);
    }
  }
  return result;
}

}  // namespace strata::sim
