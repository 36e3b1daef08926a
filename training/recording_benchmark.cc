// What recording the routing of a training step costs.
//
//   bazel run -c opt //training:recording_benchmark
//
//   share     time of the recording's own code, frames compressed and written
//             included, over the time of the steps that it recorded
//   ratio     median step with a recording over median step without, taken in
//             turns: what a user would notice, noise included
//   KB/step   of the trace

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "benchmark/benchmark.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/model/config.h"
#include "core/trace/routing_trace.pb.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

// Text of some structure, so that gates have something to tell apart.
Corpus SyntheticCorpus() {
  std::vector<DomainDocuments> domains;
  for (int d = 0; d < 4; ++d) {
    std::string text;
    uint32_t x = 12345 + d;
    while (text.size() < 200000) {
      x = x * 1664525 + 1013904223;
      text.push_back(static_cast<char>('a' + d * 5 + (x >> 24) % 6));
      if ((x >> 16) % 7 == 0) text.push_back(' ');
    }
    domains.push_back({absl::StrFormat("domain%d", d), {{"text", text}}});
  }
  return *MakeCorpus(std::move(domains));
}

// What Trainer::Step does with a recording, for the batch just run.
absl::Status RecordLatest(Trainer& trainer, RoutingRecording& recording) {
  const TrainConfig& train = trainer.train_config();
  recording.Begin(trainer.step(), /*micro_batch=*/0);
  for (int64_t s = 0; s < train.batch_size(); ++s) {
    recording.AddSequence(train.seq_len(), /*domain=*/0);
  }
  return recording.Finish(trainer.gradient_program());
}

absl::Status Measure(benchmark::State& state, const std::string& preset,
                     RecordOptions options) {
  static const Corpus* const corpus = new Corpus(SyntheticCorpus());
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                   Trainer::Create(*ModelPreset(preset), *TrainPreset(preset),
                                   corpus, NumUsableCores(), {options.tokens}));
  // The first steps touch fresh pages and grow scratch memory.
  for (int i = 0; i < 2; ++i) RETURN_IF_ERROR(trainer->Step().status());
  options.overwrite = true;
  const std::string path =
      std::filesystem::temp_directory_path() / "strata_recording";
  const std::string direct_path = absl::StrCat(path, "_direct");
  const auto remover = absl::MakeCleanup([&] {
    std::filesystem::remove(path);
    std::filesystem::remove(direct_path);
  });
  options.path = path;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<RoutingRecording> in_step,
      trainer->StartRecording(options, RoutingTraceHeader::TRAIN, ""));
  options.path = direct_path;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<RoutingRecording> direct,
      trainer->StartRecording(options, RoutingTraceHeader::TRAIN, ""));

  std::vector<double> plain;
  std::vector<double> recorded;
  double step_seconds = 0;
  double recording_seconds = 0;
  for (auto _ : state) {
    ASSIGN_OR_RETURN(const StepMetrics without, trainer->Step());
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(RecordLatest(*trainer, *direct));
    recording_seconds += SecondsSince(start);
    step_seconds += without.seconds;
    plain.push_back(without.seconds);
    ASSIGN_OR_RETURN(const StepMetrics with, trainer->Step(in_step.get()));
    recorded.push_back(with.seconds);
  }
  const Clock::time_point start = Clock::now();
  RETURN_IF_ERROR(direct->Flush());  // Frames that are not full yet.
  recording_seconds += SecondsSince(start);
  state.counters["step_ms"] = 1e3 * Median(plain);
  state.counters["share"] = recording_seconds / step_seconds;
  state.counters["ratio"] = Median(recorded) / Median(plain);
  state.counters["KB/step"] = static_cast<double>(direct->num_bytes()) /
                              static_cast<double>(plain.size()) / 1e3;
  return absl::OkStatus();
}

void BM_Record(benchmark::State& state, const std::string& preset, bool tokens,
               int64_t num_ranks) {
  RecordOptions options;
  options.tokens = tokens;
  options.num_ranks = num_ranks;
  const absl::Status status = Measure(state, preset, options);
  if (!status.ok()) state.SkipWithError(status.ToString().c_str());
}

BENCHMARK_CAPTURE(BM_Record, demo_counts, "demo", false, 1)->Iterations(200);
BENCHMARK_CAPTURE(BM_Record, demo_counts_8_ranks, "demo", false, 8)
    ->Iterations(200);
BENCHMARK_CAPTURE(BM_Record, demo_tokens, "demo", true, 1)->Iterations(100);
BENCHMARK_CAPTURE(BM_Record, small_counts, "small", false, 1)->Iterations(6);
BENCHMARK_CAPTURE(BM_Record, small_tokens, "small", true, 1)->Iterations(6);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
