// The trainer of one machine: batches in, steps of AdamW, validation,
// checkpoints.
//
//   ASSIGN_OR_RETURN(auto trainer, Trainer::Create(model, train, &corpus, 2));
//   while (!trainer->done()) {
//     ASSIGN_OR_RETURN(const StepMetrics metrics, trainer->Step());
//   }
//   RETURN_IF_ERROR(trainer->SaveCheckpoint("runs/demo").status());
//
// A step is a pure function of the state before it, the seed and the step's
// number, bit for bit and for any number of threads; so a run that was resumed
// equals one that never stopped.

#ifndef TRAINING_TRAINER_H_
#define TRAINING_TRAINER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/model/moe.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/passes/bf16_training.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/backend.h"
#include "core/runtime/backend_factory.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/trace/routing_replay.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"
#include "training/balance/balance_rule.h"
#include "training/balance/live_balancer.h"
#include "training/checkpoint/checkpoint_saver.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/data/sampler.h"
#include "training/expert_meter.h"
#include "training/layer_norms.h"
#include "training/metrics.h"
#include "training/pipeline/stage_evaluation.h"
#include "training/pipeline/stage_runner.h"
#include "training/routing_recording.h"
#include "training/step_graph.h"

namespace strata {

// Who chooses experts, if it is not the gates.
struct RouteOptions {
  RouteSource source = RouteSource::kGate;
  std::string replay;  // The trace, with kReplay.
};

// "gate", "forced-balance", "replay of FILE".
std::string Describe(const RouteOptions& route);

struct TrainerOptions {
  bool expose_tokens = false;  // Recordings may have tokens.
  // kBalanced is for steps and validations alike. A replay is for those that
  // `replayed` names, steps (TRAIN) or validations (EVALUATE); in the others
  // the gates choose.
  RouteOptions route = {};
  RoutingTraceHeader::Source replayed = RoutingTraceHeader::TRAIN;
  BackendFactory backend = nullptr;  // Null: the CPU, with Create's threads.
  // The ranks that train together, each stage of pp with part of the layers,
  // each rank of a stage with its share of a step's micro-batches, those of an
  // ep group each with a share of the experts. Every rank makes the same calls.
  // Null: one rank.
  const Mesh* mesh = nullptr;
  PipelineKind schedule = PipelineKind::k1F1B;  // Where pp is not 1.
  // Stages of a rank (training/pipeline/pipeline_plan.h).
  int chunks = 0;
  // Of ranks that hold the same parameters, each has the moments of some of
  // them and updates those (ZeRO-1).
  bool shard_optimizer = false;
  // Gradients are summed over ranks within the backward pass of a step's last
  // micro-batch, beside the rest of it where the backend can, instead of after
  // it. Where a rank has several micro-batches a step the last has a program,
  // and activations, of its own. In a pipeline each stage does it with its last
  // weight gradients, beside all that follows; on the CPU.
  bool overlap_sums = false;
  // Rows on their way to experts of other ranks, and back, are beside other
  // work of the same micro-batch: nodes are ordered so that there is some
  // (core/passes/hide_exchanges.h). On the CPU.
  bool overlap_rows = false;
  // Experts move between the ranks of ep as this says (training/balance).
  BalanceRule balance = {};
  DType dtype = DType::kF32;  // kF64: the reference, of no checkpoints.
  // Steps are of fused operators where the backend runs them (docs/fusion.md,
  // "Training"); for measuring what that gives.
  bool fuse = true;
  // With overlap_rows, and experts on several ranks, the forward and backward
  // of a schedule's pair are one program, so that rows of the one are beside
  // the work of the other; for its memory (docs/distributed.md). If not, they
  // are run one after the other.
  bool join_pairs = true;
};

class Trainer {
 public:
  // A model with fresh weights. `corpus` must outlive the trainer.
  //
  // Returns INVALID_ARGUMENT if a config is wrong or the corpus too short, or
  // wants BF16 state of a backend, or with options, that have none; and the
  // errors of PlanPipeline and RoutingReplay::Open.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(
      const ModelConfig& model, const TrainConfig& train, const Corpus* corpus,
      int num_threads, const TrainerOptions& options = {});

  // Goes on from a checkpoint folder (runs/demo/step-000100) whose model and
  // data must be those of this trainer.
  absl::Status Resume(const std::string& checkpoint);

