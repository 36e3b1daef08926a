#include "sim/workload/training_step.h"

#include <algorithm>
#include <array>
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
#include "sim/memory/footprint.h"
#include "sim/workload/layer_cost.h"

namespace strata::sim {
namespace {

using Kind = PipelineItem::Kind;

constexpr double kPicoseconds = 1e12;
constexpr double kBf16Bytes = 2;
constexpr double kGradientBytes = 4;
// Adam reads the gradient, the master weight and two moments in FP32, and
// writes the latter three and a BF16 weight.
constexpr double kOptimizerTraffic = 4 * 4 + 3 * 4 + 2;

// The rows of the breakdown, in their order.
enum Part {
  kMatMulPart,
  kExpertsPart,
  kAttentionPart,
  kElementwisePart,
  kRecomputePart,
  kDispatchSmsPart,
  kTensorPart,
  kExpertCommPart,
  kContextPart,
  kShardPart,
  kHostPart,
  kStragglerPart,
  kBubblePart,
  kDataPart,
  kOptimizerPart,
  kNumParts,
};
constexpr const char* kPartNames[kNumParts] = {
    "dense products",
    "experts",
    "attention",
    "norms, gates, loss",
    "recomputation",
    "SMs lent to dispatch",
    "exposed tensor parallel",
    "exposed dispatch and combine",
    "exposed context parallel",
    "exposed gathering of weights",
    "waiting for the host",
    "slow ranks' own",
    "pipeline idle",
    "exposed gradients and weights",
    "optimizer",
};
using Parts = std::array<double, kNumParts>;

double Sum(const Parts& parts) {
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

Parts& operator+=(Parts& a, const Parts& b) {
  for (int i = 0; i < kNumParts; ++i) a[i] += b[i];
  return a;
}

class Step {
 public:
  explicit Step(const StepInputs& in)
      : in_(in), layout_(in.layout), config_(in.model->config()) {}

  absl::StatusOr<StepResult> Run() {
    ASSIGN_OR_RETURN(cost_, CostOfModel({in_.model, &layout_, in_.kernels,
                                         in_.network, &in_.loads}));
    MakeStages();
    RETURN_IF_ERROR(MakeSchedule());
    RETURN_IF_ERROR(Time());
    RETURN_IF_ERROR(Synchronise());
    Summarise();
    return std::move(result_);
  }

 private:
  // --- Stages ---

  void MakeStages() {
    const int64_t pp = layout_.pipeline;
    num_stages_ = in_.schedule == PipelineKind::kDualPipe
                      ? pp
                      : pp * layout_.Chunks(in_.schedule);
    const std::vector<int64_t> layers =
        LayersOfStages(config_.num_layers(), num_stages_);
    stages_.resize(num_stages_);
    stage_parameters_.resize(num_stages_);
    int64_t next = 0;
    for (int64_t s = 0; s < num_stages_; ++s) {
      for (int64_t l = 0; l < layers[s]; ++l, ++next) {
        stages_[s] += cost_.layers[next];
        Hold(s, in_.model->parameters(static_cast<int>(next)));
      }
      layers_of_stage_.push_back(layers[s]);
    }
    stages_.front() += cost_.embedding;
    Hold(0, in_.model->parameters(kEmbedding));
    stages_.back() += cost_.output;
    Hold(num_stages_ - 1, in_.model->parameters(kOutput));
    // A prediction module more: a layer like the last, and the output again.
    for (int64_t i = 0; i < layout_.mtp_layers; ++i) {
      stages_.back() += cost_.layers.back();
      stages_.back() += cost_.output;
      Hold(num_stages_ - 1,
           in_.model->parameters(static_cast<int>(config_.num_layers() - 1)));
    }
  }

  void Hold(int64_t stage, const ModelGraph::Parameters& p) {
    HeldParameters& held = stage_parameters_[stage];
    held.dense += p.dense_cut / layout_.tensor + p.dense_whole;
    held.experts += p.experts / layout_.ExpertGroup();
  }

  // --- Durations ---

  double Efficient(double seconds) const {
    return seconds / in_.software.efficiency;
  }

  void AddCompute(const PhaseCost& cost, Parts& parts) const {
    for (int f = 0; f < kNumFamilies; ++f) {
      parts[kMatMulPart + f] += Efficient(cost.seconds[f]);
    }
  }

  // TP's communication: where it is cut into as many pieces as ranks, and each
  // passes while products run, only the first piece is sure to be seen.
  double ExposedTensor(double comm, double products) const {
    if (!layout_.overlap_tensor) return comm;
    return std::max(comm - products, comm / layout_.tensor);
  }

  double ExposedExpert(double comm, double compute) const {
    return layout_.overlap_expert ? std::max(0.0, comm - compute) : comm;
  }

  // Gathering a stage's weights layer by layer, where they are cut over data
  // parallel ranks: what the layers before do not hide.
  double ExposedShard(int stage, double compute, double rounds) const {
    if (layout_.zero < 3) return 0;
    const double comm = rounds * shard_seconds_[stage];
    const double layers = std::max<int64_t>(1, layers_of_stage_[stage]);
    return std::max(comm - compute, comm / layers);
  }

  Parts ForwardParts(int stage) const {
    const LayerCost& s = stages_[stage];
    Parts parts = {};
    AddCompute(s.forward, parts);
    const double compute = Sum(parts);
    parts[kTensorPart] =
        ExposedTensor(s.forward_comm.tensor, parts[kMatMulPart]);
    parts[kExpertCommPart] = ExposedExpert(s.forward_comm.expert, compute);
    parts[kContextPart] = s.forward_comm.context;
    parts[kShardPart] = ExposedShard(stage, compute, 1);
    return parts;
  }

  Parts InputGradParts(int stage) const {
    const LayerCost& s = stages_[stage];
    Parts parts = {};
    AddCompute(s.input_grad, parts);
    parts[kRecomputePart] = Efficient(s.recompute.total());
    const double compute = Sum(parts);
    parts[kTensorPart] = ExposedTensor(
        s.backward_comm.tensor,
        parts[kMatMulPart] +
            Efficient(
                s.weight_grad.seconds[static_cast<int>(Family::kMatMul)]));
    parts[kExpertCommPart] = ExposedExpert(s.backward_comm.expert, compute);
    parts[kContextPart] = s.backward_comm.context;
    parts[kShardPart] = ExposedShard(stage, compute, 2);
    return parts;
  }

  Parts WeightGradParts(int stage) const {
    Parts parts = {};
    AddCompute(stages_[stage].weight_grad, parts);
    return parts;
  }

  // A forward and a backward at once: dispatch and combine of one run while the
  // other computes, on the SMs that dispatch leaves.
  Parts PairParts(int forward_stage, int backward_stage) const {
    Parts parts = ForwardParts(forward_stage);
    parts += InputGradParts(backward_stage);
    parts += WeightGradParts(backward_stage);
    const double comm = stages_[forward_stage].forward_comm.expert +
                        stages_[backward_stage].backward_comm.expert;
    parts[kExpertCommPart] = 0;
    double compute = 0;
    for (int p = kMatMulPart; p <= kRecomputePart; ++p) compute += parts[p];
    // Products have fewer SMs while dispatch runs.
    const double sms = in_.machine.num_sms;
    const double lent = layout_.deep_ep && comm > 0 && sms > 0
                            ? in_.software.dispatch_sms / sms
                            : 0;
    const double slower = compute / (1 - lent);
    parts[kDispatchSmsPart] = slower - compute;
    parts[kExpertCommPart] = std::max(0.0, comm - slower);
    return parts;
  }

  // Of one stage's item, on a rank as fast as the data sheet says.
  Parts PartsOf(int device, const PipelineItem& item) const {
    const int stage = result_.schedule.StageOf(device, item.chunk);
    switch (item.kind) {
      case Kind::kForward:
        return ForwardParts(stage);
      case Kind::kBackward: {
        Parts parts = InputGradParts(stage);
        parts += WeightGradParts(stage);
        return parts;
      }
      case Kind::kInputGrad:
        return InputGradParts(stage);
      case Kind::kWeightGrad:
        return WeightGradParts(stage);
      case Kind::kForwardBackward:
        break;
    }
    return PairParts(stage,
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
  void WaitForHost(double nodes, Parts& parts) const {
    parts[kHostPart] =
        std::max(0.0, nodes * in_.software.host_seconds_per_node - Sum(parts));
  }

  double NodesOf(int device, const PipelineItem& item) const {
    const auto backward = [&](int chunk) {
      const LayerCost& s = stages_[result_.schedule.StageOf(device, chunk)];
      double nodes = 0;
      if (item.has_input_grad())
        nodes += s.input_grad.nodes + s.recompute.nodes;
      if (item.has_weight_grad()) nodes += s.weight_grad.nodes;
      return nodes;
    };
    double nodes = 0;
    if (item.has_forward()) {
      nodes =
          stages_[result_.schedule.StageOf(device, item.chunk)].forward.nodes;
    }
    return nodes + backward(item.kind == Kind::kForwardBackward
                                ? item.backward_chunk
                                : item.chunk);
  }

  // --- Pipeline ---

  absl::Status MakeSchedule() {
    PipelineShape shape;
    shape.kind = in_.schedule;
    shape.num_devices = static_cast<int>(layout_.pipeline);
    shape.num_micro_batches = static_cast<int>(layout_.MicroBatches());
    shape.num_chunks = static_cast<int>(layout_.Chunks(in_.schedule));
    shard_seconds_.assign(num_stages_, 0);
    if (layout_.zero >= 3) {
      for (int64_t s = 0; s < num_stages_; ++s) {
        ASSIGN_OR_RETURN(shard_seconds_[s], Gather(stage_parameters_[s]));
      }
    }
    const int middle = static_cast<int>(num_stages_ / 2);
    shape.forward = ToPicoseconds(Sum(ForwardParts(middle))) / 1000;
    shape.input_grad = ToPicoseconds(Sum(InputGradParts(middle))) / 1000;
    shape.weight_grad = ToPicoseconds(Sum(WeightGradParts(middle))) / 1000;
    ASSIGN_OR_RETURN(result_.schedule, MakePipelineSchedule(shape));
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
    const double bytes = layout_.TokensPerRank() *
                         static_cast<double>(config_.d_model()) * kBf16Bytes /
                         (layout_.sequence_parallel ? layout_.tensor : 1);
    const int64_t ranks = layout_.RanksPerStage();
    double hop = 0;
    if (layout_.pipeline > 1) {
      ASSIGN_OR_RETURN(hop, Collective(CommKind::kSendRecv, bytes, ranks, 2));
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
        WaitForHost(NodesOf(device, item), parts);
        const double plain = Sum(parts);
        const double slowdown = SlowdownOf(device);
        parts[kStragglerPart] = plain * (slowdown - 1);
        it->second = {ToPicoseconds(plain * slowdown), parts};
      }
      device_parts[device] += it->second.second;
      return it->second.first;
    };
    costs.transfer = [hop](int, int) { return ToPicoseconds(hop); };
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
          stage_parameters_[result_.schedule.StageOf(device, chunk)];
      held.dense += stage.dense;
      held.experts += stage.experts;
    }
    return held;
  }

  int64_t LayersOf(int device) const {
    int64_t layers = 0;
    for (int chunk = 0; chunk < result_.schedule.num_chunks; ++chunk) {
      layers += layers_of_stage_[result_.schedule.StageOf(device, chunk)];
    }
    return std::max<int64_t>(1, layers);
  }

  // Time of the device's last backward of each chunk, and first forward: what
  // gradients and weights may pass under.
  void Windows(int device, double& backward, double& forward) const {
    for (int chunk = 0; chunk < result_.schedule.num_chunks; ++chunk) {
      const int stage = result_.schedule.StageOf(device, chunk);
      backward += Sum(InputGradParts(stage)) + Sum(WeightGradParts(stage));
      forward += Sum(ForwardParts(stage));
    }
  }

  absl::Status Synchronise() {
    double worst = 0;
    for (int d = 0; d < layout_.pipeline; ++d) {
      const HeldParameters held = ParametersOf(d);
      double exposed = 0;
      data_bytes_ = 0;
      double backward = 0;
      double forward = 0;
      if (!layout_.sequential_data) Windows(d, backward, forward);
      const double buckets = static_cast<double>(LayersOf(d));
      if (layout_.zero >= 1) {
        ASSIGN_OR_RETURN(
            const double scatter,
            OverReplicas(CommKind::kReduceScatter, held, kGradientBytes));
        ASSIGN_OR_RETURN(const double gather, Gather(held));
        // The last bucket's gradients and the first one's weights are seen.
        exposed += std::max(scatter - backward, scatter / buckets);
        if (layout_.zero < 3) {
          exposed += std::max(gather - forward, gather / buckets);
        }
      } else {
        ASSIGN_OR_RETURN(
            const double reduce,
            OverReplicas(CommKind::kAllReduce, held, kGradientBytes));
        exposed += std::max(reduce - backward, reduce / buckets);
      }
      const double shard =
          held.dense / (layout_.zero >= 1 ? DenseReplicas() : 1) +
          held.experts / (layout_.zero >= 1 ? ExpertReplicas() : 1);
      const double update = shard * kOptimizerTraffic /
                            (in_.machine.memory_bytes_per_second *
                             in_.software.optimizer_memory_share);
      if (exposed + update > worst) {
        worst = exposed + update;
        parts_[kDataPart] = exposed;
        parts_[kOptimizerPart] = update;
        result_.bytes_data = data_bytes_;
      }
    }
    result_.seconds = result_.timeline.total / kPicoseconds + worst;
    return absl::OkStatus();
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
        double bytes = stages_[stage].activation_bytes;
        if (stage == num_stages_ - 1) {
          // The output's go as soon as they come: one micro-batch's at a time.
          output = cost_.output.activation_bytes;
          bytes -= output * (1 + layout_.mtp_layers);
        }
        activations += bytes;
      }
      memory.activation_bytes =
          activations / result_.schedule.num_chunks * device.peak_activations +
          output;
      // A layer that is made again, or worked on, at a time.
      if (layout_.recompute == Recompute::kFull) {
        memory.workspace_bytes = LargestLayerBytes();
      }
      memory.capacity = in_.machine.memory_bytes;
      device.memory = TrainingFootprint(memory);
      if (d == 0 || device.memory.total() > result_.memory.total()) {
        result_.memory = device.memory;
      }
      result_.devices.push_back(std::move(device));
    }
  }

  // Of activations of a layer while it is made again: its inputs and outputs,
  // about what its kernels move forward, once.
  double LargestLayerBytes() const {
    const double width = static_cast<double>(config_.d_model());
    return 16 * layout_.TokensPerRank() * width * kBf16Bytes /
           (layout_.sequence_parallel ? layout_.tensor : 1);
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
    // Families err apart, kernels of one family together.
    result_.error_share =
        result_.seconds > 0 ? std::sqrt(variance) / result_.seconds : 0;
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
    const std::vector<int64_t>& layers = layers_of_stage_;
    if (*std::max_element(layers.begin(), layers.end()) !=
        *std::min_element(layers.begin(), layers.end())) {
      result_.warnings.push_back(absl::StrCat(
          config_.num_layers(), " layers do not divide over ", num_stages_,
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
  int64_t num_stages_ = 1;
  ModelCost cost_;
  std::vector<LayerCost> stages_;
  std::vector<HeldParameters> stage_parameters_;
  std::vector<int64_t> layers_of_stage_;
  std::vector<double> shard_seconds_;
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
