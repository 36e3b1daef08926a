#include "sim/workload/training_step.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "core/parallel/split_backward.h"
#include "sim/memory/footprint.h"
#include "sim/workload/layer_cost.h"
#include "sim/workload/stage_times.h"
#include "sim/workload/step_parts.h"

namespace strata::sim {
namespace {

using Kind = PipelineItem::Kind;

constexpr double kPicoseconds = 1e12;
constexpr double kBf16Bytes = 2;

class Step {
 public:
  explicit Step(const StepInputs& in)
      : in_(in),
        layout_(in.layout),
        config_(in.model->config()),
        constants_(in.software.On(in.machine.kind)),
        times_(layout_, in.machine, in.software.efficiency, constants_,
               stages_) {}

  absl::StatusOr<StepResult> Run() {
    ASSIGN_OR_RETURN(cost_, CostOfModel({in_.model, &layout_, in_.kernels,
                                         in_.network, &in_.loads, constants_}));
    stages_ = MakeStages(*in_.model, layout_, in_.schedule, cost_);
    RETURN_IF_ERROR(MakeSchedule());
    RETURN_IF_ERROR(Time());
    RETURN_IF_ERROR(Synchronise());
    Summarise();
    return std::move(result_);
  }

 private:
  // Of one stage's item, on a rank as fast as the data sheet says.
  Parts PartsOf(int device, const PipelineItem& item) const {
    const int stage = result_.schedule.StageOf(device, item.chunk);
    switch (item.kind) {
      case Kind::kForward:
        return times_.Forward(stage);
      case Kind::kBackward: {
        Parts parts = times_.InputGrad(stage);
        parts += times_.WeightGrad(stage);
        return parts;
      }
      case Kind::kInputGrad:
        return times_.InputGrad(stage);
      case Kind::kWeightGrad:
        return times_.WeightGrad(stage);
      case Kind::kForwardBackward:
        break;
    }
    return times_.Pair(stage,
                       result_.schedule.StageOf(device, item.backward_chunk));
  }

  double SlowdownOf(int device) const {
    if (in_.machine.slowdown.empty()) return 1;
    const int64_t ranks = layout_.RanksPerStage();
    const auto first = in_.machine.slowdown.begin() + device * ranks;
    return *std::max_element(first, first + ranks);
  }

  static int64_t ToPicoseconds(double seconds) {
    return std::llround(seconds * kPicoseconds);
  }

  // What a stage's item is lengthened by where the host cannot launch it as
  // fast as it runs.
  void WaitForHost(double host_seconds, Parts& parts) const {
    parts[kHostPart] = std::max(0.0, host_seconds - Sum(parts));
  }

  double HostSeconds(int device, const PipelineItem& item) const {
    double seconds = 0;
    const auto add = [&](const PhaseCost& phase) {
      seconds += phase.HostSeconds(constants_);
    };
    if (item.has_forward()) {
      add(stages_[result_.schedule.StageOf(device, item.chunk)].cost.forward);
    }
    const LayerCost& backward =
        stages_[result_.schedule.StageOf(device,
                                         item.kind == Kind::kForwardBackward
                                             ? item.backward_chunk
                                             : item.chunk)]
            .cost;
    if (item.has_input_grad()) {
      add(backward.input_grad);
      add(backward.recompute);
    }
    if (item.has_weight_grad()) add(backward.weight_grad);
    return seconds;
  }

  // --- Pipeline ---

  absl::Status MakeSchedule() {
    PipelineShape shape;
    shape.kind = in_.schedule;
    shape.num_devices = static_cast<int>(layout_.pipeline);
    shape.num_micro_batches = static_cast<int>(layout_.MicroBatches());
    shape.num_chunks = static_cast<int>(layout_.Chunks(in_.schedule));
    if (layout_.zero >= 3) {
      for (Stage& stage : stages_) {
        ASSIGN_OR_RETURN(stage.shard_seconds, Gather(stage.parameters));
      }
    }
    const int middle = static_cast<int>(stages_.size() / 2);
    shape.forward = ToPicoseconds(Sum(times_.Forward(middle))) / 1000;
    shape.input_grad = ToPicoseconds(Sum(times_.InputGrad(middle))) / 1000;
    shape.weight_grad = ToPicoseconds(Sum(times_.WeightGrad(middle))) / 1000;
    ASSIGN_OR_RETURN(result_.schedule, MakePipelineSchedule(shape));
    if (constants_.splits_backward > 0) SplitBackward(result_.schedule);
    return absl::OkStatus();
  }

