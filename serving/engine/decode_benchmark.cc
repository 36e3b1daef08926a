// bazel run -c opt //serving/engine:decode_benchmark
//
// Decoding of one sequence with random weights, in tokens per second, and that
// over the memory-bandwidth limit: the bytes that a token must move at least,
// through the bandwidth that this machine showed a moment ago.
//
// `bandwidth` is of a read by as many threads of a buffer far larger than any
// cache. It is measured between any two texts, as others use the machine too;
// figures are medians, the share that of the texts' own. A model that fits into
// the caches (`model_MB`) can exceed the limit; one that does not cannot.
//
// `moe_1b` has a billion parameters, of which a token uses 150 million. With
// STRATA_PROFILE=1 in the environment, its time by operator goes to stderr. Its
// weights are F32, BF16, INT8 or INT4; embedding and output projection of the
// last two are BF16 and INT8.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/quant/format.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "core/testing/read_bandwidth.h"
#include "serving/engine/benchmark_models.h"
#include "serving/engine/generator.h"

namespace strata {
namespace {

constexpr int64_t kPromptTokens = 64;
constexpr int64_t kNewTokens = 128;

double Median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void PrintProfile(const std::vector<Program::OpTime>& profile, double tokens) {
  for (const Program::OpTime& op : profile) {
    std::fprintf(stderr, "%-24s %8.1f us a token, %6.2f runs\n", op.op.c_str(),
                 1e6 * op.seconds / tokens,
                 static_cast<double>(op.runs) / tokens);
  }
}

// How weights lie in memory; INT4 and INT8 in groups of 32.
enum class Weights { kF32, kBF16, kInt8, kInt4 };

void Run(benchmark::State& state, const ModelConfig& config, Weights weights,
         int num_threads) {
  CpuBackend backend(num_threads, AllCpuKernels());
  StateStore store(backend);
  if (weights != Weights::kF32) {
    const absl::Status filled =
        weights == Weights::kBF16
            ? FillNarrow(config, store)
            : FillQuantised(
                  config, {weights == Weights::kInt8 ? 8 : 4, 32, true}, store);
    CHECK(filled.ok()) << filled;
  }
  const auto generator = Generator::Create(config, backend, store);
  if (!generator.ok()) {
    state.SkipWithError(generator.status().ToString().c_str());
    return;
  }
  if (weights == Weights::kF32) {
    InitializeParameters(config, /*seed=*/0, store);
  }
  const char* const profile = std::getenv("STRATA_PROFILE");
  if (profile != nullptr) (*generator)->EnableProfile();
  const ReadBandwidth read(backend.pool());
  const std::vector<int32_t> prompt(kPromptTokens, 'a');
  GenerateOptions options;
  options.max_new_tokens = kNewTokens;
  options.sampling.temperature = 0;  // Drawing is no part of the model.
  const double bytes =
      (*generator)->MinBytesPerToken(kPromptTokens + kNewTokens / 2);

  std::vector<double> rates, bandwidths, shares, prefill_rates;
  double before = read.Measure();
  for (auto _ : state) {
    const auto text = (*generator)->Generate(prompt, options);
    if (!text.ok()) {
      state.SkipWithError(text.status().ToString().c_str());
      return;
    }
    const GenerateStats& stats = (*generator)->stats();
    // The first token comes from the prompt's logits.
    const auto tokens = static_cast<double>(stats.new_tokens - 1);
    rates.push_back(tokens / stats.decode_seconds);
    prefill_rates.push_back(static_cast<double>(stats.prompt_tokens) /
                            stats.prefill_seconds);
    const double after = read.Measure();
    bandwidths.push_back((before + after) / 2);
    shares.push_back(rates.back() * bytes / bandwidths.back());
    before = after;
    state.SetIterationTime(stats.decode_seconds);
  }
  if (profile != nullptr) {
    PrintProfile((*generator)->Profile(),
                 static_cast<double>(rates.size() * (kNewTokens - 1)));
  }

  state.counters["tokens_per_second"] = Median(rates);
  state.counters["prefill_tokens_per_second"] = Median(prefill_rates);
  state.counters["MB_per_token"] = bytes / 1e6;
  state.counters["bandwidth_GB_per_second"] = Median(bandwidths) / 1e9;
  state.counters["of_bandwidth_limit"] = Median(shares);
  double parameter_bytes = 0;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    parameter_bytes += static_cast<double>(store.Get(name).num_bytes());
  }
  state.counters["model_MB"] = parameter_bytes / 1e6;
  state.counters["threads"] = backend.pool().num_threads();
}

void BM_Preset(benchmark::State& state, const std::string& preset) {
  const absl::StatusOr<ModelConfig> config = ModelPreset(preset);
  CHECK(config.ok()) << config.status();
  Run(state, *config, Weights::kF32, NumUsableCores());
}
BENCHMARK_CAPTURE(BM_Preset, demo, "demo")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Preset, small, "small")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void BM_Moe1b(benchmark::State& state, Weights weights) {
  const absl::StatusOr<ModelConfig> config = BenchmarkModel("moe_1b");
  CHECK(config.ok()) << config.status();
  Run(state, *config, weights, static_cast<int>(state.range(0)));
}

void AtOneAndTwoThreads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->Iterations(5)->UseManualTime()->Unit(
      benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(BM_Moe1b, f32, Weights::kF32)->Apply(AtOneAndTwoThreads);
BENCHMARK_CAPTURE(BM_Moe1b, bf16, Weights::kBF16)->Apply(AtOneAndTwoThreads);
BENCHMARK_CAPTURE(BM_Moe1b, int8, Weights::kInt8)->Apply(AtOneAndTwoThreads);
BENCHMARK_CAPTURE(BM_Moe1b, int4, Weights::kInt4)->Apply(AtOneAndTwoThreads);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
