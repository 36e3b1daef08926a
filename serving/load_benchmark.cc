// bazel run -c opt //serving:load_benchmark -- [MODEL] [SECONDS]
//
// MODEL is a preset or `moe_1b` (the default), a mixture of experts with a
// billion parameters in BF16, of which a token uses 150 million. Prints
//
//   decoding    1, 32 and 64 streams that go on together, against what this
//               machine's bandwidth and FLOP/s allow (engine/step_cost.h),
//               measured right before and after each, since others use the
//               machine too: reached / limit, and the gain over one stream
//   closed loop 32 clients, for SECONDS (20) after as long a start: requests
//               and tokens per second
//   open loop   Poisson arrivals at 70 % of the closed loop's requests, for
//               three times SECONDS after as long a start as above: time to the
//               first token over that of another prompt of the same length with
//               nobody else there, measured afterwards, and the longest gap
//               between two tokens; of all requests of that time
//
// Prompts and answers are log-normal with medians of 300 and 150 tokens.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/runtime/state_store.h"
#include "serving/engine/benchmark_models.h"
#include "serving/engine/decode_rate.h"
#include "serving/engine/engine.h"
#include "serving/engine/step_cost.h"
#include "serving/load_generator.h"

namespace strata {
namespace {

constexpr int64_t kNewTokens = 48;  // Of each stream that is timed.
constexpr int kClients = 32;
constexpr double kLoad = 0.7;

void PrintDecoding(Engine& engine, CpuBackend& backend,
                   const StateStore& state) {
  double single_rate = 0, single_limit = 0;
  MachineLimits before = MeasureMachine(backend.pool());
  for (const int64_t streams : {1, 32, 64}) {
    const std::clock_t cpu_start = std::clock();
    const absl::Time start = absl::Now();
    const double rate = DecodeRate(engine, streams, kNewTokens);
    const double had = static_cast<double>(std::clock() - cpu_start) /
                       CLOCKS_PER_SEC /
                       absl::ToDoubleSeconds(absl::Now() - start);
    const MachineLimits after = MeasureMachine(backend.pool());
    const MachineLimits machine = {(before.bandwidth + after.bandwidth) / 2,
                                   (before.peak + after.peak) / 2};
    before = after;
    const double limit =
        RateLimit(CostOfStep(engine.config(), state, streams,
                             kDecodeRatePrompt + kNewTokens / 2),
                  streams, machine);
    if (streams == 1) single_rate = rate, single_limit = limit;
    std::printf(
        "decoding, %2d streams: %7.1f tokens/s of %7.1f (%.2f); gain %5.2f of "
        "%5.2f predicted (%.2f); %.1f GB/s, %.0f GFLOP/s; had %.2f of %d "
        "cores\n",
        static_cast<int>(streams), rate, limit, rate / limit,
        rate / single_rate, limit / single_limit,
        rate / single_rate / (limit / single_limit), machine.bandwidth / 1e9,
        machine.peak / 1e9, had, backend.pool().num_threads());
    std::fflush(stdout);
  }
}

// False if the time was too short for a request to end.
bool PrintLoops(Engine& engine, double seconds) {
  LoadOptions options;
  options.duration = options.warm_up = absl::Seconds(seconds);
  const LoadResult closed = RunClosedLoop(engine, kClients, options);
  if (closed.requests.empty()) {
    std::printf("closed loop: no request ended in %g s\n", seconds);
    return false;
  }
  // By tokens, as requests that were cut off did work too.
  const double tokens_of_request =
      static_cast<double>([&] {
        int64_t sum = 0;
        for (int64_t i = 0; i < closed.num_sent; ++i) {
          sum += DrawLengths(options, engine.max_tokens(), i).output;
        }
        return sum;
      }()) /
      static_cast<double>(closed.num_sent);
  const double capacity = static_cast<double>(closed.output_tokens) /
                          closed.seconds / tokens_of_request;
  std::printf(
      "closed loop, %d clients: %.2f requests/s, %.1f prompt and %.1f answer "
      "tokens/s\n",
      kClients, capacity,
      static_cast<double>(closed.prompt_tokens) / closed.seconds,
      static_cast<double>(closed.output_tokens) / closed.seconds);
  std::fflush(stdout);

  options.seed = 1;
  options.duration *= 3;
  const LoadResult open = RunOpenLoop(engine, kLoad * capacity, options);
  // With nobody else there, another prompt of the same length.
  std::map<int64_t, double> unloaded;
  for (const RequestTimes& times : open.requests) {
    if (unloaded.count(times.prompt) > 0) continue;
    unloaded[times.prompt] =
        UnloadedFirstToken(engine, times.prompt, /*seed=*/100);
  }
  std::vector<double> first, ratio, gap;
  RequestTimes worst;
  double most = 0;
  for (const RequestTimes& times : open.requests) {
    first.push_back(times.first_token);
    ratio.push_back(times.first_token / unloaded[times.prompt]);
    gap.push_back(times.longest_gap);
    if (ratio.back() > most) most = ratio.back(), worst = times;
  }
  if (first.empty()) {
    std::printf("open loop: no request ended in %g s\n", seconds);
    return false;
  }
  std::printf(
      "open loop, %.2f requests/s: %d measured, %d refused; first token "
      "p50 %.3f s p99 %.3f s, over unloaded p50 %.2f p90 %.2f p99 %.2f, "
      "at most %.2f (%.3f s of %d tokens); longest gap p50 %.3f s p99 %.3f s; "
      "unloaded %.3f s of %d tokens, %.3f s of %d\n",
      kLoad * capacity, static_cast<int>(open.requests.size()),
      static_cast<int>(open.num_refused), Percentile(first, 0.5),
      Percentile(first, 0.99), Percentile(ratio, 0.5), Percentile(ratio, 0.9),
      Percentile(ratio, 0.99), most, worst.first_token,
      static_cast<int>(worst.prompt), Percentile(gap, 0.5),
      Percentile(gap, 0.99), unloaded.begin()->second,
      static_cast<int>(unloaded.begin()->first), unloaded.rbegin()->second,
      static_cast<int>(unloaded.rbegin()->first));
  return true;
}

int Main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "moe_1b";
  const double seconds = argc > 2 ? std::atof(argv[2]) : 20;
  absl::StatusOr<ModelConfig> config = BenchmarkModel(model);
  if (!config.ok() || !(seconds > 0)) {
    std::fprintf(stderr, "%s\n",
                 config.ok() ? "want more than 0 seconds"
                             : config.status().ToString().c_str());
    return 2;
  }
  config->set_max_seq_len(2048);
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore state(backend);
  const bool narrow = model == "moe_1b";
  if (narrow) {
    const absl::Status filled = FillNarrow(*config, state);
    CHECK(filled.ok()) << filled;
  }
  EngineOptions options;
  options.pool = &backend.pool();
  const auto engine = Engine::Create(*config, backend, state, options);
  CHECK(engine.ok()) << engine.status();
  if (!narrow) InitializeParameters(*config, /*seed=*/0, state);
  PrintDecoding(**engine, backend, state);
  const EngineStats stats = (*engine)->stats();
  std::printf("of steps so far, %.1f %% was not the model\n",
              100 * (1 - stats.forward_seconds / stats.step_seconds));
  return PrintLoops(**engine, seconds) ? 0 : 1;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) { return strata::Main(argc, argv); }