  absl::StatusOr<double> Collective(CommKind kind, double bytes, int64_t stride,
                                    int64_t count, int64_t first = 0) {
    if (count < 2 || bytes <= 0) return 0.0;
    ASSIGN_OR_RETURN(
        const CommTime time,
        in_.network->Of({kind, bytes, static_cast<int>(first),
                         static_cast<int>(stride), static_cast<int>(count)}));
    last_bytes_ = time.bytes_sent;
    return time.seconds;
  }

  int64_t DenseReplicas() const {
    return layout_.data * layout_.context *
           (in_.schedule == PipelineKind::kDualPipe ? 2 : 1);
  }
  int64_t ExpertReplicas() const {
    return layout_.ExpertData() *
           (in_.schedule == PipelineKind::kDualPipe ? 2 : 1);
  }

  // A collective over the replicas of what is held, experts and the rest.
  absl::StatusOr<double> OverReplicas(CommKind kind, const HeldParameters& held,
                                      double bytes_each) {
    // DualPipe's second copy is on another stage; that hop goes with the rest.
    ASSIGN_OR_RETURN(const double dense,
                     Collective(kind, held.dense * bytes_each, layout_.tensor,
                                layout_.data * layout_.context));
    data_bytes_ += last_bytes_;
    last_bytes_ = 0;
    ASSIGN_OR_RETURN(const double experts,
                     Collective(kind, held.experts * bytes_each,
                                layout_.ExpertGroup(), layout_.ExpertData()));
    data_bytes_ += last_bytes_;
    last_bytes_ = 0;
    return dense + experts;
  }

  absl::StatusOr<double> Gather(const HeldParameters& held) {
    return OverReplicas(CommKind::kAllGather, held, kBf16Bytes);
  }

  absl::Status Time() {
    // Each of TP's ranks passes its part on, also where all have the whole.
    const double bytes = layout_.TokensPerRank() *
                         static_cast<double>(config_.d_model()) *
                         constants_.hop_element_bytes / layout_.tensor;
    const int64_t ranks = layout_.RanksPerStage();
    double hop = 0;
    if (layout_.pipeline > 1) {
      ASSIGN_OR_RETURN(hop, Collective(CommKind::kSendRecv, bytes, ranks, 2));
      hop += constants_.hop_seconds;
      last_bytes_ = 0;
    }
    result_.bytes_pipeline =
        2.0 * bytes * layout_.MicroBatches() * layout_.Chunks(in_.schedule);

    // Items of one kind and stage take the same time.
    std::map<std::pair<int, int>, std::pair<int64_t, Parts>> known;
    std::vector<Parts> device_parts(layout_.pipeline, Parts{});
    PipelineCosts costs;
    costs.duration = [&](int device, const PipelineItem& item) {
      const int key = (static_cast<int>(item.kind) * 4096 + item.chunk) * 2 +
                      (item.kind == Kind::kForwardBackward
                           ? item.backward_chunk != item.chunk
                           : 0);
      auto [it, inserted] = known.try_emplace({device, key});
      if (inserted) {
        Parts parts = PartsOf(device, item);
        WaitForHost(HostSeconds(device, item), parts);
        times_.AddStageOwn(item, hop, parts);
        const double plain = Sum(parts);
        const double slowdown = SlowdownOf(device);
        parts[kStragglerPart] = plain * (slowdown - 1);
        it->second = {ToPicoseconds(plain * slowdown), parts};
      }
      device_parts[device] += it->second.second;
      return it->second.first;
    };
    const double passing = layout_.blocking_hops ? 0 : hop;
    costs.transfer = [passing](int, int) { return ToPicoseconds(passing); };
    ASSIGN_OR_RETURN(result_.timeline, RunPipeline(result_.schedule, costs));

    const PipelineTimeline& timeline = result_.timeline;
    result_.busiest_device = static_cast<int>(
        std::max_element(timeline.busy.begin(), timeline.busy.end()) -
        timeline.busy.begin());
    parts_ = device_parts[result_.busiest_device];
    parts_[kBubblePart] = timeline.Idle(result_.busiest_device) / kPicoseconds;
    double idle = 0;
    for (int d = 0; d < layout_.pipeline; ++d) {
      idle += static_cast<double>(timeline.Idle(d));
    }
    result_.bubble_share =
        idle / (static_cast<double>(timeline.total) * layout_.pipeline);
    return absl::OkStatus();
  }