  // One step of `train.accumulation` micro-batches. Allocates nothing once
  // scratch memory has grown to what the fullest experts so far need.
  //
  // Returns OUT_OF_RANGE if loss or gradient is NaN or infinite; the message
  // names the step and the operator that first made it. The weights are then
  // those before the step. A recording gets a record a micro-batch; its errors
  // are the step's, and so are those of RoutingReplay::Feed.
  absl::StatusOr<StepMetrics> Step(RoutingRecording* recording = nullptr);

  // Over train.validation_tokens of each domain. A recording gets a record a
  // batch, whose steps count from 1. Returns the errors of a replay as Step
  // does; each validation replays the trace from its first record.
  absl::StatusOr<ValidationMetrics> Validate(
      RoutingRecording* recording = nullptr);

  // Begins the trace of what Step (TRAIN) or Validate (EVALUATE) is given it
  // for. `weights_hash` may be empty. With a mesh every rank
  // begins it, for steps.
  //
  // Returns INVALID_ARGUMENT if it would replace the trace that is replayed;
  // otherwise the errors of RoutingRecording::Start.
  absl::StatusOr<std::unique_ptr<RoutingRecording>> StartRecording(
      const RecordOptions& options, RoutingTraceHeader::Source source,
      const std::string& weights_hash) const;

  // Writes <runs>/step-NNNNNN and returns that path. `manifest` goes into the
  // folder as manifest.json, with the hash of the weights. Removes the oldest
  // checkpoints beyond train.checkpoints_to_keep, after the new one is safe.
  // With a mesh each rank writes its part, and all wait for each other.
  absl::StatusOr<std::string> SaveCheckpoint(const std::string& runs,
                                             const nlohmann::json& manifest);

  // The same while steps go on: the ranks of a mesh write from a copy
  // (training/checkpoint/checkpoint_saver.h, which has the errors). One rank
  // alone writes before it returns. None must be under way.
  absl::Status BeginCheckpoint(const std::string& runs,
                               const nlohmann::json& manifest);
  // How it went, if it has ended and was not told yet.
  absl::StatusOr<std::optional<SaveReport>> PollCheckpoint(bool wait);
  // Whether there is something to poll for.
  bool is_saving() const {
    return saved_alone_.has_value() ||
           (saver_ != nullptr && saver_->is_saving());
  }

  int64_t step() const { return step_; }  // Steps done.
  bool done() const { return step_ >= train_.steps(); }
  // May be shortened or lengthened before the first step only: the learning
  // rate's schedule depends on it.
  void set_steps(int64_t steps) { train_.set_steps(steps); }
  // The rank that writes and tells; the only one without a mesh.
  bool is_first_rank() const;

  const ModelConfig& model_config() const { return model_; }
  const TrainConfig& train_config() const { return train_; }
  // Of the gradients' program: what its router outputs are called.
  const std::vector<RouterValues>& routers() const { return routers_; }
  const StateStore& state() const { return *state_; }
  StateStore& state() { return *state_; }
  Backend& backend() { return *backend_; }
  Program& gradient_program() { return *gradients_; }  // Not of a pipeline.
  // That, or those of all stages that the rank holds.
  std::vector<Program*> gradient_programs() const;
  Program& update_program() { return *update_; }
  // How experts were used in the latest step or validation.
  const ExpertMeter& meter() const { return *meter_; }
  // Moves experts as the rule says; null without one.
  const LiveBalancer* balancer() const { return balancer_.get(); }
  // FLOPs of the latest step by the graph's own cost, at its live counts.
  double StepFlops() const;

 private:
  Trainer(const ModelConfig& model, const TrainConfig& train,
          const Corpus* corpus, const TrainerOptions& options)
      : model_(model), train_(train), corpus_(corpus), options_(options) {}

