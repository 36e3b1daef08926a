// Steps of a trainer on a mesh of threads, paced (paced_rank.h), and what they
// should take by the graphs' costs and the schedule.

#ifndef TRAINING_PACED_PACED_RUN_H_
#define TRAINING_PACED_PACED_RUN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/data/corpus.h"
#include "training/paced/paced_rank.h"
#include "training/paced/paced_setup.h"

namespace strata {

struct PacedRun {
  double step_seconds = 0;  // The mean.
  double lateness = 0;      // The most of any rank: how far to trust it.
  // Of a step, how long devices stood still for what ranks exchange; the mean
  // over ranks.
  double exposed_seconds = 0;
  // An execution trace of each rank (training/trace), of all the steps, as the
  // bytes of its file.
  std::vector<std::string> traces;
};

// Takes `num_steps` steps, behind one that is not paced.
//
// Returns the errors of Mesh::Create and of the trainer.
absl::StatusOr<PacedRun> RunPaced(const PacedSetup& setup, const Corpus& corpus,
                                  PacedRank::Clock clock, int num_steps);

// What the simulator makes of the traces, on a network of that rate for each
// rank, or without cost (0): seconds until the last rank ends.
//
// Returns the errors of chakra::LoadRank and sim::ReplayTraces.
absl::StatusOr<double> ReplaySeconds(const std::vector<std::string>& traces,
                                     double wire_bytes_per_second = 0);

struct StepPrediction {
  double step_seconds = 0;
  // Of the slowest stage and one micro-batch; of all layers without stages.
  double forward = 0;
  double input_grad = 0;
  double weight_grad = 0;  // And their sums.
  double update = 0;       // Of the slowest stage.
  // Of a step without stages, for what ranks exchange.
  double exposed_seconds = 0;
  // What the slowest stage idles until the last gradient is there.
  double bubble = 0;
};

// The same from the graphs alone: the costs of each stage's operators, at even
// loads, carried out by the schedule's timeline
// (core/parallel/pipeline_timeline.h). Exchanges take time as the pace says; of
// stages those of the update, and sums that are begun before, alone. Where a
// rank has several stages only the step is told, and exchanges of rows take
// time too (PredictSeveralStages).
//
// Returns the errors of BuildGradientGraph and MakePipelineSchedule, and
// UNIMPLEMENTED for sums that are begun before by a rank of several stages.
absl::StatusOr<StepPrediction> PredictPaced(const PacedSetup& setup);

// The bubble of even stages of these durations by a closed formula, for p
// ranks, of any schedule but DualPipe's two:
//
//   ZB-H1, ZB1P   (p - 1)(F + I - W)   core/parallel/pipeline_schedule.h
//   GPipe, 1F1B   (p - 1)(F + I)       there (p - 1)(F + I + W): a stage here
//                                      sends the gradients of its inputs before
//                                      it makes those of its weights, so the
//                                      next one never waits for W
//   interleaved   half of 1F1B's, with two chunks a rank
//
// `stage`: what a rank has of a micro-batch, in all its stages.
double FormulaBubble(PipelineKind kind, int num_stages,
                     const StepPrediction& stage);

}  // namespace strata

#endif  // TRAINING_PACED_PACED_RUN_H_
