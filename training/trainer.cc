#include "training/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/rank_wait.h"
#include "core/passes/bf16_training.h"
#include "core/passes/bring_together.h"
#include "core/passes/hide_exchanges.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/trace/router_tap.h"
#include "core/trace/routing_replay.h"
#include "core/trace/routing_trace.pb.h"
#include "training/config.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/pipeline/stage_runner.h"
#include "training/program_inputs.h"
#include "training/rank_state.h"
#include "training/routing_recording.h"
#include "training/schedule.h"
#include "training/stage_routers.h"
#include "training/step_graph.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// That the ranks of the mesh can share a step out.
absl::Status CheckMesh(const MeshShape& shape, const TrainConfig& train) {
  if (train.accumulation() % (shape.dp * shape.ep) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("train.accumulation is ", train.accumulation(),
                     "; want a multiple of dp x ep = ", shape.dp * shape.ep,
                     ", as ranks share out the micro-batches of a step"));
  }
  return absl::OkStatus();
}

absl::Status CheckFits(const ModelConfig& model, const TrainConfig& train,
                       const Corpus& corpus) {
  if (model.vocab_size() < corpus.vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size is ", model.vocab_size(), "; text is read as ",
                     corpus.tokenizer ? "ids of a tokenizer" : "bytes",
                     ", which wants at least ", corpus.vocab_size()));
  }
  if (train.seq_len() > model.max_seq_len()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "train.seq_len is ", train.seq_len(),
        "; want at most model.max_seq_len = ", model.max_seq_len()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(
    const ModelConfig& model, const TrainConfig& train, const Corpus* corpus,
    int num_threads, const TrainerOptions& options) {
  RETURN_IF_ERROR(strata::Validate(model));
  RETURN_IF_ERROR(strata::Validate(train));
  RETURN_IF_ERROR(CheckFits(model, train, *corpus));
  RETURN_IF_ERROR(CheckLongEnough(*corpus, train.seq_len()));
  if (options.mesh != nullptr) {
    RETURN_IF_ERROR(CheckMesh(options.mesh->shape(), train));
  }
  RETURN_IF_ERROR(strata::Validate(
      options.balance, options.mesh ? options.mesh->shape() : MeshShape()));
  auto trainer =
      std::unique_ptr<Trainer>(new Trainer(model, train, corpus, options));
  RETURN_IF_ERROR(trainer->Build(num_threads));
  return trainer;
}

absl::Status Trainer::Build(int num_threads) {
  if (options_.backend) {
    ASSIGN_OR_RETURN(backend_, options_.backend());
  } else {
    auto cpu = std::make_unique<CpuBackend>(num_threads, AllCpuKernels());
    cpu->set_mesh(options_.mesh);
    backend_ = std::move(cpu);
  }
  state_ = std::make_unique<StateStore>(*backend_);
  RETURN_IF_ERROR(ChooseState());
  RETURN_IF_ERROR(BuildGradients());
  RETURN_IF_ERROR(BuildUpdate());
  RETURN_IF_ERROR(BuildEvaluation());
  RETURN_IF_ERROR(OpenReplay());
  InitializeParameters(model_, train_.seed(), *state_);
  InitializeShards(model_, train_.seed(), shards_, *state_);

  SamplerConfig sampler;
  sampler.seed = train_.seed();
  sampler.seq_len = train_.seq_len();
  sampler.sequences_per_step = train_.batch_size() * train_.accumulation();
  ASSIGN_OR_RETURN(Sampler created, Sampler::Create(corpus_, sampler));
  sampler_ = std::make_unique<Sampler>(std::move(created));
  meter_ = std::make_unique<ExpertMeter>(model_, routers_);
  return BuildBalancer();
}

absl::Status Trainer::BuildGradients() {
  if (Place().shape.pp > 1) return BuildPipeline();
  RETURN_IF_ERROR(
      CheckPipeline({options_.schedule, options_.chunks}, Place().shape));
  const bool several = EndMicroBatch() - FirstMicroBatch() > 1;
  const bool sums = SumsInGradients() && !several;
  ASSIGN_OR_RETURN(
      StepGraph step,
      GradientGraph(Place(), sums ? SumsWithin() : GradientSums()));
  routers_ = std::move(step.routers);
  shards_ = std::move(step.shards);
  const auto compile = [&](StepGraph& graphs) {
    if (options_.expose_tokens) ExposeTokens(graphs.graph, routers_);
    return Program::Compile(std::move(graphs.graph), *backend_, *state_);
  };
  ASSIGN_OR_RETURN(gradients_, compile(step));
  FillLayout(*gradients_, train_.batch_size(), train_.seq_len());
  if (!SumsInGradients() || !several) return absl::OkStatus();
  ASSIGN_OR_RETURN(StepGraph last, GradientGraph(Place(), SumsWithin()));
  ASSIGN_OR_RETURN(last_gradients_, compile(last));
  FillLayout(*last_gradients_, train_.batch_size(), train_.seq_len());
  return absl::OkStatus();
}

GradientSums Trainer::SumsWithin() const {
  GradientSums sums;
  sums.made = true;
  sums.small_buckets = backend_->shares_host_memory();
  sums.to_owners = SumsToOwners();
  return sums;
}

absl::StatusOr<StepGraph> Trainer::GradientGraph(
    const MeshPlace& place, const GradientSums& sums) const {
  ASSIGN_OR_RETURN(
      StepGraph step,
      BuildGradientGraph(
          model_, train_.batch_size(), train_.seq_len(), options_.dtype,
          RouteOf(RoutingTraceHeader::TRAIN), place, sums,
          options_.fuse && FusesTraining(*backend_, options_.dtype)));
  // Where a device has memory of its own, it is short. A pipeline's stages run
  // weight gradients apart.
  if (!backend_->shares_host_memory() && place.shape.pp == 1) {
    step = InLessMemory(std::move(step));
  }
  if (options_.overlap_rows) {
    step.graph = HideExchanges(step.graph, backend_->flops_per_wire_byte());
  }
  ASSIGN_OR_RETURN(step, InBf16(std::move(step), bf16_weights_, weight_state_));
  if (backend_->rounds_products()) step.graph = ExpertRowsInBf16(step.graph);
  // Sums over ranks want each gradient as soon as it is there, and so do stages
  // that run weight gradients apart; what hides exchanges has an order already.
  if (!backend_->shares_host_memory() && place.shape.pp == 1 && !sums.made &&
      !options_.overlap_rows) {
    step.graph = BringTogether(step.graph);
  }
  return step;
}

bool Trainer::SumsInGradients() const {
  return options_.overlap_sums && options_.mesh != nullptr;
}

// Devices have no kernels of sums for one rank, and experts that move are
// summed up on all their ranks.
bool Trainer::SumsToOwners() const {
  return options_.shard_optimizer && options_.mesh != nullptr &&
         backend_->shares_host_memory() && !Place().slots.movable;
}

RankSums Trainer::UpdateSums() const {
  return {options_.mesh != nullptr,
          SumsInGradients(),
          options_.shard_optimizer,
          SumsToOwners(),
          Place(),
          shards_,
          tied_};
}

absl::Status Trainer::BuildUpdate() {
  const RankSums sums = UpdateSums();
  std::vector<const Graph*> gradients;
  for (const Graph& graph : stage_graphs_) gradients.push_back(&graph);
  if (gradients_ != nullptr) gradients.push_back(&gradients_->graph());
  ASSIGN_OR_RETURN(Graph graph, BuildUpdateGraph(gradients, model_, train_,
                                                 sums, options_.dtype));
  ASSIGN_OR_RETURN(update_, Program::Compile(UpdateInBf16(graph, bf16_weights_,
                                                          weight_state_),
                                             *backend_, *state_));
  SetScalar(*update_, "divisor", static_cast<double>(train_.accumulation()));
  layer_norms_ = std::make_unique<LayerNorms>(
      *update_, model_.num_layers(), sums.place.shape,
      options_.mesh != nullptr ? &options_.mesh->world() : nullptr,
      sums.to_owners);
  return absl::OkStatus();
}

// Says to a recording or a replay what the micro-batch is.
template <typename Trace>
void Trainer::DescribeMicroBatch(int64_t micro_batch, Trace& trace) const {
  trace.Begin(step_ + 1, micro_batch);
  for (int64_t s = 0; s < train_.batch_size(); ++s) {
    trace.AddSequence(
        train_.seq_len(),
        sampler_->DomainOf(step_, micro_batch * train_.batch_size() + s));
  }
}

absl::Status Trainer::FillBatch(int64_t micro_batch,
                                const ProgramPart& program) {
  // A part of a graph may have none of what is filled.
  const auto span = [&](absl::string_view name) {
    return program.HasInput(name) ? program.Input(name).span<int32_t>()
                                  : absl::MakeSpan(ignored_ids_);
  };
  if (program.HasInput("ids") || program.HasInput("target")) {
    ignored_ids_.resize(train_.batch_size() * train_.seq_len());
    sampler_->Fill(step_, micro_batch * train_.batch_size(), span("ids"),
                   span("target"));
  }
  if (program.HasInput("keep")) {
    SetScalar(program, "keep", micro_batch == FirstMicroBatch() ? 0 : 1);
  }
  if (program.HasInput("tau")) {
    SetScalar(program, "tau",
              AnnealedTau(model_.moe().hierarchical(), train_, step_ + 1));
  }
  if (!Replays(RoutingTraceHeader::TRAIN)) return absl::OkStatus();
  DescribeMicroBatch(micro_batch, *replay_);
  return replay_->Feed(program.program());
}

void Trainer::AddMetrics(const Program& program, int chunk,
                         StepMetrics& metrics) {
  if (IsLastStage(chunk)) {
    metrics.loss +=
        Scalar(program, "loss") / static_cast<double>(train_.accumulation());
    metrics.total_loss += Scalar(program, "total_loss") /
                          static_cast<double>(train_.accumulation());
  }
  // Tokens count once, at the last stage.
  meter_->Add(program,
              IsLastStage(chunk) ? train_.batch_size() * train_.seq_len() : 0);
}

absl::Status Trainer::RunMicroBatches(RoutingRecording* recording,
                                      StepMetrics& metrics) {
  if (pipeline_ != nullptr) {
    absl::Status recorded;
    RETURN_IF_ERROR(pipeline_->Run(
        [&](int m, const ProgramPart& program) {
          return FillBatch(FirstMicroBatch() + m, program);
        },
        [&](int m, int chunk, const Program& forward) {
          AddMetrics(forward, chunk, metrics);
          if (recording == nullptr || !recorded.ok()) return;
          DescribeMicroBatch(FirstMicroBatch() + m, *recording);
          recorded = recording->Finish(forward, chunk);
        }));
    RETURN_IF_ERROR(recorded);
    return recording != nullptr ? recording->Gather() : absl::OkStatus();
  }
  for (int64_t m = FirstMicroBatch(); m < EndMicroBatch(); ++m) {
    const bool is_last = m == EndMicroBatch() - 1;
    Program& gradients =
        is_last && last_gradients_ != nullptr ? *last_gradients_ : *gradients_;
    RETURN_IF_ERROR(FillBatch(m, gradients));
    RETURN_IF_ERROR(gradients.Run());
    AddMetrics(gradients, /*chunk=*/0, metrics);
    if (recording != nullptr) {
      DescribeMicroBatch(m, *recording);
      RETURN_IF_ERROR(recording->Finish(gradients));
    }
  }
  return recording != nullptr ? recording->Gather() : absl::OkStatus();
}

absl::StatusOr<StepMetrics> Trainer::Step(RoutingRecording* recording) {
  const Clock::time_point start = Clock::now();
  const double waited_before = RankWait::Seconds();
  StepMetrics metrics;
  metrics.step = step_ + 1;
  metrics.tokens =
      train_.batch_size() * train_.accumulation() * train_.seq_len();
  meter_->Reset();
  RETURN_IF_ERROR(AtThisStep(RunMicroBatches(recording, metrics)));
  RETURN_IF_ERROR(AtThisStep(SumOverRanks(metrics)));
  if (!std::isfinite(metrics.total_loss)) {
    return Diagnose(absl::StrCat("loss is ", metrics.total_loss));
  }
  metrics.learning_rate = LearningRate(train_, step_ + 1);
  SetScalar(*update_, "learning_rate", metrics.learning_rate);
  *update_->Input("step").as<int32_t>() = static_cast<int32_t>(step_ + 1);
  RETURN_IF_ERROR(AtThisStep(update_->Run()));
  metrics.grad_norm = Scalar(*update_, "grad_norm");
  if (!std::isfinite(metrics.grad_norm)) {
    return Diagnose(absl::StrCat("gradient norm is ", metrics.grad_norm));
  }
  RETURN_IF_ERROR(
      AtThisStep(layer_norms_->Read(*update_, metrics.layer_grad_norms)));
  ++step_;
  metrics.experts = meter_->Use();
  if (balancer_ != nullptr) {
    RETURN_IF_ERROR(balancer_->AfterStep(step_, *meter_, metrics.moves));
  }
  metrics.seconds = SecondsSince(start);
  metrics.waited = RankWait::Seconds() - waited_before;
  return metrics;
}

absl::Status Trainer::AtThisStep(const absl::Status& status) const {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("step ", step_ + 1, ": ", status.message()));
}

