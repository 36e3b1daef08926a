#include "tools/scorecard/trading/trading_engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "tools/scorecard/trading/feature_decoder.h"
#include "tools/scorecard/trading/trading_model.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits without sleeping, which would take longer than what is measured; lets
// others run where there are fewer cores than threads.
template <typename Ready>
void WaitFor(Ready ready) {
  for (int spins = 1; !ready(); ++spins) {
    Pause();
    if (spins % 256 == 0) std::this_thread::yield();
  }
}

// When messages come.
class Schedule {
 public:
  explicit Schedule(const std::vector<double>& arrival_us)
      : arrival_us_(arrival_us), start_(Clock::now()) {}

  double now() const {
    return std::chrono::duration<double, std::micro>(Clock::now() - start_)
        .count();
  }
  double arrival(size_t i) const {
    return arrival_us_.empty() ? 0 : arrival_us_[i];
  }
  bool HasCome(size_t i) const { return now() >= arrival(i); }
  void Await(size_t i) const {
    WaitFor([&] { return HasCome(i); });
  }

 private:
  const std::vector<double>& arrival_us_;
  const Clock::time_point start_;
};

absl::Status RunInTurn(bool batched, TradingModel& model,
                       FeatureDecoder& decoder,
                       const std::vector<std::string>& messages,
                       const Schedule& schedule, TradingRun& run) {
  const size_t most = batched ? model.max_ticks() : 1;
  std::vector<TickRow> rows(most);
  for (size_t first = 0; first < messages.size();) {
    schedule.Await(first);
    size_t count = 0;
    while (count < most && first + count < messages.size() &&
           schedule.HasCome(first + count)) {
      ASSIGN_OR_RETURN(rows[count], decoder.Decode(messages[first + count]));
      ++count;
    }
    RETURN_IF_ERROR(model.Decide(absl::MakeConstSpan(rows).first(count),
                                 run.decisions.data() + first));
    const double now = schedule.now();
    for (size_t i = first; i < first + count; ++i) {
      run.latency_us[i] = now - schedule.arrival(i);
    }
    first += count;
  }
  return absl::OkStatus();
}

// Of one thread that puts ticks in and one that takes them out.
class TickQueue {
 public:
  static constexpr uint64_t kRoom = 128;  // A power of two.

  // Waits while there is no room; false if the reader has gone.
  bool Put(const TickRow& row) {
    const uint64_t at = put_.load(std::memory_order_relaxed);
    WaitFor([&] {
      return at - taken_.load(std::memory_order_acquire) < kRoom || closed();
    });
    if (closed()) return false;
    rows_[at % kRoom] = row;
    put_.store(at + 1, std::memory_order_release);
    return true;
  }

  // Waits for ticks, of which `most` at most are given; none at the end.
  absl::Span<const TickRow> Await(uint64_t most) const {
    const uint64_t at = taken_.load(std::memory_order_relaxed);
    WaitFor(
        [&] { return put_.load(std::memory_order_acquire) > at || closed(); });
    const uint64_t count = put_.load(std::memory_order_acquire) - at;
    // To the end of the ring at most, so that they lie together.
    return {rows_ + at % kRoom, std::min({count, most, kRoom - at % kRoom})};
  }
  void Taken(uint64_t count) {
    taken_.store(taken_.load(std::memory_order_relaxed) + count,
                 std::memory_order_release);
  }

  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // No more will be put in, or taken out.
  void Close() { closed_.store(true, std::memory_order_release); }

 private:
  TickRow rows_[kRoom];
  alignas(64) std::atomic<uint64_t> put_{0};
  alignas(64) std::atomic<uint64_t> taken_{0};
  alignas(64) std::atomic<bool> closed_{false};
};

absl::Status RunPipelined(TradingModel& model, FeatureDecoder& decoder,
                          const std::vector<std::string>& messages,
                          const Schedule& schedule, TradingRun& run) {
  auto queue = std::make_unique<TickQueue>();
  absl::Status decoded;
  std::thread decode([&] {
    for (size_t i = 0; i < messages.size(); ++i) {
      schedule.Await(i);
      const absl::StatusOr<TickRow> row = decoder.Decode(messages[i]);
      if (!row.ok()) {
        decoded = row.status();
        break;
      }
      if (!queue->Put(*row)) break;
    }
    queue->Close();
  });
  absl::Status status;
  for (size_t first = 0;;) {
    const absl::Span<const TickRow> rows = queue->Await(model.max_ticks());
    if (rows.empty()) break;
    status = model.Decide(rows, run.decisions.data() + first);
    if (!status.ok()) {
      queue->Close();
      break;
    }
    const double now = schedule.now();
    for (size_t i = first; i < first + rows.size(); ++i) {
      run.latency_us[i] = now - schedule.arrival(i);
    }
    first += rows.size();
    queue->Taken(rows.size());
  }
  decode.join();
  return status.ok() ? decoded : status;
}

}  // namespace

absl::StatusOr<TradingRun> RunTrading(TradingMode mode, TradingModel& model,
                                      int64_t num_symbols,
                                      const std::vector<std::string>& messages,
                                      const std::vector<double>& arrival_us) {
  TradingRun run;
  run.latency_us.resize(messages.size());
  run.decisions.resize(messages.size());
  FeatureDecoder decoder(num_symbols);
  model.Forget();
  const Schedule schedule(arrival_us);
  RETURN_IF_ERROR(mode == TradingMode::kPipelined
                      ? RunPipelined(model, decoder, messages, schedule, run)
                      : RunInTurn(mode == TradingMode::kBatched, model, decoder,
                                  messages, schedule, run));
  run.seconds = 1e-6 * schedule.now();
  return run;
}

}  // namespace strata
