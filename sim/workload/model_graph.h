// The training graph of a model, as one rank of a layout runs it: which extents
// tensor parallelism cuts, and which are rows of experts.
//
//   model config --> graph of forward and gradients   (core/model, autodiff:
//     |               the one that the trainer runs)
//     |  sizes that are cut spread from the parameters:
//     |    q, k, v, q_b, kv_b, gate_up, lm_head   rows of the weight  [n/tp, k]
//     |    o, down                                columns             [n, k/tp]
//     v
//   Work: node by node, a Kernel, its phase and its layer
//
// Extents are ragged in the graph, so it is built once for all layouts.

#ifndef SIM_WORKLOAD_MODEL_GRAPH_H_
#define SIM_WORKLOAD_MODEL_GRAPH_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"

namespace strata::sim {

// Where a node stands: kEmbedding, a layer from 0, or kOutput.
inline constexpr int kEmbedding = -1;
inline constexpr int kOutput = -2;

struct NodePlace {
  int layer = kEmbedding;
  int gate = -1;   // Whose experts' rows it works on; -1: none's.
  int fused = -1;  // Products that real kernels do at once, as of q, k and
                   // v, have the same number here; -1: it is one by itself.
};

// One choice of experts: a layer's, or a tier's.
struct Gate {
  int layer = 0;
  int tier = 0;
  int64_t num_experts = 0;
  double rows_per_token = 0;  // Expected: k, or between k_min and k_max.
};

class ModelGraph {
 public:
  // Returns INVALID_ARGUMENT if the config is not valid.
  static absl::StatusOr<ModelGraph> Create(const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  const Graph& graph() const { return graph_; }
  const NodePlace& place(NodeId node) const { return place_[node]; }

  // Whether extent `dim` of a value is cut by tensor parallelism (of experts,
  // where these use it).
  bool IsCut(ValueId value, int dim) const { return (cut_[value] >> dim) & 1; }
  // Of layers in order, tiers in order.
  const std::vector<Gate>& gates() const { return gates_; }
  // The gate whose experts get the rows that `count` counts; -1: it counts
  // tokens.
  int GateOfCount(ValueId count) const;

  // Parameters of each layer, and of embedding and output; of experts apart.
  struct Parameters {
    double dense_cut = 0;    // Divided by TP,
    double dense_whole = 0;  // and not.
    double experts = 0;
    double total() const { return dense_cut + dense_whole + experts; }
  };
  const Parameters& parameters(int layer) const {
    return parameters_[layer < 0 ? -layer - 1 : layer + 2];
  }

  // Multiplies and adds of the products of one sequence, all layers, forward
  // and gradients, times two; attention's by causal pairs. No recomputation.
  struct Flops {
    double products = 0;
    double causal_attention = 0;
  };
  Flops FlopsOfSequence(int64_t sequence) const;

 private:
  ModelGraph() = default;

  void Place();
  void SpreadCuts();
  void Fuse();
  void CountParameters();
  uint8_t CutOf(const Node& node, int output) const;

  ModelConfig config_;
  Graph graph_;
  std::vector<NodePlace> place_;  // [nodes]
  std::vector<uint8_t> cut_;      // [values], a bit a dimension
  std::vector<Gate> gates_;
  absl::flat_hash_map<ValueId, int> gate_of_count_;
  std::vector<Parameters> parameters_;  // embedding, output, layers
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_MODEL_GRAPH_H_
