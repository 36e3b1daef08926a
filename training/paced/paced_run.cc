#include "training/paced/paced_run.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/observed_communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "core/parallel/split_backward.h"
#include "core/parallel/thread_communicator.h"
#include "core/passes/partition/cut_graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/observed_backend.h"
#include "core/tensor/dtype.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/replay/replay.h"
#include "training/paced/graph_walk.h"
#include "training/paced/paced_rank.h"
#include "training/paced/paced_setup.h"
#include "training/paced/predict_several_stages.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/step_graph.h"
#include "training/trace/execution_recorder.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr double kPicosecondsPerSecond = 1e12;
constexpr double kNoCostGbPerSecond = 1e6;

struct RankResult {
  double seconds = 0;  // Of all steps.
  double lateness = 0;
  double exposed = 0;
  std::string trace;
};

absl::StatusOr<RankResult> RunRank(const PacedSetup& setup,
                                   const Corpus& corpus, PacedRank::Clock clock,
                                   int num_steps, Communicator& rank) {
  PacedRank pacer(setup.pace, clock);
  // The recorder is told last of what ends, when the pacer knows how late it
  // is, and goes by that clock.
  ExecutionRecorder recorder(rank.rank(), [&pacer] { return pacer.Now(); });
  const std::unique_ptr<Communicator> paced = Observed(rank, pacer);
  const std::unique_ptr<Communicator> world = Observed(*paced, recorder);
  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh,
                   Mesh::Create(*world, setup.shape));
  TrainerOptions options;
  options.mesh = mesh.get();
  options.schedule = setup.schedule;
  options.overlap_sums = setup.overlap_sums;
  options.overlap_rows = setup.overlap_rows;
  options.join_pairs = setup.join_pairs;
  options.shard_optimizer = setup.shard_optimizer;
  options.route.source = RouteSource::kBalanced;
  options.backend = [&]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    auto cpu = std::make_unique<CpuBackend>(/*num_threads=*/1, AllCpuKernels());
    cpu->set_mesh(mesh.get());
    return Observed(Observed(std::move(cpu), pacer), recorder);
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                   Trainer::Create(setup.model, setup.train, &corpus,
                                   /*num_threads=*/1, options));
  RETURN_IF_ERROR(trainer->Step().status());
  RETURN_IF_ERROR(rank.Barrier());
  pacer.Start();
  recorder.Start();
  for (int step = 0; step < num_steps; ++step) {
    RETURN_IF_ERROR(trainer->Step().status());
  }
  RETURN_IF_ERROR(world->Barrier());
  recorder.Stop();
  return RankResult{pacer.Now(), pacer.lateness(), pacer.exposed(),
                    recorder.Serialize()};
}

// Seconds of the graph's nodes by phase.
struct PhaseSeconds {
  double forward = 0;
  double input_grad = 0;
  double weight_grad = 0;

  double all() const { return forward + input_grad + weight_grad; }
};

PhaseSeconds SecondsOf(const Graph& graph, const PacedSetup& setup) {
  const Binding binding = EvenLoads(graph, setup.shape.ep);
  PhaseSeconds seconds;
  for (const Node& node : graph.nodes()) {
    double& phase = node.phase == Phase::kForward     ? seconds.forward
                    : node.phase == Phase::kInputGrad ? seconds.input_grad
                                                      : seconds.weight_grad;
    phase += PacedSeconds(setup.pace, node, CostOf(graph, node, binding));
  }
  return seconds;
}

int64_t Picoseconds(double seconds) {
  return std::llround(seconds * kPicosecondsPerSecond);
}

struct Pipelined {
  PipelineSchedule schedule;
  PipelineTimeline timeline;
};