  // --- Gradients, weights, optimizer ---

  HeldParameters ParametersOf(int device) const {
    HeldParameters held;
    for (int chunk = 0; chunk < result_.schedule.num_chunks; ++chunk) {
      const HeldParameters& stage =
          stages_[result_.schedule.StageOf(device, chunk)].parameters;
      held.dense += stage.dense;
      held.experts += stage.experts;
    }
    return held;
  }

  // A collective of each chunk: over the replicas of what it holds.
  struct ChunkComm {
    double ready = 0;    // The first layer's bytes are there, or wanted.
    double done = 0;     // The last layer's.
    double seconds = 0;  // Of the collective.
    double layers = 1;
  };

  // Of each chunk of a device, in the order in which `kind` of its items are:
  // gradients by the last backward, weights by the first forward.
  absl::StatusOr<std::vector<ChunkComm>> ChunkComms(int device,
                                                    bool gradients) {
    std::vector<ChunkComm> chunks(result_.schedule.num_chunks);
    const std::vector<TimelineItem>& times = result_.timeline.items[device];
    for (size_t i = 0; i < times.size(); ++i) {
      const PipelineItem& item = result_.schedule.items[device][i];
      const double start = times[i].start / kPicoseconds;
      const double end = times[i].end / kPicoseconds;
      if (gradients && item.has_weight_grad()) {
        ChunkComm& c =
            chunks[item.kind == Kind::kForwardBackward ? item.backward_chunk
                                                       : item.chunk];
        c.ready = start;  // The last one's stand.
        c.done = end;
      } else if (!gradients && item.has_forward()) {
        ChunkComm& c = chunks[item.chunk];
        if (c.done == 0) {
          c.ready = start;
          c.done = end;
        }
      }
    }
    for (size_t c = 0; c < chunks.size(); ++c) {
      const int stage = result_.schedule.StageOf(device, static_cast<int>(c));
      const HeldParameters& held = stages_[stage].parameters;
      chunks[c].layers =
          static_cast<double>(std::max<int64_t>(1, stages_[stage].layers));
      if (gradients) {
        ASSIGN_OR_RETURN(
            chunks[c].seconds,
            OverReplicas(layout_.zero >= 1 ? CommKind::kReduceScatter
                                           : CommKind::kAllReduce,
                         held, GradientBytes()));
      } else if (layout_.zero >= 1 && layout_.zero < 3) {
        ASSIGN_OR_RETURN(chunks[c].seconds, Gather(held));
      }
    }
    std::sort(
        chunks.begin(), chunks.end(),
        [](const ChunkComm& a, const ChunkComm& b) { return a.done < b.done; });
    return chunks;
  }

  // Gradients leave layer by layer as the last backward of their chunk makes
  // them, one chunk's after the other's; what is still under way at the end of
  // the pipeline is seen.
  double ExposedGradients(const std::vector<ChunkComm>& chunks) const {
    double free = 0;
    for (const ChunkComm& c : chunks) {
      free = std::max(std::max(free, c.ready) + c.seconds,
                      c.done + c.seconds / c.layers);
    }
    return std::max(0.0, free - result_.timeline.total / kPicoseconds);
  }

