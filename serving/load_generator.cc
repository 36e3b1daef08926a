#include "serving/load_generator.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "serving/engine/engine.h"

namespace strata {
namespace {

EngineRequest MakeRequest(const LoadOptions& options, const Lengths& lengths,
                          int64_t vocab, int64_t index) {
  EngineRequest request;
  Random random(options.seed, HashCounter(HashName("prompt"), index));
  for (int64_t i = 0; i < lengths.prompt; ++i) {
    request.prompt.push_back(
        static_cast<int32_t>(random.Uniform() * static_cast<double>(vocab)));
  }
  request.max_new_tokens = lengths.output;
  request.sampling.draw.seed = index;
  return request;
}

// Clients of one run, on threads of their own.
class Load {
 public:
  Load(Engine& engine, const LoadOptions& options)
      : engine_(engine),
        options_(options),
        before_(engine.stats()),
        start_(absl::Now()) {}

  // What is counted is what comes from now on.
  void Begin() {
    before_ = engine_.stats();
    start_ = absl::Now();
  }

  // Those that are not measured need not wait any longer.
  void Stop() { stopped_ = true; }

  // Sends request `index` and waits for its end; or until `end`, or, where it
  // is not measured, Stop: then it gives up.
  void Ask(int64_t index, bool measured, absl::Time end) {
    RequestTimes times;
    const Lengths lengths = DrawLengths(options_, engine_.max_tokens(), index);
    times.prompt = lengths.prompt;
    EngineRequest request =
        MakeRequest(options_, lengths, engine_.config().vocab_size(), index);
    ++num_sent_;
    const absl::Time sent = absl::Now();
    const auto generation = engine_.Submit(std::move(request));
    if (!generation.ok()) {
      if (measured) ++num_refused_;
      return;
    }
    absl::Time last = sent;
    while (!(*generation)->done()) {
      const absl::Time look = absl::Now() + absl::Milliseconds(100);
      const std::optional<EngineEvent> event =
          (*generation)->Next(std::min(end, look));
      if (absl::Now() >= end || (!measured && stopped_)) {
        (*generation)->Cancel();
        return;
      }
      if (!event.has_value() || !event->has_token) continue;
      const absl::Time now = absl::Now();
      const double gap = absl::ToDoubleSeconds(now - last);
      if (times.output++ == 0) {
        times.first_token = gap;
      } else {
        times.longest_gap = std::max(times.longest_gap, gap);
      }
      last = now;
    }
    if (!measured) return;
    times.seconds = absl::ToDoubleSeconds(last - sent);
    const std::lock_guard<std::mutex> lock(mutex_);
    requests_.push_back(times);
  }

  LoadResult Result() {
    LoadResult result;
    result.requests = requests_;
    result.num_sent = num_sent_;
    result.num_refused = num_refused_;
    const EngineStats after = engine_.stats();
    result.seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    result.output_tokens = after.generated_tokens - before_.generated_tokens;
    result.prompt_tokens =
        after.computed_tokens - before_.computed_tokens - result.output_tokens;
    return result;
  }

 private:
  Engine& engine_;
  const LoadOptions options_;
  EngineStats before_;
  absl::Time start_;
  std::atomic<bool> stopped_{false};
  std::atomic<int64_t> num_sent_{0}, num_refused_{0};
  std::mutex mutex_;
  std::vector<RequestTimes> requests_;
};

void WaitUntilIdle(const Engine& engine) {
  while (engine.stats().num_running + engine.stats().num_waiting > 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

}  // namespace

Lengths DrawLengths(const LoadOptions& options, int64_t max_tokens,
                    int64_t index) {
  CHECK(max_tokens >= 2);
  Random random(options.seed, HashCounter(HashName("lengths"), index));
  const auto draw = [&](double median) {
    return std::max<int64_t>(
        1, std::llround(median * std::exp(options.sigma * random.Normal())));
  };
  Lengths lengths;
  lengths.prompt = std::min(draw(options.median_prompt), max_tokens - 1);
  lengths.output =
      std::min(draw(options.median_output), max_tokens - lengths.prompt);
  return lengths;
}

LoadResult RunClosedLoop(Engine& engine, int clients,
                         const LoadOptions& options) {
  Load load(engine, options);
  const absl::Time end = absl::Now() + options.warm_up + options.duration;
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      while (absl::Now() < end) load.Ask(next++, /*measured=*/true, end);
    });
  }
  absl::SleepFor(options.warm_up);
  load.Begin();
  for (std::thread& thread : threads) thread.join();
  LoadResult result = load.Result();
  WaitUntilIdle(engine);
  return result;
}

LoadResult RunOpenLoop(Engine& engine, double requests_per_second,
                       const LoadOptions& options) {
  Load load(engine, options);
  Random random(options.seed, HashName("arrivals"));
  std::vector<std::thread> threads;
  std::atomic<int64_t> num_open{0};  // Of those measured.
  absl::Time next = absl::Now();
  const absl::Time start = next + options.warm_up;
  const absl::Time end = start + options.duration;
  for (int64_t index = 0;; ++index) {
    // An exponential gap: arrivals are a Poisson process.
    next +=
        absl::Seconds(-std::log(1 - random.Uniform()) / requests_per_second);
    if (next >= end) {
      while (num_open > 0 && absl::Now() < next) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      if (num_open == 0) break;
    }
    absl::SleepFor(next - absl::Now());
    const bool measured = start <= next && next < end;
    if (measured) ++num_open;
    threads.emplace_back([&load, &num_open, index, measured] {
      load.Ask(index, measured, absl::InfiniteFuture());
      if (measured) --num_open;
    });
  }
  load.Stop();
  for (std::thread& thread : threads) thread.join();
  LoadResult result = load.Result();
  WaitUntilIdle(engine);
  return result;
}

double Percentile(std::vector<double> values, double p) {
  CHECK(!values.empty() && p >= 0 && p <= 1);
  std::sort(values.begin(), values.end());
  const auto rank =
      static_cast<int64_t>(std::ceil(p * static_cast<double>(values.size())));
  return values[std::max<int64_t>(0, rank - 1)];
}

double UnloadedFirstToken(Engine& engine, int64_t prompt, uint64_t seed) {
  LoadOptions options;
  options.seed = seed;
  EngineRequest request =
      MakeRequest(options, {prompt, 1}, engine.config().vocab_size(), prompt);
  const absl::Time start = absl::Now();
  const auto generation = engine.Submit(std::move(request));
  CHECK(generation.ok()) << generation.status();
  (*generation)->Next(absl::InfiniteFuture());
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  WaitUntilIdle(engine);
  return seconds;
}

}  // namespace strata
