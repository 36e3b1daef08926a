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
#include "tools/scorecard/trading/market_feed.h"
#include "tools/scorecard/trading/trading_model.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;
using Bursts = std::vector<std::vector<std::string>>;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start)
      .count();
}

// Waits without sleeping, which would take longer than what is measured; lets
// others run.
template <typename Ready>
void WaitFor(Ready ready) {
  for (int spins = 0; !ready(); ++spins) {
    if (spins % 64 == 63) std::this_thread::yield();
  }
}

// Ticks that are decoded before the model is given them: enough for a batch,
// few enough that it need not wait for a whole burst.
constexpr size_t kDecodedTicks = 16;

// When bursts come.
class Schedule {
 public:
  explicit Schedule(const std::vector<double>& arrival_us)
      : arrival_us_(arrival_us), start_(Clock::now()) {}

  // Waits until burst `i` is here; returns when it came, in us.
  double Await(size_t i) const {
    if (arrival_us_.empty()) return now();
    const double early = arrival_us_[i] - now() - 100;
    if (early > 0) {
      std::this_thread::sleep_for(
          std::chrono::microseconds(static_cast<int64_t>(early)));
    }
    while (now() < arrival_us_[i]) {
    }
    return arrival_us_[i];
  }
  double now() const { return MicrosecondsSince(start_); }

 private:
  const std::vector<double>& arrival_us_;
  const Clock::time_point start_;
};

absl::Status RunSerial(bool by_tick, TradingModel& model,
                       FeatureDecoder& decoder, const Bursts& bursts,
                       const Schedule& schedule, TradingRun& run) {
  std::vector<TickRow> rows;
  std::vector<Decision> decisions;
  const auto decide = [&](double arrival) -> absl::Status {
    decisions.resize(rows.size());
    RETURN_IF_ERROR(model.Decide(rows, decisions.data()));
    const double latency = schedule.now() - arrival;
    run.latency_us.insert(run.latency_us.end(), rows.size(), latency);
    run.decisions.insert(run.decisions.end(), decisions.begin(),
                         decisions.end());
    rows.clear();
    return absl::OkStatus();
  };
  for (size_t i = 0; i < bursts.size(); ++i) {
    const double arrival = schedule.Await(i);
    for (const std::string& line : bursts[i]) {
      ASSIGN_OR_RETURN(const TickRow row, decoder.Decode(line));
      rows.push_back(row);
      if (by_tick) RETURN_IF_ERROR(decide(arrival));
    }
    if (!by_tick) RETURN_IF_ERROR(decide(arrival));
  }
  return absl::OkStatus();
}

// Of one thread that puts ticks in and one that takes them out.
class TickQueue {
 public:
  static constexpr uint64_t kRoom = 128;  // A power of two.

  struct Entry {
    TickRow row;
    double arrival_us = 0;
  };

  // Waits while there is no room for all of them; false if the reader has gone.
  bool Put(const std::vector<Entry>& entries) {
    const uint64_t at = put_.load(std::memory_order_relaxed);
    const uint64_t end = at + entries.size();
    WaitFor([&] {
      return end - taken_.load(std::memory_order_acquire) <= kRoom || closed();
    });
    if (closed()) return false;
    for (size_t i = 0; i < entries.size(); ++i) {
      entries_[(at + i) % kRoom] = entries[i];
    }
    put_.store(end, std::memory_order_release);
    return true;
  }

  // Waits for entries, of which `most` at most are given; none at the end.
  absl::Span<const Entry> Await(uint64_t most) const {
    const uint64_t at = taken_.load(std::memory_order_relaxed);
    WaitFor([&] {
      return put_.load(std::memory_order_acquire) > at ||
             closed_.load(std::memory_order_acquire);
    });
    const uint64_t count = put_.load(std::memory_order_acquire) - at;
    // To the end of the ring at most, so that they lie together.
    return {entries_ + at % kRoom, std::min({count, most, kRoom - at % kRoom})};
  }
  void Taken(uint64_t count) {
    taken_.store(taken_.load(std::memory_order_relaxed) + count,
                 std::memory_order_release);
  }
  uint64_t num_taken() const { return taken_.load(std::memory_order_acquire); }

  bool closed() const { return closed_.load(std::memory_order_acquire); }

  // No more will be put in, or taken out.
  void Close() { closed_.store(true, std::memory_order_release); }

 private:
  Entry entries_[kRoom];
  alignas(64) std::atomic<uint64_t> put_{0};
  alignas(64) std::atomic<uint64_t> taken_{0};
  alignas(64) std::atomic<bool> closed_{false};
};

absl::Status RunPipelined(TradingModel& model, FeatureDecoder& decoder,
                          const Bursts& bursts, bool one_by_one,
                          const Schedule& schedule, TradingRun& run) {
  auto queue = std::make_unique<TickQueue>();
  absl::Status decoded;
  std::thread decode([&] {
    uint64_t num_put = 0;
    for (size_t i = 0; i < bursts.size(); ++i) {
      if (one_by_one)
        WaitFor(
            [&] { return queue->num_taken() == num_put || queue->closed(); });
      const double arrival = schedule.Await(i);
      std::vector<TickQueue::Entry> entries;
      for (size_t j = 0; j < bursts[i].size(); ++j) {
        const absl::StatusOr<TickRow> row = decoder.Decode(bursts[i][j]);
        if (!row.ok()) {
          decoded = row.status();
          return queue->Close();
        }
        entries.push_back({*row, arrival});
        if (entries.size() < kDecodedTicks && j + 1 < bursts[i].size()) {
          continue;
        }
        if (!queue->Put(entries)) return queue->Close();
        num_put += entries.size();
        entries.clear();
      }
    }
    queue->Close();
  });
  const uint64_t most = model.max_ticks();
  std::vector<TickRow> rows(most);
  std::vector<Decision> decisions(most);
  absl::Status status;
  while (true) {
    const auto entries = queue->Await(most);
    if (entries.empty()) break;
    const size_t count = entries.size();
    for (size_t i = 0; i < count; ++i) rows[i] = entries[i].row;
    status =
        model.Decide(absl::MakeConstSpan(rows).first(count), decisions.data());
    if (!status.ok()) {
      queue->Close();
      break;
    }
    const double now = schedule.now();
    for (size_t i = 0; i < count; ++i) {
      run.latency_us.push_back(now - entries[i].arrival_us);
    }
    run.decisions.insert(run.decisions.end(), decisions.begin(),
                         decisions.begin() + static_cast<int64_t>(count));
    queue->Taken(count);
  }
  decode.join();
  return status.ok() ? decoded : status;
}

}  // namespace

absl::StatusOr<TradingRun> RunTrading(TradingMode mode, TradingModel& model,
                                      int64_t num_symbols, const Bursts& bursts,
                                      const std::vector<double>& arrival_us) {
  TradingRun run;
  FeatureDecoder decoder(num_symbols);
  model.Forget();
  const Schedule schedule(arrival_us);
  const absl::Status status =
      mode == TradingMode::kPipelined
          ? RunPipelined(model, decoder, bursts, arrival_us.empty(), schedule,
                         run)
          : RunSerial(mode == TradingMode::kByTick, model, decoder, bursts,
                      schedule, run);
  RETURN_IF_ERROR(status);
  run.seconds = 1e-6 * schedule.now();
  return run;
}

}  // namespace strata
