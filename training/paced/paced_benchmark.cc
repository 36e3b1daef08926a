// bazel run -c opt //training/paced:paced_benchmark [-- SECONDS]
//
// Steps of meshes of up to eight ranks (threads) whose operators take their
// cost in time, beside what the graphs and the schedule predict, and beside the
// simulator's replay of the traces that they left; then bubbles beside the
// closed formulas, where only the operators of blocks cost time, so that stages
// are even. Sleeps most of the time: ranks may be more than cores. SECONDS (20)
// is the step of one rank; eight take an eighth, or somewhat more. An exchange
// takes time of its own, up to a millisecond on a busy machine, and a step of
// many ranks has hundreds: the longer steps are, the less that counts.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/data/corpus.h"
#include "training/paced/paced_example.h"
#include "training/paced/paced_rank.h"
#include "training/paced/paced_run.h"

namespace strata {
namespace {

constexpr double kOneRankSeconds = 20;

constexpr PipelineKind kKinds[] = {
    PipelineKind::kGPipe,      PipelineKind::k1F1B,
    PipelineKind::kZbH1,       PipelineKind::kZb1p,
    PipelineKind::kDualPipe,   PipelineKind::kDualPipeV,
    PipelineKind::kInterleaved};

// Whether eight layers and eight micro-batches a step are enough for it; of
// meshes that have more than stages, GPipe and ZB1P are left out.
bool IsMeasured(const MeshShape& shape, PipelineKind kind) {
  if (shape.pp == 1) return kind == PipelineKind::k1F1B;
  const int micro_batches = 8 / (shape.dp * shape.ep);
  switch (kind) {
    case PipelineKind::k1F1B:
    case PipelineKind::kZbH1:
      return true;
    case PipelineKind::kGPipe:
    case PipelineKind::kZb1p:
      return shape.pp == shape.size();
    case PipelineKind::kInterleaved:
      return shape.pp <= 4 && micro_batches % shape.pp == 0;
    case PipelineKind::kDualPipe:
    case PipelineKind::kDualPipeV:
      return shape.pp <= 4 && micro_batches >= 2 * shape.pp;
  }
  return false;
}

struct Row {
  std::string name;
  double paced = 0;
  double predicted = 0;
};

double PercentOff(double predicted, double measured) {
  return 100 * (predicted / measured - 1);
}

absl::StatusOr<Row> MeasureMesh(const Corpus& corpus, double one_rank_seconds,
                                const MeshShape& shape, PipelineKind kind) {
  PacedSetup setup = PacedExample(shape, kind);
  ASSIGN_OR_RETURN(setup.pace, PaceOf(setup, one_rank_seconds));
  ASSIGN_OR_RETURN(const StepPrediction predicted, PredictPaced(setup));
  ASSIGN_OR_RETURN(
      const PacedRun run,
      RunPaced(setup, corpus, PacedRank::Clock::kReal, /*num_steps=*/1));
  ASSIGN_OR_RETURN(const double replayed, ReplaySeconds(run.traces));
  Row row;
  row.name = ToText(shape);
  if (shape.pp > 1) absl::StrAppend(&row.name, " ", Name(kind));
  row.paced = run.step_seconds;
  row.predicted = predicted.step_seconds;
  std::cout << absl::StrFormat(
                   "%-32s %7.3f %10.3f %+6.2f %% %9.3f %+6.2f %% %8.2f\n",
                   row.name, row.paced, row.predicted,
                   PercentOff(row.predicted, row.paced), replayed,
                   PercentOff(replayed, row.paced), 1e3 * run.lateness)
            << std::flush;
  return row;
}

// Pairs of meshes of which the one that was predicted to be faster was slower,
// among those that were predicted to be at least 1 % apart.
int WrongPairs(const std::vector<Row>& rows, int& pairs) {
  int wrong = 0;
  pairs = 0;
  for (const Row& a : rows) {
    for (const Row& b : rows) {
      if (a.predicted * 1.01 > b.predicted) continue;
      ++pairs;
      if (a.paced >= b.paced) ++wrong;
    }
  }
  return wrong;
}

absl::Status MeasureBubble(const Corpus& corpus, double one_rank_seconds,
                           int stages, PipelineKind kind) {
  PacedSetup setup = PacedExample({1, 1, stages}, kind);
  setup.pace.scope = "model.layers.";
  ASSIGN_OR_RETURN(setup.pace, PaceOf(setup, one_rank_seconds));
  // What a rank has of a micro-batch, in one stage or several.
  PacedSetup of_one_stage = setup;
  of_one_stage.schedule = PipelineKind::k1F1B;
  ASSIGN_OR_RETURN(const StepPrediction stage, PredictPaced(of_one_stage));
  ASSIGN_OR_RETURN(
      const PacedRun run,
      RunPaced(setup, corpus, PacedRank::Clock::kReal, /*num_steps=*/1));
  const double busy = static_cast<double>(setup.train.accumulation()) *
                      (stage.forward + stage.input_grad + stage.weight_grad);
  const double bubble = run.step_seconds - busy - stage.update;
  const double formula = FormulaBubble(kind, stages, stage);
  std::cout << absl::StrFormat("pp %d %-11s %7.3f %7.3f %+6.2f %%\n", stages,
                               Name(kind), bubble, formula,
                               PercentOff(formula, bubble))
            << std::flush;
  return absl::OkStatus();
}

absl::Status Run(double one_rank_seconds) {
  ASSIGN_OR_RETURN(const Corpus corpus, PacedCorpus());
  std::cout << "seconds a step                     paced  predicted   error  "
               "replayed   error   late, ms\n";
  std::vector<Row> rows;
  const std::vector<MeshShape> shapes = {
      {1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {4, 1, 1}, {1, 4, 1},
      {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {1, 2, 2}, {8, 1, 1}, {1, 8, 1},
      {1, 1, 8}, {2, 2, 2}, {1, 2, 4}, {4, 1, 2}};
  for (const MeshShape& shape : shapes) {
    for (const PipelineKind kind : kKinds) {
      if (!IsMeasured(shape, kind)) continue;
      ASSIGN_OR_RETURN(rows.emplace_back(),
                       MeasureMesh(corpus, one_rank_seconds, shape, kind));
    }
  }
  double worst = 0;
  for (const Row& row : rows) {
    worst = std::max(worst, std::abs(PercentOff(row.predicted, row.paced)));
  }
  int pairs = 0;
  const int wrong = WrongPairs(rows, pairs);
  std::cout << absl::StrFormat(
      "largest error %.2f %%; of %d pairs that are predicted to be 1 %% apart "
      "or more, %d in the wrong order\n\nseconds of bubble       paced formula "
      "  "
      "error\n",
      worst, pairs, wrong);
  for (const int stages : {2, 4, 8}) {
    for (const PipelineKind kind : kKinds) {
      if (kind == PipelineKind::kDualPipe || kind == PipelineKind::kDualPipeV ||
          !IsMeasured({1, 1, stages}, kind)) {
        continue;
      }
      RETURN_IF_ERROR(MeasureBubble(corpus, one_rank_seconds, stages, kind));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  double seconds = strata::kOneRankSeconds;
  CHECK(argc < 2 || (absl::SimpleAtod(argv[1], &seconds) && seconds > 0))
      << "want seconds of one rank's step";
  const absl::Status status = strata::Run(seconds);
  CHECK(status.ok()) << status.ToString();
}
