// How fast a training step is, and how far from the machine's limit.
//
//   bazel run -c opt //training:step_benchmark
//
// FLOPs are the graph's own (recomputation not counted); the limit is SGEMM on
// all threads, measured here first: 1024^3 by the BLAS that the kernels use.
// STRATA_PROFILE=1 prints where the time goes, by operator.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "benchmark/benchmark.h"
#include "core/base/thread_pool.h"
#include "core/model/config.h"
#include "core/testing/sgemm_peak.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

double Peak() {
  static const double peak = SgemmPeak();
  return peak;
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

void PrintProfile(Trainer& trainer) {
  std::printf("%-22s %9s %7s %9s\n", "operator", "seconds", "share", "GFLOP/s");
  double total = 0;
  for (Program* program :
       {&trainer.gradient_program(), &trainer.update_program()}) {
    for (const auto& time : program->Profile()) total += time.seconds;
  }
  for (Program* program :
       {&trainer.gradient_program(), &trainer.update_program()}) {
    for (const auto& time : program->Profile()) {
      std::printf("%-22s %9.3f %6.1f%% %9.1f\n", time.op.c_str(), time.seconds,
                  100 * time.seconds / total, time.flops / time.seconds / 1e9);
    }
  }
}

void BM_Step(benchmark::State& state, const std::string& preset) {
  static const Corpus* const corpus = new Corpus(SyntheticCorpus());
  auto trainer = Trainer::Create(*ModelPreset(preset), *TrainPreset(preset),
                                 corpus, NumUsableCores());
  if (!trainer.ok()) {
    state.SkipWithError(trainer.status().ToString().c_str());
    return;
  }
  // The first steps touch fresh pages and grow scratch memory.
  for (int i = 0; i < 2; ++i) (*trainer)->Step().status().IgnoreError();
  const bool profile = std::getenv("STRATA_PROFILE") != nullptr;
  if (profile) {
    (*trainer)->gradient_program().EnableProfile();
    (*trainer)->update_program().EnableProfile();
  }

  double tokens = 0;
  double flops = 0;
  double seconds = 0;
  for (auto _ : state) {
    const auto metrics = (*trainer)->Step();
    if (!metrics.ok()) {
      state.SkipWithError(metrics.status().ToString().c_str());
      return;
    }
    tokens += metrics->tokens;
    flops += (*trainer)->StepFlops();
    seconds += metrics->seconds;
  }
  state.counters["tokens/s"] = tokens / seconds;
  state.counters["GFLOP/s"] = flops / seconds / 1e9;
  state.counters["SGEMM_GFLOP/s"] = Peak() / 1e9;
  state.counters["of_peak"] = flops / seconds / Peak();
  if (profile) PrintProfile(**trainer);
}

BENCHMARK_CAPTURE(BM_Step, demo, "demo")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Step, small, "small")
    ->Unit(benchmark::kMillisecond)
    ->MinTime(5);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