absl::Status Trainer::Diagnose(const std::string& what) {
  if (pipeline_ != nullptr) {
    return absl::OutOfRangeError(
        absl::StrCat("step ", step_ + 1, ": ", what,
                     "; train without --pp to learn which operator made it"));
  }
  // The same micro-batches again, looking at every value.
  if (Replays(RoutingTraceHeader::TRAIN)) RETURN_IF_ERROR(replay_->Rewind());
  for (int64_t m = FirstMicroBatch(); m < EndMicroBatch(); ++m) {
    RETURN_IF_ERROR(FillBatch(m, *gradients_));
    const absl::Status status = gradients_->RunChecked();
    if (status.ok()) continue;
    return absl::OutOfRangeError(absl::StrCat("step ", step_ + 1, ": ", what,
                                              "; first at ", status.message()));
  }
  return absl::OutOfRangeError(
      absl::StrCat("step ", step_ + 1, ": ", what,
                   ", though every operator's result is finite",
                   options_.mesh != nullptr ? " on this rank" : ""));
}

bool Trainer::is_first_rank() const {
  return options_.mesh == nullptr || options_.mesh->world().rank() == 0;
}

MeshPlace Trainer::Place() const {
  if (options_.mesh == nullptr) return {};
  return {options_.mesh->shape(), options_.mesh->dp().rank(),
          options_.mesh->ep().rank(), options_.mesh->pp().rank(),
          options_.balance.slots()};
}

