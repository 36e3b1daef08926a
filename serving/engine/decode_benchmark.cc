// bazel run -c opt //serving/engine:decode_benchmark
//
// Decoding of one sequence with random weights, in tokens per second, and that
// over the memory-bandwidth limit: the bytes that a token must move at least,
// through the bandwidth that this machine showed a moment ago.
//
// `bandwidth` is of a read by all threads of a buffer far larger than any
// cache. A model that fits into the caches (`model_MB`) can exceed the limit;
// one that does not cannot.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/thread_pool.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/runtime/state_store.h"
#include "core/tensor/buffer.h"
#include "serving/engine/generator.h"

namespace strata {
namespace {

constexpr int64_t kPromptTokens = 64;
constexpr int64_t kNewTokens = 128;

// Bytes per second that all threads together read from memory: the best of some
// passes over 1 GiB.
double MeasureReadBandwidth(ThreadPool& pool) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  constexpr int64_t kPieceBytes = int64_t{1} << 20;
  constexpr int64_t kPieceWords = kPieceBytes / sizeof(uint64_t);
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(kBytes);
  if (!buffer.ok()) return 0;
  auto* const words = reinterpret_cast<uint64_t*>(buffer->data());
  // Untouched pages are all the same page of zeros.
  std::fill_n(words, kBytes / sizeof(uint64_t), uint64_t{1});

  double best_seconds = 1e30;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(kBytes / kPieceBytes, [&](int64_t piece) {
      const uint64_t* const first = words + piece * kPieceWords;
      uint64_t sum[8] = {};
      for (int64_t i = 0; i < kPieceWords; i += 8) {
        for (int64_t j = 0; j < 8; ++j) sum[j] += first[i + j];
      }
      benchmark::DoNotOptimize(sum);
    });
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, seconds.count());
  }
  return kBytes / best_seconds;
}

double ReadBandwidth(CpuBackend& backend) {
  static const double bandwidth = MeasureReadBandwidth(backend.pool());
  return bandwidth;
}

void BM_Decode(benchmark::State& state, const std::string& preset) {
  CpuBackend backend(NumUsableCores(), AllCpuKernels());
  StateStore store(backend);
  const absl::StatusOr<ModelConfig> config = ModelPreset(preset);
  if (!config.ok()) {
    state.SkipWithError(config.status().ToString().c_str());
    return;
  }
  const auto generator = Generator::Create(*config, backend, store);
  if (!generator.ok()) {
    state.SkipWithError(generator.status().ToString().c_str());
    return;
  }
  InitializeParameters(*config, /*seed=*/0, store);
  const double bandwidth = ReadBandwidth(backend);
  const std::vector<int32_t> prompt(kPromptTokens, 'a');
  GenerateOptions options;
  options.max_new_tokens = kNewTokens;

  int64_t tokens = 0;
  int64_t prompt_tokens = 0;
  double seconds = 0;
  double prefill_seconds = 0;
  for (auto _ : state) {
    const auto text = (*generator)->Generate(prompt, options);
    if (!text.ok()) {
      state.SkipWithError(text.status().ToString().c_str());
      return;
    }
    const GenerateStats& stats = (*generator)->stats();
    // The first token comes from the prompt's logits.
    tokens += stats.new_tokens - 1;
    prompt_tokens += stats.prompt_tokens;
    seconds += stats.decode_seconds;
    prefill_seconds += stats.prefill_seconds;
    state.SetIterationTime(stats.decode_seconds);
  }

  const double rate = static_cast<double>(tokens) / seconds;
  const double bytes =
      (*generator)->MinBytesPerToken(kPromptTokens + kNewTokens / 2);
  state.counters["tokens_per_second"] = rate;
  state.counters["prefill_tokens_per_second"] =
      static_cast<double>(prompt_tokens) / prefill_seconds;
  state.counters["MB_per_token"] = bytes / 1e6;
  state.counters["bandwidth_GB_per_second"] = bandwidth / 1e9;
  state.counters["of_bandwidth_limit"] = rate * bytes / bandwidth;
  double parameter_bytes = 0;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    parameter_bytes += static_cast<double>(store.Get(name).num_bytes());
  }
  state.counters["model_MB"] = parameter_bytes / 1e6;
  state.counters["threads"] = backend.pool().num_threads();
}
BENCHMARK_CAPTURE(BM_Decode, demo, "demo")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Decode, small, "small")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
