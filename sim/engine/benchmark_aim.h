// What a benchmark is wanted to take, beside what it takes.
//
//   const Aim aim(/*seconds=*/10e-3);
//   for (auto _ : state) ...
//   aim.Report(state);   // counters aim_ms and percent_of_aim
//
// CPU time of the process, since wall time says little on a shared machine.

#ifndef SIM_ENGINE_BENCHMARK_AIM_H_
#define SIM_ENGINE_BENCHMARK_AIM_H_

#include <sys/resource.h>
#include <time.h>

#include "benchmark/benchmark.h"

namespace strata::sim {

class Aim {
 public:
  explicit Aim(double seconds) : seconds_(seconds), begin_(CpuSeconds()) {}

  // After the last iteration.
  void Report(benchmark::State& state) const {
    const double each =
        (CpuSeconds() - begin_) / static_cast<double>(state.iterations());
    state.counters["aim_ms"] = 1e3 * seconds_;
    state.counters["percent_of_aim"] = 100 * each / seconds_;
  }

  // Of what is a rate: `seconds` is that of one item, and there were so many.
  void ReportRate(benchmark::State& state, double items) const {
    const double rate = items / (CpuSeconds() - begin_);
    state.counters["per_s"] = rate;
    state.counters["aim_per_s"] = 1 / seconds_;
    state.counters["times_aim"] = rate * seconds_;
  }

 private:
  static double CpuSeconds() {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * time.tv_nsec;
  }

  double seconds_;
  double begin_;
};

// Of the process so far.
inline void ReportPeakMemory(benchmark::State& state, double aim_mib) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  state.counters["peak_mib"] = static_cast<double>(usage.ru_maxrss) / 1024;
  state.counters["aim_mib"] = aim_mib;
}

}  // namespace strata::sim

#endif  // SIM_ENGINE_BENCHMARK_AIM_H_