int64_t Trainer::FirstMicroBatch() const {
  if (options_.mesh == nullptr) return 0;
  const Communicator& ranks = options_.mesh->batch();
  return train_.accumulation() * ranks.rank() / ranks.size();
}

int64_t Trainer::EndMicroBatch() const {
  if (options_.mesh == nullptr) return train_.accumulation();
  const Communicator& ranks = options_.mesh->batch();
  return train_.accumulation() * (ranks.rank() + 1) / ranks.size();
}

absl::Status Trainer::SumOverRanks(StepMetrics& metrics) {
  if (options_.mesh == nullptr) return absl::OkStatus();
  // Of stages, the last has the loss, and each the loads of its gates.
  Communicator& ranks = options_.mesh->world();
  double sums[] = {metrics.loss, metrics.total_loss};
  RETURN_IF_ERROR(
      ranks.AllReduce(PayloadOf(absl::MakeSpan(sums)), ReduceOp::kSum));
  metrics.loss = sums[0];
  metrics.total_loss = sums[1];
  return meter_->SumOverRanks(ranks);
}

absl::StatusOr<std::unique_ptr<RoutingRecording>> Trainer::StartRecording(
    const RecordOptions& options, RoutingTraceHeader::Source source,
    const std::string& weights_hash) const {
  CHECK(options_.expose_tokens || !options.tokens)
      << "the trainer exposes no tokens";
  std::error_code ignored;
  if (replay_ != nullptr && std::filesystem::equivalent(
                                options.path, options_.route.replay, ignored)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--record-routing ", options.path,
                     " is the trace that is replayed; want another file"));
  }
  const bool evaluates = source == RoutingTraceHeader::EVALUATE;
  RoutingTraceHeader header = TraceHeader(source);
  header.set_weights_hash(weights_hash);
  std::vector<StageTap> taps;  // By chunk.
  const auto add = [&](const Graph& graph,
                       const std::vector<RouterValues>& routers) {
    taps.push_back(
        {stages_[taps.size()],
         RouterTap(graph, RoutersIn(graph, routers), options.tokens)});
  };
  if (evaluates) {
    for (int chunk = 0; chunk < evaluation_->num_stages(); ++chunk) {
      add(evaluation_->program(chunk).graph(), evaluation_routers_);
    }
  } else if (pipeline_ != nullptr) {
    for (const int stage : stages_) {
      // These are by stage.
      const auto before = std::count_if(stages_.begin(), stages_.end(),
                                        [&](int s) { return s < stage; });
      add(stage_graphs_[before], routers_);
    }
  } else {
    add(gradients_->graph(), routers_);
  }
  return RoutingRecording::Start(options, std::move(header), std::move(taps),
                                 train_.batch_size() * train_.seq_len(),
                                 options_.mesh);
}

double Trainer::StepFlops() const {
  if (pipeline_ != nullptr) {
    return pipeline_->StepFlops() +
           CostOf(update_->graph(), update_->LiveBinding()).flops;
  }
  return static_cast<double>(train_.accumulation()) *
             CostOf(gradients_->graph(), gradients_->LiveBinding()).flops +
         CostOf(update_->graph(), update_->LiveBinding()).flops;
}

}  // namespace strata