  // Weights come layer by layer, the first forward of each chunk waits for its
  // first and goes on as the others come.
  double ExposedWeights(const std::vector<ChunkComm>& chunks) const {
    double late = 0;
    double free = 0;
    for (const ChunkComm& c : chunks) {
      late = std::max(late, free + c.seconds / c.layers - c.ready);
      free += c.seconds;
      late = std::max(late, free - c.done);
    }
    return late;
  }

  static double Total(const std::vector<ChunkComm>& chunks) {
    double sum = 0;
    for (const ChunkComm& c : chunks) sum += c.seconds;
    return sum;
  }

  absl::Status Synchronise() {
    double worst = 0;
    for (int d = 0; d < layout_.pipeline; ++d) {
      const HeldParameters held = ParametersOf(d);
      data_bytes_ = 0;
      ASSIGN_OR_RETURN(const std::vector<ChunkComm> gradients,
                       ChunkComms(d, true));
      ASSIGN_OR_RETURN(const std::vector<ChunkComm> weights,
                       ChunkComms(d, false));
      double exposed = Total(gradients) + Total(weights);
      // With zero3 each micro-batch has paid for its own.
      if (layout_.zero >= 3) {
        exposed = 0;
      } else if (!layout_.sequential_data) {
        exposed = ExposedGradients(gradients) + ExposedWeights(weights);
      }
      const double shard =
          held.dense / (layout_.zero >= 1 ? DenseReplicas() : 1) +
          held.experts / (layout_.zero >= 1 ? ExpertReplicas() : 1);
      const double update = shard * OptimizerTraffic() /
                            (in_.machine.memory_bytes_per_second *
                             constants_.optimizer_memory_share);
      if (exposed + update > worst) {
        worst = exposed + update;
        parts_[kDataPart] = exposed;
        parts_[kOptimizerPart] = update;
        result_.bytes_data = data_bytes_;
      }
    }
    parts_[kBetweenPart] = constants_.host_seconds_per_step;
    result_.seconds = result_.timeline.total / kPicoseconds + worst +
                      constants_.host_seconds_per_step;
    return absl::OkStatus();
  }

  // Bytes of a gradient as it is added up and reduced.
  double GradientBytes() const { return layout_.bf16_gradients ? 2 : 4; }
  double MomentBytes() const { return layout_.bf16_moments ? 2 : 4; }
  // Adam reads the gradient, the FP32 master weight and two moments, and writes
  // the latter three and a BF16 weight; or BF16 weights are all there are.
  double OptimizerTraffic() const {
    if (layout_.bf16_weights) {
      return GradientBytes() + 2 * kBf16Bytes + 4 * MomentBytes();
    }
    return GradientBytes() + 2 * 4 + 4 * MomentBytes() + kBf16Bytes;
  }

  // --- Summary ---

  void Summarise() {
    for (int p = 0; p < kNumParts; ++p) {
      if (parts_[p] > 0) result_.parts.push_back({kPartNames[p], parts_[p]});
    }
    const double tokens = static_cast<double>(layout_.global_batch) *
                          static_cast<double>(layout_.sequence);
    const double gpus = in_.machine.num_gpus;
    result_.tokens_per_second = tokens / result_.seconds;
    result_.tokens_per_second_per_gpu = result_.tokens_per_second / gpus;
    Flops();
    Memory();
    Bytes();
    Errors();
    result_.expert_max_over_mean = cost_.expert_max_over_mean;
    const double hours = result_.seconds / 3600;
    result_.dollars = hours * in_.machine.dollars_per_hour;
    result_.kwh = hours * in_.machine.watts / 1000;
    result_.critical_path = CriticalPathInWords();
  }

