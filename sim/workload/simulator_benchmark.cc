// How long a simulated step takes to simulate.
//
//   BM_Step/<what>    from names to result; the first builds graph and cluster
//   peak_mib          of the process so far

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"
#include "sim/engine/benchmark_aim.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/load_replay.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

// Wanted, in seconds and MiB.
constexpr double kBalancedStep = 2;
constexpr double kRoutedStep = 20;
constexpr double kMemory = 2000;

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
  const Aim aim(kBalancedStep);
  for (auto _ : state) {
    Simulator simulator;
    const absl::StatusOr<StepResult> step = simulator.Run(DeepSeekV3());
    CHECK(step.ok()) << step.status();
    benchmark::DoNotOptimize(step->seconds);
  }
  aim.Report(state);
  ReportPeakMemory(state, kMemory);
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Cold)->Unit(benchmark::kMillisecond);

// Graph, cluster and calibration are there, as in a sweep.
void BM_Step_DeepSeekV3_2048Gpus_Warm(benchmark::State& state) {
  Simulator simulator;
  CHECK(simulator.Run(DeepSeekV3()).ok());
  const Aim aim(kBalancedStep);
  for (auto _ : state) {
    benchmark::DoNotOptimize(simulator.Run(DeepSeekV3())->seconds);
  }
  aim.Report(state);
  ReportPeakMemory(state, kMemory);
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Warm)->Unit(benchmark::kMillisecond);

// Loads that differ by layer and expert; the step without them is simulated
// too.
void BM_Step_DeepSeekV3_2048Gpus_Uneven(benchmark::State& state) {
  const Aim aim(kRoutedStep);
  for (auto _ : state) {
    Simulator simulator;
    Scenario scenario = DeepSeekV3();
    scenario.loads =
        PowerLawLoads((*simulator.Model(scenario.model))->gates(), 0.5, 1);
    const absl::StatusOr<StepResult> step = simulator.Run(scenario);
    CHECK(step.ok()) << step.status();
    benchmark::DoNotOptimize(step->seconds);
  }
  aim.Report(state);
  ReportPeakMemory(state, kMemory);
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_Uneven)->Unit(benchmark::kMillisecond);

constexpr int kGates = 58;
constexpr int kExperts = 256;
constexpr int kTopK = 8;
constexpr int kTokens = 2048;
constexpr int kSteps = 16;

// Eight different experts a token, those of small numbers more often.
std::vector<int32_t> SkewedChoices(Random& random) {
  std::vector<int32_t> expert;
  for (int token = 0; token < kTokens; ++token) {
    const auto first = static_cast<std::ptrdiff_t>(expert.size());
    while (expert.size() < static_cast<size_t>(first) + kTopK) {
      const double u = random.Uniform();
      const auto e = static_cast<int32_t>(u * u * kExperts);
      if (std::find(expert.begin() + first, expert.end(), e) == expert.end()) {
        expert.push_back(e);
      }
    }
  }
  return expert;
}

// A trace of DeepSeek-V3's own gates.
void WriteRouting(const std::string& path) {
  RoutingTraceHeader header;
  header.set_format_version(kRoutingTraceVersion);
  header.set_recorded_by(RoutingTraceHeader::TRAIN);
  header.set_num_ranks(8);
  header.add_domains("text");
  for (int g = 0; g < kGates; ++g) {
    RoutingGate& gate = *header.add_gates();
    gate.set_layer(3 + g);
    gate.set_num_experts(kExperts);
    gate.set_k_max(kTopK);
  }
  const absl::StatusOr<RoutingLayout> layout = RoutingLayout::Create(header);
  absl::StatusOr<RoutingRecorder> recorder =
      RoutingRecorder::Create(path, header, /*overwrite=*/true);
  CHECK(layout.ok() && recorder.ok()) << recorder.status();
  Random random(/*seed=*/1, /*stream=*/0);
  for (int step = 1; step <= kSteps; ++step) {
    RoutingRecord record;
    record.set_step(step);
    record.add_sequence_tokens(kTokens);
    record.add_sequence_domain(0);
    std::vector<std::vector<int32_t>> expert;
    std::vector<GateChoices> gates;
    for (int gate = 0; gate < kGates; ++gate) {
      expert.push_back(SkewedChoices(random));
    }
    for (const std::vector<int32_t>& of_gate : expert) {
      gates.push_back({kTokens, of_gate, {}, {}});
    }
    CHECK(EncodeChoices(*layout, gates, record).ok());
    CHECK(recorder->Append(record).ok());
  }
  CHECK(recorder->Close().ok());
}

// What --routing does: the trace read, its last window's step, and the balancer
// replayed over all 16 windows, both ways simulated in each.
void BM_Step_DeepSeekV3_2048Gpus_RoutingTrace(benchmark::State& state) {
  const std::string path = std::string(P_tmpdir) + "/simulator_benchmark.trace";
  WriteRouting(path);
  const Aim aim(kRoutedStep);
  for (auto _ : state) {
    Simulator simulator;
    Scenario scenario = DeepSeekV3();
    const absl::StatusOr<std::vector<LoadWindow>> windows =
        ReadWindows(path, /*num_windows=*/64);
    CHECK(windows.ok()) << windows.status();
    scenario.loads = LoadsOfWindow(
        windows->back(), (*simulator.Model(scenario.model))->gates(), path, 1);
    const absl::StatusOr<StepResult> step = simulator.Run(scenario);
    CHECK(step.ok()) << step.status();
    ReplayOptions options;
    options.redundant_per_rank = 1;
    const auto points =
        ReplayLoads(*simulator.Inputs(scenario), *windows, path, options);
    CHECK(points.ok()) << points.status();
    CHECK(points->size() == kSteps) << points->size();
  }
  aim.Report(state);
  ReportPeakMemory(state, kMemory);
  std::remove(path.c_str());
}
BENCHMARK(BM_Step_DeepSeekV3_2048Gpus_RoutingTrace)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata::sim

BENCHMARK_MAIN();