absl::StatusOr<Pipelined> Timeline(const PacedSetup& setup,
                                   int num_micro_batches,
                                   const std::vector<PhaseSeconds>& stages) {
  PipelineShape shape;
  shape.kind = setup.schedule;
  shape.num_devices = setup.shape.pp;
  shape.num_micro_batches = num_micro_batches;
  ASSIGN_OR_RETURN(PipelineSchedule schedule, MakePipelineSchedule(shape));
  SplitBackward(schedule);
  PipelineCosts costs;
  costs.duration = [&](int device, const PipelineItem& item) {
    const PhaseSeconds& stage = stages[device];
    return Picoseconds((item.has_forward() ? stage.forward : 0) +
                       (item.has_input_grad() ? stage.input_grad : 0) +
                       (item.has_weight_grad() ? stage.weight_grad : 0));
  };
  ASSIGN_OR_RETURN(PipelineTimeline timeline, RunPipeline(schedule, costs));
  return Pipelined{std::move(schedule), std::move(timeline)};
}

// When a stage's sums, of the graph's last piece, are done, where it begins
// them with its last weight gradients.
absl::StatusOr<double> SumsEnd(const PacedSetup& setup, const RankSums& update,
                               const Pipelined& run) {
  const int stage = update.place.pp_rank;
  GradientSums sums;
  sums.made = sums.small_buckets = true;
  sums.to_owners = setup.shard_optimizer;
  sums.elsewhere = update.LeavesToUpdate();
  ASSIGN_OR_RETURN(const StepGraph step,
                   PacedGradients(setup, update.place, sums));
  ASSIGN_OR_RETURN(const std::vector<GraphPiece> pieces,
                   SplitPhases(step.graph));
  const Graph& weight_grad = pieces.back().graph;
  const GraphSeconds seconds = WalkGraph(weight_grad, setup.pace, setup.shape,
                                         EvenLoads(weight_grad, setup.shape.ep),
                                         /*waits_at_end=*/false);
  const int last = LastWeightGrads(run.schedule, stage)[0];
  return static_cast<double>(run.timeline.items[stage][last].start) /
             kPicosecondsPerSecond +
         seconds.lanes;
}

}  // namespace