  void Flops() {
    const ModelGraph::Flops flops =
        in_.model->FlopsOfSequence(layout_.sequence);
    const double sequences = static_cast<double>(layout_.global_batch);
    // A prediction module is a layer and the output more.
    const double more = MtpFlops();
    result_.flops_causal =
        sequences * (flops.products + flops.causal_attention + more);
    result_.flops_full =
        sequences * (flops.products + 2 * flops.causal_attention + more);
    const double rate = result_.seconds * in_.machine.num_gpus;
    result_.tflops_per_gpu_causal = result_.flops_causal / rate / 1e12;
    result_.tflops_per_gpu_full = result_.flops_full / rate / 1e12;
    result_.mfu_causal = result_.flops_causal / rate / in_.machine.bf16_flops;
    result_.mfu_full = result_.flops_full / rate / in_.machine.bf16_flops;
  }

  double MtpFlops() const {
    if (layout_.mtp_layers == 0) return 0;
    const LayerCost& layer = cost_.layers.back();
    const double of_rank =
        layer.forward.flops + layer.input_grad.flops + layer.weight_grad.flops +
        cost_.output.forward.flops + cost_.output.input_grad.flops +
        cost_.output.weight_grad.flops;
    return layout_.mtp_layers * of_rank * layout_.tensor * layout_.context /
           static_cast<double>(layout_.micro_batch);
  }

  void Memory() {
    for (int d = 0; d < layout_.pipeline; ++d) {
      DeviceSummary device;
      device.busy_seconds = result_.timeline.busy[d] / kPicoseconds;
      device.idle_seconds = result_.timeline.Idle(d) / kPicoseconds;
      device.peak_activations = result_.timeline.peak_activations[d];
      TrainingMemory memory;
      memory.parameters = ParametersOf(d);
      memory.zero = layout_.zero;
      memory.dense_replicas = static_cast<double>(DenseReplicas());
      memory.expert_replicas = static_cast<double>(ExpertReplicas());
      double activations = 0;
      double output = 0;
      for (int chunk = 0; chunk < result_.schedule.num_chunks; ++chunk) {
        const int stage = result_.schedule.StageOf(d, chunk);
        double bytes = stages_[stage].cost.activation_bytes;
        if (stage == static_cast<int>(stages_.size()) - 1) {
          // The output's go as soon as they come: one micro-batch's at a time.
          output = cost_.output.activation_bytes;
          bytes -= output * (1 + layout_.mtp_layers);
        }
        activations += bytes;
      }
      memory.activation_bytes =
          activations / result_.schedule.num_chunks * device.peak_activations +
          output;
      memory.gradient_bytes = GradientBytes();
      memory.moment_bytes = MomentBytes();
      if (layout_.bf16_weights) memory.master_bytes = 0;
      memory.workspace_bytes = WorkspaceBytes(d);
      memory.capacity = in_.machine.memory_bytes;
      device.memory = TrainingFootprint(memory);
      if (d == 0 || device.memory.total() > result_.memory.total()) {
        result_.memory = device.memory;
      }
      result_.devices.push_back(std::move(device));
    }
  }

  // A layer that is made again; and weights gathered for it and the next.
  double WorkspaceBytes(int device) const {
    double again = 0;
    double gathered = 0;
    for (int chunk = 0; chunk < result_.schedule.num_chunks; ++chunk) {
      const int stage = result_.schedule.StageOf(device, chunk);
      again = std::max(again, stages_[stage].cost.made_again_bytes);
      const HeldParameters& held = stages_[stage].parameters;
      gathered =
          std::max(gathered, (held.dense + held.experts) /
                                 std::max<int64_t>(1, stages_[stage].layers));
    }
    return again + (layout_.zero >= 3 ? 2 * gathered * kBf16Bytes : 0);
  }

  void Bytes() {
    for (const LayerCost& layer : cost_.layers) {
      const double per_stage =
          layout_.MicroBatches() / static_cast<double>(layout_.pipeline);
      result_.bytes_tensor += per_stage * (layer.forward_comm.bytes_tensor * 2);
      result_.bytes_expert += per_stage * (layer.forward_comm.bytes_expert +
                                           layer.backward_comm.bytes_expert);
    }
  }

