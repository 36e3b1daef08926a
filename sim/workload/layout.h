// How a model is laid over a cluster: the degrees of each kind of parallelism.
//
//   "pp16,ep64,gbs15360,mbs1,seq4096,zero1,recompute=selective,fp8,deepep"
//
//   word             meaning                                       default
//   tpN cpN ppN dpN  tensor, context, pipeline, data parallel      1; dp: rest
//   epN etpN         expert parallel; tensor parallel of an expert 1
//   vpN              chunks of layers a device (interleaving)      1
//   mbsN gbsN seqN   sequences of a micro-batch, of a step; tokens 1, dp, 4096
//   zero0 1 2 3      what is sharded over dp: nothing, the         zero1
//                    optimizer, gradients too, the weights too
//   sp               sequence parallel: what TP leaves whole is    off
//                    cut by tokens
//   recompute=...    none; selective (norms, activations, MLA's    none
//                    up-projections); moe (norms, whole mixtures
//                    of experts, dispatch included); full; torch
//                    (full, but a checkpoint of PyTorch's ends at
//                    the last tensor that gradients read, before
//                    the combine)
//   bf16, fp8        of the layers' products                       bf16
//   fp8d             experts' dispatch in FP8, else BF16           off
//   act8             SwiGLU's inputs are kept in FP8                off
//   deepep           experts' dispatch once a node, on few SMs;    off
//                    else an all-to-all-v
//   tpo, epo         TP's, EP's communication overlaps products    off
//   ptb              attention and MLP side by side: TP            off
//                    communicates once a layer, not twice
//   ppb              hops of the pipeline block both devices      off
//   dps              DP's communication after the last backward,   off
//                    not under it
//   grad16           gradients are added up and reduced in BF16    off
//   mom16            Adam's moments are BF16                       off
//   w16              weights are BF16, without FP32 masters        off
//   loss32           the loss by separate FP32 kernels, as         off
//                    Megatron's without fusion; else one kernel
//   ebias            experts have biases, which separate kernels    off
//                    add expert by expert
//   mtpN             multi-token-prediction layers                 0
//
// Ranks, from the fastest: tp, cp, dp, pp. An expert group is ep * etp
// neighbours of one stage, so the groups fold (experts need not follow tp).

#ifndef SIM_WORKLOAD_LAYOUT_H_
#define SIM_WORKLOAD_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata::sim {

enum class Recompute { kNone, kSelective, kMoe, kFull, kTorch };

absl::string_view Name(Recompute recompute);

struct Layout {
  int64_t tensor = 1;
  int64_t context = 1;
  int64_t pipeline = 1;
  int64_t data = 0;  // 0: not given; LayoutFor says it.
  int64_t expert = 1;
  int64_t expert_tensor = 1;
  int64_t chunks = 1;
  int64_t micro_batch = 1;
  int64_t global_batch = 0;  // 0: likewise.
  int64_t sequence = 4096;
  int64_t zero = 1;
  bool sequence_parallel = false;
  Recompute recompute = Recompute::kNone;
  bool fp8 = false;
  bool fp8_dispatch = false;
  bool fp8_activations = false;
  bool deep_ep = false;
  bool overlap_tensor = false;
  bool overlap_expert = false;
  bool parallel_block = false;
  bool blocking_hops = false;
  bool sequential_data = false;
  bool bf16_gradients = false;
  bool bf16_moments = false;
  bool bf16_weights = false;
  bool unfused_loss = false;
  bool expert_bias = false;
  int64_t mtp_layers = 0;

  int64_t RanksPerStage() const { return tensor * context * data; }
  int64_t Ranks() const { return RanksPerStage() * pipeline; }
  int64_t MicroBatches() const { return global_batch / (data * micro_batch); }
  int64_t Chunks(PipelineKind kind) const;  // A device.
  // Of one rank and micro-batch, before TP cuts them.
  int64_t TokensPerRank() const { return micro_batch * sequence / context; }
  bool RecomputesLayers() const {
    return recompute == Recompute::kFull || recompute == Recompute::kTorch;
  }
  bool RecomputesExperts() const {
    return recompute == Recompute::kMoe || RecomputesLayers();
  }
  int64_t ExpertGroup() const { return expert * expert_tensor; }
  // Ranks that hold the same experts.
  int64_t ExpertData() const { return RanksPerStage() / ExpertGroup(); }
};

// Returns INVALID_ARGUMENT, with the word and what is wanted, for a word that
// is none of the above, a number out of 1 to 2^20, or a word given twice.
absl::StatusOr<Layout> ParseLayout(absl::string_view text);

// The words that ParseLayout reads, without those at their default.
std::string ToString(const Layout& layout);

// `layout` with dp and gbs filled in for a cluster of `num_ranks`.
//
// Returns INVALID_ARGUMENT, with the numbers, if the degrees do not make up the
// cluster, or do not divide what they cut: heads, widths, experts, layers,
// sequence, batch.
absl::StatusOr<Layout> LayoutFor(Layout layout, const ModelConfig& model,
                                 PipelineKind schedule, int64_t num_ranks);

// How many layers each of `num_stages` stages has. What does not divide is
// missing at the ends, where embedding and output are: the last stage first.
std::vector<int64_t> LayersOfStages(int64_t num_layers, int64_t num_stages);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_LAYOUT_H_
