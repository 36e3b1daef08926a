// One collective over 1024 ranks, event by event.

#include <cstdint>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "sim/astra/network_config.h"
#include "sim/astra/simulator.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"

namespace strata::astra {
namespace {

// Arguments: ranks, topology, whether congestion aware. One chunk of 1 GiB.
void BM_RingAllReduce(benchmark::State& state) {
  const auto num_ranks = static_cast<int>(state.range(0));
  const absl::StatusOr<chakra::Workload> workload = chakra::CollectiveWorkload(
      num_ranks, ChakraProtoMsg::ALL_REDUCE, int64_t{1} << 30);
  CHECK(workload.ok()) << workload.status().ToString();
  const NetworkConfig network = {
      {{static_cast<Topology>(state.range(1)), num_ranks, 50, 500}}};
  SystemConfig system;
  system.local_bw_aware = true;
  system.local_memory_gbps = 1600;
  system.all_reduce = {Implementation()};
  SimulationOptions options;
  options.congestion_aware = state.range(2) != 0;
  int64_t num_events = 0;
  for (auto _ : state) {
    const absl::StatusOr<SimulationResult> result =
        Simulate(*workload, network, system, RemoteMemoryConfig(), options);
    CHECK(result.ok()) << result.status().ToString();
    num_events += result->num_events;
  }
  state.SetItemsProcessed(num_events);  // Events.
}
BENCHMARK(BM_RingAllReduce)
    ->ArgNames({"ranks", "topology", "aware"})
    ->Args({1024, static_cast<int>(Topology::kRing), 0})
    ->Args({1024, static_cast<int>(Topology::kRing), 1})
    ->Args({1024, static_cast<int>(Topology::kSwitch), 1})
    ->Args({64, static_cast<int>(Topology::kRing), 1})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata::astra

BENCHMARK_MAIN();
