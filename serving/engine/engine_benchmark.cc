// bazel run -c opt //serving/engine:engine_benchmark
//
// Decoding of 1 to 64 sequences at a time with random weights: tokens per
// second, that over the rate of one sequence (`gain`), and beside it what this
// machine could reach (serving/engine/step_cost.h). `bandwidth` and `peak` are
// measured in the same run. A model that fits into the caches (`model_MB`) is
// not bound by memory's bandwidth, so its one sequence may exceed the limit and
// its `gain` stay below `gain_limit` for that reason alone. `overhead` is the
// share of a step that is not the model: scheduling, drawing, handing over.
//
// `moe_1b` is in BF16, the presets in F32. With STRATA_PROFILE=1 in the
// environment, the time of a step by operator goes to stderr, first of prompts.
//
// BM_Prompt: tokens a second of prompts that come one at a time, the quickest.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "serving/engine/benchmark_models.h"
#include "serving/engine/decode_rate.h"
#include "serving/engine/engine.h"
#include "serving/engine/step_cost.h"

namespace strata {
namespace {

constexpr int64_t kNewTokens = 96;

// What came since Profile() was `before`, `steps` steps ago.
void PrintProfile(const char* what, std::vector<Program::OpTime> profile,
                  const std::vector<Program::OpTime>& before, double steps) {
  std::fprintf(stderr, "%s, %.0f steps\n", what, steps);
  for (Program::OpTime& op : profile) {
    for (const Program::OpTime& was : before) {
      if (was.op != op.op) continue;
      op.seconds -= was.seconds;
      op.runs -= was.runs;
      op.flops -= was.flops;
    }
    std::fprintf(stderr, "%-24s %8.1f us a step, %6.2f runs, %6.2f GFLOP/s\n",
                 op.op.c_str(), 1e6 * op.seconds / steps,
                 static_cast<double>(op.runs) / steps,
                 op.flops / op.seconds / 1e9);
  }
}

void BM_Engine(benchmark::State& state, const std::string& model, bool narrow) {
  const int64_t batch = state.range(0);
  const absl::StatusOr<ModelConfig> config = BenchmarkModel(model);
  CHECK(config.ok()) << config.status();
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore store(backend);
  if (narrow) {
    const absl::Status filled = FillNarrow(*config, store);
    CHECK(filled.ok()) << filled;
  }
  EngineOptions options;
  options.pool = &backend.pool();
  options.profile = std::getenv("STRATA_PROFILE") != nullptr;
  const auto engine = Engine::Create(*config, backend, store, options);
  CHECK(engine.ok()) << engine.status();
  if (!narrow) InitializeParameters(*config, /*seed=*/0, store);
  // Once a process.
  static const MachineLimits machine = MeasureMachine(backend.pool());

  std::vector<Program::OpTime> before;
  double steps = 0;
  if (options.profile) {  // What comes after knows the prompts, but for a rest.
    DecodeRate(**engine, batch, /*new_tokens=*/1);
    before = (*engine)->Profile();
    steps = static_cast<double>((*engine)->stats().num_steps);
    PrintProfile("prompts", before, {}, steps);
  }
  double rate = 0;
  for (auto _ : state) {
    rate = std::max(rate, DecodeRate(**engine, batch, kNewTokens));
  }
  const auto limit = [&](int64_t n) {
    return RateLimit(
        CostOfStep(*config, store, n, kDecodeRatePrompt + kNewTokens / 2), n,
        machine);
  };
  static auto& single = *new std::map<std::string, double>();
  if (batch == 1) single[model] = rate;
  const EngineStats stats = (*engine)->stats();
  if (options.profile) {
    PrintProfile("decoding", (*engine)->Profile(), before,
                 static_cast<double>(stats.num_steps) - steps);
  }
  double parameter_bytes = 0;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    parameter_bytes += static_cast<double>(store.Get(name).num_bytes());
  }
  state.counters["tokens_per_second"] = rate;
  state.counters["limit"] = limit(batch);
  state.counters["of_limit"] = rate / limit(batch);
  state.counters["gain"] = single[model] > 0 ? rate / single[model] : 0;
  state.counters["gain_limit"] = limit(batch) / limit(1);
  state.counters["overhead"] = 1 - stats.forward_seconds / stats.step_seconds;
  state.counters["model_MB"] = parameter_bytes / 1e6;
  state.counters["bandwidth_GB_per_second"] = machine.bandwidth / 1e9;
  state.counters["peak_GFLOPS"] = machine.peak / 1e9;
}

void Batches(benchmark::internal::Benchmark* benchmark) {
  for (const int64_t batch : {1, 4, 16, 32, 64}) benchmark->Arg(batch);
  benchmark->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(BM_Engine, demo, "demo", /*narrow=*/false)
    ->Apply(Batches)
    ->Iterations(3);
BENCHMARK_CAPTURE(BM_Engine, small, "small", /*narrow=*/false)
    ->Apply(Batches)
    ->Iterations(2);
BENCHMARK_CAPTURE(BM_Engine, moe_1b, "moe_1b", /*narrow=*/true)
    ->Apply(Batches)
    ->Iterations(1);

// Seconds to the first token behind a prompt of `known` tokens of text number
// `prefix` and `rest` of text number `text`, which no other has.
double SecondsToFirstToken(Engine& engine, const ModelConfig& config,
                           int64_t prefix, int64_t known, int64_t text,
                           int64_t rest) {
  EngineRequest request;
  for (int64_t i = 0; i < known + rest; ++i) {
    request.prompt.push_back(
        static_cast<int32_t>(HashCounter(i < known ? prefix : text, i) %
                             static_cast<uint64_t>(config.vocab_size())));
  }
  request.max_new_tokens = 1;
  const absl::Time start = absl::Now();
  const auto generation = engine.Submit(std::move(request));
  CHECK(generation.ok()) << generation.status();
  (*generation)->Next(absl::InfiniteFuture());
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// New prompts of 512 tokens, one at a time, of the mixture of a billion weights
// in 4 or 8 bits, groups of 32, or (16) in BF16.
void BM_Prompt(benchmark::State& state) {
  constexpr int64_t kPrompt = 512;
  const auto bits = static_cast<int>(state.range(0));
  absl::StatusOr<ModelConfig> config = BenchmarkModel("moe_1b");
  CHECK(config.ok()) << config.status();
  config->set_max_seq_len(2 * kPrompt);
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore store(backend);
  const absl::Status filled =
      bits == 16 ? FillNarrow(*config, store)
                 : FillQuantised(*config, {bits, 32, true}, store);
  CHECK(filled.ok()) << filled;
  EngineOptions options;
  options.pool = &backend.pool();
  const auto engine = Engine::Create(*config, backend, store, options);
  CHECK(engine.ok()) << engine.status();
  double best = 1e30;
  int64_t text = 0;
  for (auto _ : state) {
    best = std::min(
        best, SecondsToFirstToken(**engine, *config, 0, 0, ++text, kPrompt));
  }
  state.counters["tokens_per_second"] = kPrompt / best;
}
BENCHMARK(BM_Prompt)
    ->ArgName("bits")
    ->Arg(4)
    ->Arg(8)
    ->Arg(16)
    ->Iterations(5)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// The time to the first token of a prompt of 2,008 tokens, of which the first
// 2,000 were asked before (`known`), over that of one that is new.
void BM_PrefixReuse(benchmark::State& state, const std::string& preset) {
  constexpr int64_t kPrefix = 2000, kRest = 8;
  absl::StatusOr<ModelConfig> config = ModelPreset(preset);
  if (!config.ok()) {
    state.SkipWithError(config.status().ToString().c_str());
    return;
  }
  config->set_max_seq_len(2304);
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore store(backend);
  EngineOptions options;
  options.pool = &backend.pool();
  options.num_blocks = 1024;
  const auto engine = Engine::Create(*config, backend, store, options);
  if (!engine.ok()) {
    state.SkipWithError(engine.status().ToString().c_str());
    return;
  }
  InitializeParameters(*config, /*seed=*/0, store);

  int64_t count = 0;
  const auto first_token = [&](int64_t prefix) {
    return SecondsToFirstToken(**engine, *config, prefix, kPrefix,
                               1000 + ++count, kRest);
  };
  double fresh = 1e30, known = 1e30;
  int64_t prefix = 0;
  for (auto _ : state) {
    fresh = std::min(fresh, first_token(++prefix));
    known = std::min(known, first_token(prefix));
  }
  state.counters["new_ms"] = 1e3 * fresh;
  state.counters["known_ms"] = 1e3 * known;
  state.counters["known_over_new"] = known / fresh;
}
BENCHMARK_CAPTURE(BM_PrefixReuse, demo, "demo")
    ->Iterations(5)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