  void Errors() {
    double variance = 0;
    for (int f = 0; f < kNumFamilies; ++f) {
      const double seconds = parts_[kMatMulPart + f];
      variance += std::pow(cost_.error[f] * seconds, 2);
    }
    // Families err apart, kernels of one family together; and what the kernels'
    // errors do not explain of whole steps that were predicted unseen.
    const double kernels =
        result_.seconds > 0 ? std::sqrt(variance) / result_.seconds : 0;
    result_.error_share = std::hypot(kernels, constants_.step_error);
    result_.outside_share =
        cost_.seconds > 0 ? cost_.seconds_outside_range / cost_.seconds : 0;
    if (result_.outside_share > 0.01) {
      result_.warnings.push_back(absl::StrFormat(
          "%.0f %% of the kernels' time is of shapes that no measurement "
          "covers; the longest: %s",
          100 * result_.outside_share, cost_.widest_outside));
    }
    if (!result_.memory.fits()) {
      result_.warnings.push_back(Verdict(result_.memory));
    }
    std::vector<int64_t> layers;
    for (const Stage& stage : stages_) layers.push_back(stage.layers);
    if (*std::max_element(layers.begin(), layers.end()) !=
        *std::min_element(layers.begin(), layers.end())) {
      result_.warnings.push_back(absl::StrCat(
          config_.num_layers(), " layers do not divide over ", stages_.size(),
          " stages: they have ", absl::StrJoin(layers, " ")));
    }
  }

  std::string CriticalPathInWords() const {
    const std::vector<TimelineCause> path = result_.timeline.CriticalPath();
    std::vector<double> on_device(layout_.pipeline);
    double waited = 0;
    int64_t end = 0;
    for (const TimelineCause& at : path) {
      const TimelineItem& item = result_.timeline.items[at.device][at.index];
      on_device[at.device] += (item.end - item.start) / kPicoseconds;
      waited += (item.start - end) / kPicoseconds;
      end = item.end;
    }
    const int device =
        static_cast<int>(std::max_element(on_device.begin(), on_device.end()) -
                         on_device.begin());
    double others = 0;
    for (int d = 0; d < layout_.pipeline; ++d) {
      if (d != device) others += on_device[d];
    }
    std::string text;
    if (layout_.pipeline > 1) {
      text = absl::StrFormat(
          "%.3f s on stage %d, %.3f s on other stages while the pipeline fills "
          "and drains, %.3f s passing activations",
          on_device[device], device, others, waited);
    } else {
      text = absl::StrFormat("%.3f s of micro-batches", on_device[device]);
    }
    int longest = kMatMulPart;
    for (int p = 0; p < kBubblePart; ++p) {
      if (parts_[p] > parts_[longest]) longest = p;
    }
    absl::StrAppendFormat(
        &text,
        "; then %.3f s of gradients and weights that nothing hides, and %.3f s "
        "of optimizer. The longest part of it: %s",
        parts_[kDataPart], parts_[kOptimizerPart], kPartNames[longest]);
    return text;
  }

  const StepInputs& in_;
  const Layout& layout_;
  const ModelConfig& config_;
  const TrainingConstants constants_;
  ModelCost cost_;
  std::vector<Stage> stages_;
  const StageTimes times_;
  double last_bytes_ = 0;
  double data_bytes_ = 0;
  Parts parts_ = {};
  StepResult result_;
};

}  // namespace

absl::StatusOr<StepResult> SimulateStep(const StepInputs& inputs) {
  ASSIGN_OR_RETURN(StepResult result, Step(inputs).Run());
  // What unevenness costs: the same step without it.
  if (!inputs.loads.share.empty()) {
    StepInputs even = inputs;
    even.loads.share.clear();
    even.loads.placement.clear();
    ASSIGN_OR_RETURN(const StepResult other, Step(even).Run());
    result.imbalance_seconds = result.seconds - other.seconds;
  }
  if (!inputs.machine.slowdown.empty()) {
    StepInputs steady = inputs;
    steady.machine.slowdown.clear();
    ASSIGN_OR_RETURN(const StepResult other, Step(steady).Run());
    result.straggler_seconds = result.seconds - other.seconds;
  }
  return result;
}

}  // namespace strata::sim
