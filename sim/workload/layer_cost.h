// What one rank does in each layer for one micro-batch: seconds by phase and
// family, bytes that it keeps for the gradients, what it communicates.
//
//   model graph, layout, loads of experts, times of kernels, network
//     |
//     |  node by node (model_graph.h): sizes cut by TP, rows of experts by EP
//     v
//   LayerCost of embedding, layers, output
//
// Rules, where the graph leaves a choice:
//   - products that share an input (q, k, v) are one product;
//   - sums of gradients are epilogues of the products that make them;
//   - scalars are free;
//   - FP8 operands are made by norms and activations, else by a kernel that
//     reads BF16 and writes FP8 as it is and transposed;
//   - gradients of weights are added to those of the micro-batches before;
//   - experts: the rank with the most rows sets the pace, since combine waits
//     for all; its rows, its time;
//   - CP: a rank does 1/cp of attention's pairs (zig-zag).

#ifndef SIM_WORKLOAD_LAYER_COST_H_
#define SIM_WORKLOAD_LAYER_COST_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/workload/comm_times.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layout.h"
#include "sim/workload/machine.h"
#include "sim/workload/model_graph.h"

namespace strata::sim {

struct PhaseCost {
  std::array<double, kNumFamilies> seconds = {};  // By Family.
  double flops = 0;  // Of this rank's products and attention.
  double nodes = 0;  // Of the graph, that the host launches.
  // Rows of an expert from a rank, or with a bias, that the host handles apart.
  double pieces = 0;

  double HostSeconds(const TrainingConstants& constants) const {
    return nodes * constants.host_seconds_per_node +
           pieces * constants.host_seconds_per_piece;
  }

  double total() const {
    double sum = 0;
    for (const double s : seconds) sum += s;
    return sum;
  }
  PhaseCost& operator+=(const PhaseCost& other);
};

// Seconds of communication, each alone on the network.
struct CommCost {
  double tensor = 0;   // TP's all-gathers and reduce-scatters (or all-reduces).
  double expert = 0;   // Dispatch and combine.
  double context = 0;  // Keys and values between CP's ranks.
  double counts = 0;   // Times that the host reads rows of experts back.
  double bytes_tensor = 0;  // Sent by a rank.
  double bytes_expert = 0;

  double total() const { return tensor + expert + context; }
  CommCost& operator+=(const CommCost& other);
};

struct LayerCost {
  PhaseCost forward;
  PhaseCost input_grad;
  PhaseCost weight_grad;
  // Done again before the gradients.
  PhaseCost recompute;
  CommCost forward_comm;
  CommCost backward_comm;
  double activation_bytes = 0;  // Kept from forward to gradients.
  // What recomputation makes, there during the gradients: of a layer, and of
  // several the most.
  double made_again_bytes = 0;

  LayerCost& operator+=(const LayerCost& other);
};

struct ModelCost {
  LayerCost embedding;
  LayerCost output;
  std::vector<LayerCost> layers;
  // Of kernels: errors weighted by time, by family; and shapes that the
  // calibration does not cover.
  std::array<double, kNumFamilies> error = {};
  double seconds_outside_range = 0;
  double seconds = 0;
  std::string widest_outside;  // The kernel outside with the most time.
  // Of experts' ranks: the largest number of rows over the mean, averaged over
  // gates.
  double expert_max_over_mean = 1;
};

struct CostInputs {
  const ModelGraph* model = nullptr;
  const Layout* layout = nullptr;
  const KernelTimes* kernels = nullptr;
  const CommTimes* network = nullptr;
  const ExpertLoads* loads = nullptr;
  TrainingConstants constants = {};
};

// Returns the error of a kernel or a collective, if one has any.
absl::StatusOr<ModelCost> CostOfModel(const CostInputs& inputs);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_LAYER_COST_H_
