// How long a simulated step takes to simulate.
//
//   BM_Step/<what>    from names to result; the first builds graph and cluster
//   peak_mib          of the process so far

#include <sys/resource.h>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

double PeakMib() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024.0;
}

Scenario DeepSeekV3() {
  Scenario scenario;
  scenario.model = "deepseek-v3";
  scenario.cluster = "h800x2048";
  scenario.layout =
      "pp16,ep64,mbs1,gbs15360,seq4096,fp8,deepep,recompute=selective";
  scenario.schedule = "dualpipe";
  return scenario;
}

// Nothing is kept from one run to the next.
void BM_Step_DeepSeekV3_2048Gpus_Cold(benchmark::State& state) {
  for (auto _ : state) {
    Simulator simulator;
    const absl::StatusOr<StepResult> step = simulator.Run(DeepSeekV3());
    CHECK(step.ok()) << step.status();
    benchmark::DoNotOptimize(step->seconds);
  }
  state.counters["peak_mib"] = PeakMib();
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Cold)->Unit(benchmark::kMillisecond);

// Graph, cluster and calibration are there, as in a sweep.
void BM_Step_DeepSeekV3_2048Gpus_Warm(benchmark::State& state) {
  Simulator simulator;
  CHECK(simulator.Run(DeepSeekV3()).ok());
  for (auto _ : state) {
    benchmark::DoNotOptimize(simulator.Run(DeepSeekV3())->seconds);
  }
  state.counters["peak_mib"] = PeakMib();
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Warm)->Unit(benchmark::kMillisecond);

// Loads that differ by layer and expert; the step without them is simulated
// too.
void BM_Step_DeepSeekV3_2048Gpus_Uneven(benchmark::State& state) {
  for (auto _ : state) {
    Simulator simulator;
    Scenario scenario = DeepSeekV3();
    scenario.loads =
        PowerLawLoads((*simulator.Model(scenario.model))->gates(), 0.5, 1);
    const absl::StatusOr<StepResult> step = simulator.Run(scenario);
    CHECK(step.ok()) << step.status();
    benchmark::DoNotOptimize(step->seconds);
  }
  state.counters["peak_mib"] = PeakMib();
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Uneven)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata::sim

BENCHMARK_MAIN();