absl::StatusOr<PacedRun> RunPaced(const PacedSetup& setup, const Corpus& corpus,
                                  PacedRank::Clock clock, int num_steps) {
  const auto world =
      ThreadCommunicators(setup.shape.size(), absl::Seconds(120));
  std::vector<absl::StatusOr<RankResult>> results(world.size(), RankResult());
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      results[rank->rank()] = RunRank(setup, corpus, clock, num_steps, *rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
  PacedRun run;
  for (absl::StatusOr<RankResult>& result : results) {
    RETURN_IF_ERROR(result.status());
    run.step_seconds = std::max(run.step_seconds, result->seconds / num_steps);
    run.lateness = std::max(run.lateness, result->lateness);
    run.exposed_seconds +=
        result->exposed / num_steps / static_cast<double>(world.size());
    run.traces.push_back(std::move(result->trace));
  }
  return run;
}

absl::StatusOr<double> ReplaySeconds(const std::vector<std::string>& traces,
                                     double wire_bytes_per_second) {
  const auto num_ranks = static_cast<int>(traces.size());
  chakra::Workload workload;
  for (int rank = 0; rank < num_ranks; ++rank) {
    ASSIGN_OR_RETURN(chakra::TraceReader reader,
                     chakra::TraceReader::FromBytes(
                         chakra::TracePath("paced", rank), traces[rank]));
    ASSIGN_OR_RETURN(chakra::RankTrace trace,
                     chakra::LoadRank(std::move(reader)));
    workload.ranks.push_back(std::move(trace));
  }
  ASSIGN_OR_RETURN(sim::ClusterConfig config, sim::ClusterPreset("h100"));
  config.mutable_nodes(0)->set_count((num_ranks + 7) / 8);
  sim::DimensionConfig& network = *config.add_dimension();
  network.set_kind(sim::DimensionConfig::SWITCH);
  network.set_size(config.nodes(0).count() * 8);
  network.set_gb_per_s(wire_bytes_per_second > 0 ? wire_bytes_per_second / 1e9
                                                 : kNoCostGbPerSecond);
  ASSIGN_OR_RETURN(const sim::Cluster cluster, sim::Cluster::Create(config));
  ASSIGN_OR_RETURN(const sim::ReplayResult result,
                   sim::ReplayTraces(workload, cluster, {}));
  return static_cast<double>(result.total) / kPicosecondsPerSecond;
}

absl::StatusOr<StepPrediction> PredictPaced(const PacedSetup& setup) {
  if (setup.shape.pp > 1 && HasSeveralStages(setup.schedule)) {
    if (setup.overlap_sums) {
      return absl::UnimplementedError(
          absl::StrCat("ranks have several stages under ", Name(setup.schedule),
                       "; want no overlap_sums"));
    }
    StepPrediction prediction;
    ASSIGN_OR_RETURN(prediction.step_seconds, PredictSeveralStages(setup));
    return prediction;
  }
  const int batch_ranks = setup.shape.dp * setup.shape.ep;
  const auto micro_batches =
      static_cast<int>(setup.train.accumulation() / batch_ranks);
  StepPrediction prediction;
  std::vector<PhaseSeconds> stages;
  std::vector<RankSums> stage_sums;
  GraphSeconds alone;  // A micro-batch without stages.
  GraphSeconds update_seconds;
  for (int stage = 0; stage < setup.shape.pp; ++stage) {
    MeshPlace place;
    place.shape = setup.shape;
    place.pp_rank = stage;
    ASSIGN_OR_RETURN(const StepGraph step, PacedGradients(setup, place, {}));
    RankSums sums;
    sums.over_ranks = true;
    sums.in_gradients = setup.overlap_sums;
    sums.shard_optimizer = sums.to_owners = setup.shard_optimizer;
    sums.place = place;
    sums.shards = step.shards;
    sums.tied = step.tied;
    ASSIGN_OR_RETURN(
        const Graph update,
        BuildUpdateGraph(step.graph, setup.model, setup.train, sums));
    const PhaseSeconds seconds = SecondsOf(step.graph, setup);
    if (stages.empty() || seconds.all() > prediction.forward +
                                              prediction.input_grad +
                                              prediction.weight_grad) {
      prediction.forward = seconds.forward;
      prediction.input_grad = seconds.input_grad;
      prediction.weight_grad = seconds.weight_grad;
    }
    stages.push_back(seconds);
    stage_sums.push_back(std::move(sums));
    alone = Walk(step.graph, setup);
    update_seconds = Walk(update, setup);
    prediction.update = std::max(prediction.update, update_seconds.all);
  }
  if (setup.shape.pp > 1) {
    ASSIGN_OR_RETURN(const Pipelined run,
                     Timeline(setup, micro_batches, stages));
    const PipelineTimeline& timeline = run.timeline;
    int64_t idle = timeline.total;
    for (int stage = 0; stage < setup.shape.pp; ++stage) {
      idle = std::min(idle, timeline.Idle(stage));
    }
    prediction.bubble = static_cast<double>(idle) / kPicosecondsPerSecond;
    double end = static_cast<double>(timeline.total) / kPicosecondsPerSecond;
    for (const RankSums& sums : stage_sums) {
      if (!setup.overlap_sums) break;
      ASSIGN_OR_RETURN(const double done, SumsEnd(setup, sums, run));
      end = std::max(end, done);
    }
    prediction.step_seconds = end + prediction.update;
    return prediction;
  }
  GraphSeconds last = alone;
  if (setup.overlap_sums) {
    MeshPlace place;
    place.shape = setup.shape;
    const GradientSums sums = {/*made=*/true, /*small_buckets=*/true,
                               setup.shard_optimizer};
    ASSIGN_OR_RETURN(const StepGraph step, PacedGradients(setup, place, sums));
    last = Walk(step.graph, setup);
  }
  prediction.step_seconds =
      (micro_batches - 1) * alone.all + last.all + update_seconds.all;
  prediction.exposed_seconds = (micro_batches - 1) * alone.exposed +
                               last.exposed + update_seconds.exposed;
  return prediction;
}

double FormulaBubble(PipelineKind kind, int num_stages,
                     const StepPrediction& stage) {
  const bool splits =
      kind == PipelineKind::kZbH1 || kind == PipelineKind::kZb1p;
  const int chunks = kind == PipelineKind::kInterleaved ? 2 : 1;
  return (num_stages - 1) *
         (stage.forward + stage.input_grad - (splits ? stage.weight_grad : 0)) /
         chunks;
}

}  // namespace strata
