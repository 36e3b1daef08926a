// Memory of a rank, by what it is for, against what the GPU has.
//
//   weights      BF16; cut by TP, EP, PP; over data parallel ranks with zero3
//   gradients    FP32 or BF16, as they are summed over micro-batches; with
//                zero2 cut
//   optimizer    FP32 master weight, unless BF16 weights are all there are,
//                and two moments, FP32 or BF16: 4 to 12 bytes a parameter; with
//                zero1 and above cut over data parallel ranks
//   activations  what the graph's gradients read, times the micro-batches that
//                the schedule holds (pipeline_timeline.h)
//   KV cache     serving
//   buffers      the process's context and communicators; work space: what is
//                made again of a layer, weights gathered for one
//
// Experts' parameters are cut over the ranks that hold the same experts.

#ifndef SIM_MEMORY_FOOTPRINT_H_
#define SIM_MEMORY_FOOTPRINT_H_

#include <cstdint>
#include <string>

#include "core/model/config.pb.h"

namespace strata::sim {

// CUDA context, kernels, NCCL's buffers: what nvidia-smi shows of an idle
// training process on 8 GPUs, about.
inline constexpr double kContextBytes = 3.0 * (int64_t{1} << 30);

struct Footprint {
  double weights = 0;
  double gradients = 0;
  double optimizer = 0;
  double activations = 0;
  double kv_cache = 0;
  double buffers = 0;
  double capacity = 0;

  double total() const {
    return weights + gradients + optimizer + activations + kv_cache + buffers;
  }
  bool fits() const { return total() <= capacity; }
};

// Parameters that one rank holds.
struct HeldParameters {
  double dense = 0;
  double experts = 0;
};

struct TrainingMemory {
  HeldParameters parameters;
  int64_t zero = 1;
  double dense_replicas = 1;    // Ranks with the same dense parameters,
  double expert_replicas = 1;   // and with the same experts.
  double gradient_bytes = 4;    // Of a gradient,
  double moment_bytes = 4;      // of each of two moments,
  double master_bytes = 4;      // and of the weight that they step.
  double activation_bytes = 0;  // At the peak.
  double workspace_bytes = 0;
  double capacity = 0;
};
Footprint TrainingFootprint(const TrainingMemory& memory);

// Bytes of the KV cache of one token, all layers, BF16, before TP cuts it: MLA
// keeps the latent and the rotary key.
double KvBytesPerToken(const ModelConfig& config);

// "fits: 61.2 of 80.0 GiB (weights 21.0, ...)", or "out of memory: ...".
std::string Verdict(const Footprint& footprint);

}  // namespace strata::sim

#endif  // SIM_MEMORY_FOOTPRINT_H_