  absl::Status Build(int num_threads);
  absl::Status ChooseState();
  absl::Status BuildGradients();
  absl::StatusOr<StepGraph> GradientGraph(const MeshPlace& place,
                                          const GradientSums& sums) const;
  // Those of a step's last micro-batch.
  GradientSums SumsWithin() const;
  bool JoinsPairs() const;
  absl::StatusOr<std::vector<StepGraph>> LastOfStages(
      const std::vector<StepGraph>& steps,
      const PipelineSchedule& schedule) const;
  RankSums UpdateSums() const;
  bool SumsInGradients() const;
  bool SumsToOwners() const;
  absl::Status BuildPipeline();
  absl::Status BuildUpdate();
  absl::Status BuildEvaluation();
  absl::Status BuildBalancer();
  absl::Status OpenReplay();
  bool Replays(RoutingTraceHeader::Source source) const;
  RouteSource RouteOf(RoutingTraceHeader::Source source) const;
  RoutingTraceHeader TraceHeader(RoutingTraceHeader::Source source) const;
  MeshPlace Place() const;
  // The micro-batches of a step that are this rank's: [first, end).
  int64_t FirstMicroBatch() const;
  int64_t EndMicroBatch() const;
  // Sums over the ranks what they measured in a step.
  absl::Status SumOverRanks(StepMetrics& metrics);
  absl::Status FillBatch(int64_t micro_batch, const ProgramPart& program);
  absl::Status RunMicroBatches(RoutingRecording* recording,
                               StepMetrics& metrics);
  // Adds what a program says of a micro-batch that it ran.
  void AddMetrics(const Program& program, int chunk, StepMetrics& metrics);
  absl::Status ValidateDomain(const ValidationWindows& windows, int d,
                              RoutingRecording* recording, int64_t& num_batches,
                              ExpertMeter& meter, DomainMetrics& domain);
  // Whether stage `chunk` of this rank is the pipeline's last, which has the
  // loss.
  bool IsLastStage(int chunk) const {
    return stages_[chunk] == num_stages_ - 1;
  }
  absl::Status AtThisStep(const absl::Status& status) const;
  template <typename Trace>
  void DescribeMicroBatch(int64_t micro_batch, Trace& trace) const;
  absl::Status Diagnose(const std::string& what);
  std::vector<std::pair<std::string, std::string>> CheckpointTexts(
      const std::string& of) const;
  absl::Status WriteAlone(const std::string& path,
                          const nlohmann::json& manifest);
  // Whether this rank holds a part of the model only.
  bool is_partitioned() const;
  // What one rank alone would hold: a checkpoint does not depend on the mesh.
  struct WholeState {
    Graph states;
    std::vector<std::string> model;      // Tensors of the weights' file,
    std::vector<std::string> optimizer;  // and of the optimizer's.
  };
  absl::StatusOr<const WholeState*> DescribeWhole();
  absl::Status ResumeRank(const std::string& checkpoint);
  absl::Status LoadRankTensors(const std::string& checkpoint,
                               const std::string& of);

  ModelConfig model_;
  TrainConfig train_;
  const Corpus* corpus_;
  TrainerOptions options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> gradients_;       // Null where there is a pipeline,
  std::unique_ptr<StageRunner> pipeline_;    // and the other way about.
  std::unique_ptr<Program> last_gradients_;  // With sums; null: as the others.
  std::unique_ptr<Program> update_;
  std::unique_ptr<StageEvaluation> evaluation_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<RouterValues> routers_;
  std::vector<RouterValues> evaluation_routers_;
  std::vector<int> stages_ = {0};  // Of this rank, by chunk.
  int num_stages_ = 1;
  std::vector<Graph> stage_graphs_;  // Of a pipeline: whole, by stage.
  std::vector<Shard> shards_;        // None where this rank holds all experts.
  std::vector<std::string> tied_;
  std::set<std::string> bf16_weights_;             // None with FP32 state.
  WeightState weight_state_ = WeightState::kBf16;  // Theirs.
  std::vector<int32_t> ignored_ids_;  // That a stage's graph does not read.
  std::unique_ptr<LayerNorms> layer_norms_;
  std::unique_ptr<ExpertMeter> meter_;
  std::unique_ptr<LiveBalancer> balancer_;  // Null where experts stay.
  std::unique_ptr<RoutingReplay> replay_;   // Null if there is none.
  std::unique_ptr<WholeState> whole_;       // Once it was asked for.
  std::unique_ptr<CheckpointSaver> saver_;  // Of a mesh, likewise.
  std::optional<SaveReport> saved_alone_;   // Not told yet.
  int64_t step_ = 0;
};

// The newest checkpoint under `runs`, or `runs` itself if it is one.
//
// Returns NOT_FOUND if there is none.
absl::StatusOr<std::string> FindCheckpoint(const std::string& runs);

}  // namespace strata

#endif  // TRAINING_TRAINER_H_
