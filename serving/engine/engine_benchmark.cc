// bazel run -c opt //serving/engine:engine_benchmark
//
// Decoding of 1 to 64 sequences at a time with random weights: tokens per
// second, that over the rate of one sequence (`gain`), and beside it what this
// machine could reach:
//
//   a step takes at least max(bytes / bandwidth, FLOPs / peak)
//
// Bytes are the weights that a step reads (of experts those that so many tokens
// touch if each chooses at random) and what it reads of the KV cache; FLOPs are
// of products and attention. `bandwidth` and `peak` are measured in the same
// run. A model that fits into the caches (`model_MB`) is not bound by memory's
// bandwidth, so its one sequence may exceed the limit and its `gain` stay below
// `gain_limit` for that reason alone. `overhead` is the share of a step that is
// not the model: scheduling, drawing, handing over.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/init.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/runtime/state_store.h"
#include "core/testing/read_bandwidth.h"
#include "core/testing/sgemm_peak.h"
#include "serving/engine/engine.h"

namespace strata {
namespace {

constexpr int64_t kPromptTokens = 64;
constexpr int64_t kNewTokens = 96;

struct StepCost {
  double bytes = 0;
  double flops = 0;
};

// What a step that decodes `batch` sequences of `context` tokens must do.
StepCost CostOfStep(const ModelConfig& config, int64_t batch, int64_t context) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = options.max_sequences = options.max_logits = batch;
  BuildDecoder(builder, config, options);
  const absl::StatusOr<Graph> graph = builder.Finish();
  StepCost cost;
  if (!graph.ok()) return cost;
  absl::flat_hash_set<ValueId> counted;
  for (const Node& node : graph->nodes()) {
    const bool grouped = node.op->name == kGroupedMatMul.name;
    if (grouped || node.op->name == kMatMul.name) {
      cost.flops += CostOf(*graph, node, Binding()).flops;
    }
    if (node.op->name == kEmbedding.name) continue;  // A row for each token.
    for (const ValueId input : node.inputs) {
      if (input == kNone || graph->value(input).role != Role::kParameter ||
          !counted.insert(input).second) {
        continue;
      }
      const ValueType& type = graph->value(input).type;
      double share = 1;
      if (grouped) {
        const auto experts = static_cast<double>(type.dims[0].bound);
        const auto rows = static_cast<double>(
            graph->value(node.inputs[0]).type.dims[0].bound);
        share = 1 - std::pow(1 - 1 / experts, rows);
      }
      cost.bytes += share * static_cast<double>(type.max_bytes());
    }
  }
  const AttentionConfig& a = config.attention();
  const auto tokens = static_cast<double>(batch * context);
  cost.bytes +=
      tokens *
      static_cast<double>(config.num_layers() * 2 * a.num_kv_heads() *
                          a.head_dim() * static_cast<int64_t>(sizeof(float)));
  cost.flops += tokens * static_cast<double>(config.num_layers() * 4 *
                                             a.num_heads() * a.head_dim());
  return cost;
}

// Tokens per second of `batch` sequences that decode together.
double Rate(Engine& engine, int64_t batch, int64_t vocab) {
  std::vector<std::shared_ptr<Generation>> generations;
  for (int64_t i = 0; i < batch; ++i) {
    EngineRequest request;
    for (int64_t j = 0; j < kPromptTokens; ++j) {
      request.prompt.push_back(
          static_cast<int32_t>((i * 131 + j * 17) % vocab));
    }
    request.max_new_tokens = kNewTokens;
    request.sampling.draw.seed = i;
    auto generation = engine.Submit(std::move(request));
    if (!generation.ok()) return 0;
    generations.push_back(*std::move(generation));
  }
  // From when all have a token: prompts are not what is measured.
  for (const auto& generation : generations) {
    generation->Next(absl::InfiniteFuture());
  }
  const EngineStats before = engine.stats();
  const absl::Time start = absl::Now();
  for (const auto& generation : generations) {
    while (generation->Next(absl::InfiniteFuture()).has_value()) {
    }
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  // The last step is counted when it is over.
  EngineStats after = engine.stats();
  while (after.num_running > 0) after = engine.stats();
  return static_cast<double>(after.generated_tokens - before.generated_tokens) /
         seconds;
}

void BM_Engine(benchmark::State& state, const std::string& preset) {
  const int64_t batch = state.range(0);
  const absl::StatusOr<ModelConfig> config = ModelPreset(preset);
  if (!config.ok()) {
    state.SkipWithError(config.status().ToString().c_str());
    return;
  }
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore store(backend);
  EngineOptions options;
  options.pool = &backend.pool();
  const auto engine = Engine::Create(*config, backend, store, options);
  if (!engine.ok()) {
    state.SkipWithError(engine.status().ToString().c_str());
    return;
  }
  InitializeParameters(*config, /*seed=*/0, store);
  // The best of a few passes: once a process, as a limit.
  static const double bandwidth = [&] {
    const ReadBandwidth read(backend.pool());
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) best = std::max(best, read.Measure());
    return best;
  }();
  static const double peak = SgemmPeak();

  double rate = 0;
  for (auto _ : state) {
    rate = std::max(rate, Rate(**engine, batch, config->vocab_size()));
  }
  const auto limit = [&](int64_t n) {
    const StepCost cost =
        CostOfStep(*config, n, kPromptTokens + kNewTokens / 2);
    return static_cast<double>(n) /
           std::max(cost.bytes / bandwidth, cost.flops / peak);
  };
  static auto& single = *new std::map<std::string, double>();
  if (batch == 1) single[preset] = rate;
  const EngineStats stats = (*engine)->stats();
  double parameter_bytes = 0;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    parameter_bytes += static_cast<double>(store.Get(name).num_bytes());
  }
  state.counters["tokens_per_second"] = rate;
  state.counters["limit"] = limit(batch);
  state.counters["gain"] = single[preset] > 0 ? rate / single[preset] : 0;
  state.counters["gain_limit"] = limit(batch) / limit(1);
  state.counters["overhead"] = 1 - stats.forward_seconds / stats.step_seconds;
  state.counters["model_MB"] = parameter_bytes / 1e6;
  state.counters["bandwidth_GB_per_second"] = bandwidth / 1e9;
  state.counters["peak_GFLOPS"] = peak / 1e9;
}
BENCHMARK_CAPTURE(BM_Engine, demo, "demo")
    ->Arg(1)
    ->Arg(4)
    ->Arg(16)
    ->Arg(64)
    ->Iterations(3)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Engine, small, "small")
    ->Arg(1)
    ->Arg(4)
    ->Arg(16)
    ->Arg(64)
    ->Iterations(2)
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
  // Seconds to the first token of prefix number `prefix` with a rest of its
  // own.
  const auto first_token = [&](int64_t prefix) {
    EngineRequest request;
    ++count;
    for (int64_t i = 0; i < kPrefix + kRest; ++i) {
      const int64_t text = i < kPrefix ? prefix : 1000 + count;
      request.prompt.push_back(static_cast<int32_t>(
          HashCounter(text, i) % static_cast<uint64_t>(config->vocab_size())));
    }
    request.max_new_tokens = 1;
    const absl::Time start = absl::Now();
    const auto generation = (*engine)->Submit(std::move(request));
    if (generation.ok()) (*generation)->Next(absl::InfiniteFuture());
    return absl::ToDoubleSeconds(absl::Now() - start);
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
