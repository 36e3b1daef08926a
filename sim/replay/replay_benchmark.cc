// Chakra traces replayed: events a second, and the time of a step of many
// ranks.
//
//   bazel run -c opt //sim/replay:replay_benchmark

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/engine/benchmark_aim.h"
#include "sim/replay/replay.h"

namespace strata::sim {
namespace {

using ::strata::chakra::CollectiveNode;
using ::strata::chakra::ComputeNode;

// Layers of a computation, an all-reduce within each node and, once in eight,
// one of all ranks; no two ranks compute for equally long.
chakra::Workload Layers(int num_ranks, int num_layers) {
  std::vector<chakra::Nodes> ranks(num_ranks);
  for (int rank = 0; rank < num_ranks; ++rank) {
    uint64_t id = 0;
    for (int layer = 0; layer < num_layers; ++layer) {
      const uint64_t compute = ++id;
      ranks[rank].push_back(ComputeNode(compute, 100 + (rank * 7 + layer) % 50,
                                        layer > 0
                                            ? std::vector<uint64_t>{compute - 1}
                                            : std::vector<uint64_t>{}));
      ranks[rank].push_back(
          CollectiveNode(++id, ChakraProtoMsg::ALL_REDUCE, 1 << 24, {compute},
                         layer % 8 == 7 ? "" : absl::StrCat(1 + rank / 8)));
    }
  }
  absl::StatusOr<chakra::Workload> workload = chakra::ToWorkload(ranks);
  CHECK(workload.ok()) << workload.status();
  for (int node = 0; node < num_ranks / 8; ++node) {
    for (int i = 0; i < 8; ++i) {
      workload->groups[1 + node].push_back(8 * node + i);
    }
  }
  return *std::move(workload);
}

void BM_Layers(benchmark::State& state) {
  const int num_ranks = static_cast<int>(state.range(0));
  const chakra::Workload workload = Layers(num_ranks, /*num_layers=*/64);
  const absl::StatusOr<Cluster> cluster =
      LoadCluster(absl::StrCat("h100x", num_ranks));
  CHECK(cluster.ok()) << cluster.status();
  double events = 0;
  const Aim aim(/*seconds=*/0.5e-6);
  for (auto _ : state) {
    const absl::StatusOr<ReplayResult> result =
        ReplayTraces(workload, *cluster, {});
    CHECK(result.ok()) << result.status();
    events += static_cast<double>(result->num_events);
  }
  aim.ReportRate(state, events);
  ReportPeakMemory(state, /*aim_mib=*/2000);
}
BENCHMARK(BM_Layers)->ArgName("ranks")->Arg(64)->Arg(1024)->Unit(
    benchmark::kMillisecond);

}  // namespace
}  // namespace strata::sim

BENCHMARK_MAIN();
