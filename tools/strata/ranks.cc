#include "tools/strata/ranks.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/observed_communicator.h"
#include "tools/strata/cuda_device.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/balance/balance_rule.h"
#include "training/distributed/launched.h"
#include "training/distributed/mpi_communicator.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/trace/execution_recorder.h"

namespace strata {
namespace {

constexpr int kErrorExitCode = 1;

}  // namespace

void AddMesh(OptionParser& app, MeshFlags& flags) {
  app.AddOption("--dp", flags.shape.dp,
                "Ranks that share out the micro-batches of a step, processes "
                "that mpirun started: mpirun -np 4 strata train --dp 4")
      ->TypeName("N")
      ->Check(AtLeast(1));
  app.AddOption(
         "--ep", flags.shape.ep,
         "Ranks that share out the experts of each gate, and micro-batches "
         "too: mpirun -np 8 strata train --dp 2 --ep 4")
      ->TypeName("N")
      ->Check(AtLeast(1));
  app.AddOption("--pp", flags.shape.pp,
                "Ranks of the pipeline, each of which has part of the layers; "
                "of the ranks, dp x ep x pp, a stage has dp x ep")
      ->TypeName("N")
      ->Check(AtLeast(1));
  app.AddOption("--schedule", flags.schedule,
                "The order in which a rank of the pipeline runs micro-batches; "
                "the last three give it several stages, dualpipe each stage to "
                "two ranks")
      ->Check(OneOf({"gpipe", "1f1b", "zb-h1", "zb1p", "interleaved",
                     "dualpipe", "dualpipev"}));
  app.AddOption("--chunks", flags.chunks,
                "Stages of a rank, with --schedule=interleaved (default: 2)")
      ->TypeName("N")
      ->Check(AtLeast(1))
      ->ShowDefault("");
  app.AddFlag("--shard-optimizer", flags.shard_optimizer,
              "Each rank holds the optimizer's moments of some parameters and "
              "updates those (ZeRO-1)");
  app.AddFlag("--overlap-sums", flags.overlap_sums,
              "Sum gradients over ranks beside the backward pass of a step's "
              "last micro-batch, whose activations then have memory of their "
              "own; with --pp beside all that a stage's rank still does");
  app.AddFlag("--overlap-rows", flags.overlap_rows,
              "Send rows to the experts of other ranks beside other work of "
              "the same micro-batch (shared experts, weight gradients), and in "
              "pairs of DualPipe and DualPipeV of the other one, for more "
              "memory");
  app.AddOption("--rebalance", flags.rebalance,
                "When experts move between the ranks of --ep, to even out what "
                "they do: never, alarm (the spread of their utilisation is "
                "above 0.15), or every so many steps")
      ->TypeName("WHEN");
  app.AddOption("--spare-experts", flags.spare_experts,
                "Slots of each rank and gate for copies of experts that have "
                "much to do; with --rebalance")
      ->TypeName("N")
      ->Check(AtLeast(0));
  app.AddOption("--move-bytes", flags.move_bytes,
                "The most that moves between two steps; what is left goes on "
                "after the next")
      ->TypeName("N")
      ->Check(AtLeast(1));
  app.AddOption("--move-seconds", flags.move_seconds,
                "Likewise, in time; without --spare-experts")
      ->TypeName("SECONDS")
      ->Check(BetweenNumbers(0.001, 86400));
  app.AddOption("--timeout", flags.timeout,
                "How long a rank waits for the others before it gives up; a "
                "validation must fit into it")
      ->TypeName("SECONDS")
      ->Check(BetweenNumbers(0.001, 86400));
}

absl::StatusOr<BalanceRule> BalanceOf(const MeshFlags& flags) {
  ASSIGN_OR_RETURN(BalanceRule rule, ParseBalanceRule(flags.rebalance));
  rule.spare = flags.spare_experts;
  rule.max_bytes = flags.move_bytes;
  rule.max_seconds = flags.move_seconds;
  return rule;
}

absl::StatusOr<std::unique_ptr<Ranks>> Ranks::Join(
    const MeshFlags& flags, bool on_gpus, bool traced,
    const std::vector<Setting>& settings) {
  const int launched = NumLaunchedRanks();
  const int wanted = flags.shape.size();
  if (launched == 1 && wanted == 1) return nullptr;
  if (launched == 1 && NumLonelyTasks() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "srun started ", NumLonelyTasks(),
        " tasks that do not know of each other; start them by srun "
        "--mpi=pmix"));
  }
  if (launched == 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the mesh ", ToText(flags.shape), " has ", wanted,
        " ranks, and 1 process is here; start it by mpirun -np ", wanted));
  }
  auto ranks = std::make_unique<Ranks>();
  ASSIGN_OR_RETURN(ranks->mpi_, MpiWorld::Start(absl::Seconds(flags.timeout)));
  const absl::Status opened = ranks->Open(flags, on_gpus, traced, settings);
  if (!opened.ok()) {
    ranks->Fail(opened);
    return opened;
  }
  return ranks;
}

absl::Status Ranks::CheckSame(const std::vector<Setting>& settings) const {
  return strata::CheckSame(settings, mpi_->world());
}

absl::Status Ranks::Open(const MeshFlags& flags, bool on_gpus, bool traced,
                         const std::vector<Setting>& settings) {
  RETURN_IF_ERROR(CheckSame(settings));
  ASSIGN_OR_RETURN(const PipelineOptions pipeline,
                   ParsePipeline(flags.schedule, flags.chunks));
  RETURN_IF_ERROR(CheckPipeline(pipeline, flags.shape));
  MeshShape shape = flags.shape;
  shape.mirrored = IsMirrored(pipeline.schedule);
  Communicator* world = &mpi_->world();
  if (on_gpus) {
    gpu_ = LaunchedRankOfMachine();
    ASSIGN_OR_RETURN(
        gpus_, JoinGpus(mpi_->world(), gpu_, absl::Seconds(flags.timeout)));
    world = gpus_.get();
  }
  if (traced) {
    recorder_ = std::make_unique<ExecutionRecorder>(world->rank());
    traced_ = Observed(*world, *recorder_);
    world = traced_.get();
  }
  ASSIGN_OR_RETURN(mesh_, Mesh::Create(*world, shape));
  return absl::OkStatus();
}

void Ranks::Fail(const absl::Status& status) {
  const int rank = mpi_->world().rank();
  absl::SleepFor(TurnToSpeak(rank));
  if (mpi_->ClaimLastWord()) {
    PrintError(rank == 0 ? std::string(status.message())
                         : absl::StrCat("rank ", rank, ": ", status.message()));
  }
  FlushOutput();
  mpi_->Abort(kErrorExitCode);
}

}  // namespace strata
