// Sums of costs: over the layers of a stage.

#include <algorithm>

#include "sim/workload/kernel_times.h"
#include "sim/workload/layer_cost.h"

namespace strata::sim {

PhaseCost& PhaseCost::operator+=(const PhaseCost& other) {
  for (int f = 0; f < kNumFamilies; ++f) seconds[f] += other.seconds[f];
  flops += other.flops;
  nodes += other.nodes;
  pieces += other.pieces;
  return *this;
}

CommCost& CommCost::operator+=(const CommCost& other) {
  tensor += other.tensor;
  expert += other.expert;
  context += other.context;
  counts += other.counts;
  bytes_tensor += other.bytes_tensor;
  bytes_expert += other.bytes_expert;
  return *this;
}

LayerCost& LayerCost::operator+=(const LayerCost& other) {
  forward += other.forward;
  input_grad += other.input_grad;
  weight_grad += other.weight_grad;
  recompute += other.recompute;
  forward_comm += other.forward_comm;
  backward_comm += other.backward_comm;
  activation_bytes += other.activation_bytes;
  made_again_bytes = std::max(made_again_bytes, other.made_again_bytes);
  return *this;
}

}  // namespace strata::sim
