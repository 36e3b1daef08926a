#include "sim/workload/stage_times.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel/pipeline_schedule.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layer_cost.h"
#include "sim/workload/layout.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/step_parts.h"

namespace strata::sim {
namespace {

void Hold(const ModelGraph::Parameters& p, const Layout& layout, Stage& stage) {
  stage.parameters.dense += p.dense_cut / layout.tensor + p.dense_whole;
  stage.parameters.experts += p.experts / layout.ExpertGroup();
}

}  // namespace

std::vector<Stage> MakeStages(const ModelGraph& model, const Layout& layout,
                              PipelineKind schedule, const ModelCost& cost) {
  const int64_t num_layers = model.config().num_layers();
  const int64_t num_stages = schedule == PipelineKind::kDualPipe
                                 ? layout.pipeline
                                 : layout.pipeline * layout.Chunks(schedule);
  const std::vector<int64_t> layers = LayersOfStages(num_layers, num_stages);
  std::vector<Stage> stages(num_stages);
  int64_t next = 0;
  for (int64_t s = 0; s < num_stages; ++s) {
    stages[s].layers = layers[s];
    for (int64_t l = 0; l < layers[s]; ++l, ++next) {
      stages[s].cost += cost.layers[next];
      Hold(model.parameters(static_cast<int>(next)), layout, stages[s]);
    }
  }
  Stage& first = stages.front();
  first.cost += cost.embedding;
  Hold(model.parameters(kEmbedding), layout, first);
  Stage& last = stages.back();
  last.cost += cost.output;
  Hold(model.parameters(kOutput), layout, last);
  // A prediction module more: a layer like the last, and the output again.
  for (int64_t i = 0; i < layout.mtp_layers; ++i) {
    last.cost += cost.layers.back();
    last.cost += cost.output;
    Hold(model.parameters(static_cast<int>(num_layers - 1)), layout, last);
  }
  return stages;
}

// Of a family's kernels, which take `seconds` alone.
double StageTimes::Paced(int family, double seconds) const {
  // Attention is one long kernel a layer, without gaps.
  if (family == static_cast<int>(Family::kAttention)) return seconds;
  const bool product = family == static_cast<int>(Family::kMatMul) ||
                       family == static_cast<int>(Family::kExperts);
  return seconds / (efficiency_ * (product ? constants_.product_share : 1));
}

double StageTimes::Paced(const PhaseCost& cost) const {
  double sum = 0;
  for (int f = 0; f < kNumFamilies; ++f) sum += Paced(f, cost.seconds[f]);
  return sum;
}

void StageTimes::AddCompute(const PhaseCost& cost, Parts& parts) const {
  for (int f = 0; f < kNumFamilies; ++f) {
    parts[kMatMulPart + f] += Paced(f, cost.seconds[f]);
  }
}

// Share of the SMs that a collective takes from the kernels beside it.
double StageTimes::LentShare() const {
  return machine_.num_sms > constants_.collective_sms
             ? constants_.collective_sms / machine_.num_sms
             : 0;
}

// TP's communication under the products that are cut into pieces for it.
double StageTimes::ExposedTensor(double comm, double products) const {
  if (!layout_.overlap_tensor) return comm;
  return comm - std::min(products, comm * constants_.tensor_overlap_share);
}

// Dispatch and combine under `compute`: what is left is seen, and while both
// run the kernels lack the SMs that the collective has.
void StageTimes::Overlap(double comm, double compute, Parts& parts) const {
  const double hidden = std::min(comm, compute);
  parts[kExpertCommPart] += comm - hidden;
  parts[kLentSmsPart] += hidden * LentShare();
}

// Dispatch and combine of a micro-batch, under the other's compute or not.
void StageTimes::AddExperts(const CommCost& comm, double compute,
                            Parts& parts) const {
  parts[kCountsPart] = comm.counts * constants_.row_count_seconds;
  if (layout_.overlap_expert) {
    Overlap(comm.expert, compute, parts);
  } else {
    parts[kExpertCommPart] = comm.expert;
  }
}

// Gathering a stage's weights layer by layer, where they are cut over data
// parallel ranks; the first layer's are always seen.
void StageTimes::AddShard(int stage, double compute, double rounds,
                          Parts& parts) const {
  if (layout_.zero < 3) return;
  const double comm = rounds * stages_[stage].shard_seconds;
  const double layers =
      static_cast<double>(std::max<int64_t>(1, stages_[stage].layers));
  parts[kShardPart] = std::max(comm - compute, comm / layers);
}

Parts StageTimes::Forward(int stage) const {
  const LayerCost& s = stages_[stage].cost;
  Parts parts = {};
  AddCompute(s.forward, parts);
  const double compute = Sum(parts);
  parts[kTensorPart] = ExposedTensor(s.forward_comm.tensor, parts[kMatMulPart]);
  parts[kContextPart] = s.forward_comm.context;
  AddExperts(s.forward_comm, compute, parts);
  AddShard(stage, compute, 1, parts);
  return parts;
}

Parts StageTimes::InputGrad(int stage) const {
  const LayerCost& s = stages_[stage].cost;
  Parts parts = {};
  AddCompute(s.input_grad, parts);
  parts[kRecomputePart] = Paced(s.recompute);
  const double weights = Paced(s.weight_grad);
  const double compute = Sum(parts) + weights;
  parts[kTensorPart] =
      ExposedTensor(s.backward_comm.tensor, parts[kMatMulPart] + weights);
  parts[kContextPart] = s.backward_comm.context;
  AddExperts(s.backward_comm, compute, parts);
  AddShard(stage, compute, 2, parts);
  return parts;
}

Parts StageTimes::WeightGrad(int stage) const {
  Parts parts = {};
  AddCompute(stages_[stage].cost.weight_grad, parts);
  return parts;
}

void StageTimes::AddStageOwn(const PipelineItem& item, double hop,
                             Parts& parts) const {
  if (layout_.pipeline < 2) return;
  const int hops =
      (item.has_forward() ? 1 : 0) + (item.has_input_grad() ? 1 : 0);
  const int programs = hops + (item.has_weight_grad() ? 1 : 0);
  parts[kHostPart] += programs * constants_.program_seconds;
  if (layout_.blocking_hops) parts[kHopPart] += hops * hop;
}

Parts StageTimes::Pair(int forward_stage, int backward_stage) const {
  Parts parts = Forward(forward_stage);
  parts += InputGrad(backward_stage);
  parts += WeightGrad(backward_stage);
  const double comm = stages_[forward_stage].cost.forward_comm.expert +
                      stages_[backward_stage].cost.backward_comm.expert;
  double compute = 0;
  for (int p = kMatMulPart; p <= kRecomputePart; ++p) compute += parts[p];
  parts[kExpertCommPart] = 0;
  parts[kLentSmsPart] = 0;
  parts[kCountsPart] = 0;  // The other direction's kernels are queued.
  Overlap(comm, compute, parts);
  return parts;
}

}  // namespace strata::sim
