// Events a second on one core, with a number of them pending all the time; the
// aim is 2 million.
//
//   bazel run -c opt //sim/engine:event_queue_benchmark

#include <cstdint>

#include "benchmark/benchmark.h"
#include "core/base/random.h"
#include "sim/engine/benchmark_aim.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

// Schedules an event for each that runs, at a time that is hard to foresee.
class Echo : public EventHandler {
 public:
  explicit Echo(EventQueue& queue) : queue_(queue) {}

  void OnEvent(Picoseconds now, uint64_t tag) override {
    state_ = state_ * 6364136223846793005u + tag + 1;  // Knuth's MMIX.
    queue_.Schedule(now + (state_ >> 44), this, tag);
  }

 private:
  EventQueue& queue_;
  uint64_t state_ = 1;
};

void BM_RunEvents(benchmark::State& state) {
  EventQueue queue;
  Echo echo(queue);
  Random random(/*seed=*/1, /*stream=*/0);
  for (int64_t i = 0; i < state.range(0); ++i) {
    queue.Schedule(random.UniformInt(1 << 20), &echo, i);
  }
  const Aim aim(/*seconds=*/0.5e-6);
  for (auto _ : state) queue.RunNext();
  aim.ReportRate(state, static_cast<double>(state.iterations()));
}
BENCHMARK(BM_RunEvents)->ArgName("pending")->Arg(16)->Arg(2048)->Arg(1 << 17);

}  // namespace
}  // namespace strata::sim

BENCHMARK_MAIN();
