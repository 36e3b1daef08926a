// bazel run -c opt //training/paced:overlap_benchmark
//     [-- SECONDS SHARE N PP SCHEDULE]
//
// What a step's exchanges cost where the network takes its time: sums of
// gradients after the backward pass and beside it (--overlap-sums), to all
// ranks and to owners (--shard-optimizer), rows of experts too (--overlap-rows,
// with a shared expert of the width of one), as paced ranks have it and as the
// graphs predict it, and the simulator's replay of what was recorded. Exposed
// is what the device stands still for; ranks are threads that really exchange,
// and sleep most of the time.
//
// SECONDS (8) is the step of one rank; the network is such that all gradients
// take SHARE (0.1) of that to leave a rank once. Each row is measured N (3)
// times, in turns: mean and standard deviation. Of meshes with PP (1) ranks of
// a pipeline or more; what these wait for are one another too, so that steps
// alone are told. SCHEDULE: of no other.
//
// Of schedules with pairs, of 16 micro-batches, rows alone are beside anything:
// other work of their own micro-batch, and in pairs that are one program that
// of the other's.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "training/data/corpus.h"
#include "training/paced/paced_example.h"
#include "training/paced/paced_rank.h"
#include "training/paced/paced_run.h"
#include "training/step_graph.h"

namespace strata {
namespace {

struct Options {
  double one_rank_seconds = 8;
  double share = 0.1;
  int repeats = 3;
  int least_pp = 1;
  std::string schedule;  // Empty: all.
};

enum class Exchanges { kAfter, kBeside, kBesideInPairs };

constexpr absl::string_view kNames[] = {"after", "beside", "in pairs"};

bool HasPairs(PipelineKind schedule) {
  return schedule == PipelineKind::kDualPipe ||
         schedule == PipelineKind::kDualPipeV;
}

struct Row {
  PacedSetup setup;
  Exchanges exchanges = Exchanges::kAfter;
  StepPrediction predicted;
  std::vector<double> step, exposed;  // [repeats]
  double replayed = 0;
  double lateness = 0;
};

// "0.812 +- 0.003"
std::string Spread(const std::vector<double>& x) {
  double mean = 0, square = 0;
  for (const double v : x) mean += v / static_cast<double>(x.size());
  for (const double v : x) square += (v - mean) * (v - mean);
  return absl::StrFormat(
      "%.3f +- %.3f", mean,
      x.size() > 1 ? std::sqrt(square / static_cast<double>(x.size() - 1)) : 0);
}

absl::StatusOr<Row> RowOf(const Options& options, const MeshShape& shape,
                          PipelineKind schedule, Exchanges exchanges,
                          bool to_owners) {
  const bool beside = exchanges != Exchanges::kAfter;
  Row row;
  row.exchanges = exchanges;
  row.setup = PacedExample(shape, schedule);
  if (HasPairs(schedule)) row.setup.train.set_accumulation(16);
  row.setup.overlap_sums = beside && !HasPairs(schedule);
  row.setup.overlap_rows = beside && shape.ep > 1;
  row.setup.join_pairs = exchanges == Exchanges::kBesideInPairs;
  row.setup.model.mutable_moe()->set_shared_width(
      row.setup.model.moe().expert_width());
  row.setup.shard_optimizer = to_owners;
  ASSIGN_OR_RETURN(row.setup.pace, PaceOf(row.setup, options.one_rank_seconds));
  ASSIGN_OR_RETURN(const StepGraph whole,
                   BuildGradientGraph(row.setup.model, /*num_sequences=*/1,
                                      row.setup.train.seq_len()));
  row.setup.pace.wire_bytes_per_second =
      static_cast<double>(CountElements(whole.graph, Role::kParameter)) *
      SizeOf(DType::kF32) / (options.share * options.one_rank_seconds);
  ASSIGN_OR_RETURN(row.predicted, PredictPaced(row.setup));
  return row;
}

absl::Status Run(const Options& options) {
  ASSIGN_OR_RETURN(const Corpus corpus, PacedCorpus());
  std::vector<Row> rows;
  constexpr PipelineKind k1F1B = PipelineKind::k1F1B;
  const std::vector<std::pair<MeshShape, PipelineKind>> meshes = {
      {{2, 1, 1}, k1F1B},
      {{4, 1, 1}, k1F1B},
      {{8, 1, 1}, k1F1B},
      {{1, 2, 1}, k1F1B},
      {{2, 2, 1}, k1F1B},
      {{2, 1, 2}, k1F1B},
      {{2, 1, 2}, PipelineKind::kZbH1},
      {{4, 1, 2}, k1F1B},
      {{2, 1, 4}, k1F1B},
      {{2, 1, 4}, PipelineKind::kZbH1},
      {{1, 2, 2}, PipelineKind::kDualPipe},
      {{1, 2, 4}, PipelineKind::kDualPipe},
      {{1, 2, 2}, PipelineKind::kDualPipeV},
      {{1, 2, 4}, PipelineKind::kDualPipeV}};
  for (const auto& [shape, schedule] : meshes) {
    if (shape.pp < options.least_pp) continue;
    if (!options.schedule.empty() && options.schedule != Name(schedule)) {
      continue;
    }
    for (const bool to_owners : {false, true}) {
      if (to_owners && shape.ep > 1) continue;
      for (const Exchanges exchanges :
           {Exchanges::kAfter, Exchanges::kBeside, Exchanges::kBesideInPairs}) {
        if (exchanges == Exchanges::kBesideInPairs && !HasPairs(schedule)) {
          continue;
        }
        ASSIGN_OR_RETURN(rows.emplace_back(),
                         RowOf(options, shape, schedule, exchanges, to_owners));
      }
    }
  }
  for (int turn = 0; turn < options.repeats; ++turn) {
    for (Row& row : rows) {
      ASSIGN_OR_RETURN(const PacedRun run,
                       RunPaced(row.setup, corpus, PacedRank::Clock::kReal,
                                /*num_steps=*/1));
      row.step.push_back(run.step_seconds);
      row.exposed.push_back(run.exposed_seconds);
      row.lateness = std::max(row.lateness, run.lateness);
      ASSIGN_OR_RETURN(
          row.replayed,
          ReplaySeconds(run.traces, row.setup.pace.wire_bytes_per_second));
    }
  }
  std::cout << "seconds a step                                    exposed, "
               "paced   predicted  step, paced      predicted  replayed  late, "
               "ms\n";
  for (const Row& row : rows) {
    const bool is_pipeline = row.setup.shape.pp > 1;
    std::cout << absl::StrFormat(
        "%-20s %-9s %-10s %-8s %-16s %9s  %-16s %9.3f %9s %9.1f\n",
        ToText(row.setup.shape), is_pipeline ? Name(row.setup.schedule) : "",
        row.setup.shard_optimizer ? "to owners" : "to all",
        kNames[static_cast<int>(row.exchanges)],
        is_pipeline ? "" : Spread(row.exposed),
        is_pipeline ? ""
                    : absl::StrFormat("%.3f", row.predicted.exposed_seconds),
        Spread(row.step), row.predicted.step_seconds,
        absl::StrFormat("%.3f", row.replayed), 1e3 * row.lateness);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CHECK(argc < 2 || absl::SimpleAtod(argv[1], &options.one_rank_seconds))
      << "want seconds of one rank's step";
  CHECK(argc < 3 || absl::SimpleAtod(argv[2], &options.share))
      << "want the share of it that all gradients take";
  CHECK(argc < 4 || absl::SimpleAtoi(argv[3], &options.repeats))
      << "want how often to measure";
  CHECK(argc < 5 || absl::SimpleAtoi(argv[4], &options.least_pp))
      << "want the least number of stages";
  if (argc > 5) options.schedule = argv[5];
  const absl::Status status = strata::Run(options);
  CHECK(status.ok()) << status.ToString();
}
