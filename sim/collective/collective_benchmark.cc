// The time that the simulator takes for one collective.
//
//   bazel run -c opt //sim/collective:collective_benchmark
//
// Counter "simulated_us": what it answers. Those over 1024 GPUs have an aim:
// "percent_of_aim" is what they take of it.

#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective.h"
#include "sim/collective/moe_dispatch.h"
#include "sim/engine/benchmark_aim.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

// Wanted of 1024 GPUs, in seconds.
constexpr double kOneCollective = 10e-3;
constexpr double kUnevenAllToAll = 1;

Cluster H100(int num_gpus) {
  ClusterConfig config = *ClusterPreset("h100");
  config.mutable_nodes(0)->set_count(num_gpus / 8);
  absl::StatusOr<Cluster> cluster = Cluster::Create(config);
  CHECK(cluster.ok()) << cluster.status();
  return *std::move(cluster);
}

// `aim_seconds` is for 1024 GPUs; no other number has one.
void RunCollective(benchmark::State& state, CollectiveRequest request,
                   Folding folding, double aim_seconds) {
  const int num_gpus = state.range(0);
  const Cluster cluster = H100(num_gpus);
  const CollectiveModel model(cluster, folding);
  request.group.count = num_gpus;
  request.bytes = 1 << 30;
  double simulated_us = 0;
  const Aim aim(aim_seconds);
  for (auto _ : state) {
    const absl::StatusOr<CollectiveCost> cost = model.Cost(request);
    CHECK(cost.ok()) << cost.status();
    simulated_us = ToMicroseconds(cost->time);
  }
  state.counters["simulated_us"] = simulated_us;
  if (num_gpus == 1024) aim.Report(state);
}

void BM_RingAllReduce(benchmark::State& state) {
  CollectiveRequest request;
  request.algorithm = CollectiveAlgorithm::kRing;
  RunCollective(state, request, Folding::kFold, kOneCollective);
}
BENCHMARK(BM_RingAllReduce)->ArgName("gpus")->Arg(1024)->Arg(16384);

void BM_RingAllReduceUnfolded(benchmark::State& state) {
  CollectiveRequest request;
  request.algorithm = CollectiveAlgorithm::kRing;
  RunCollective(state, request, Folding::kUnfold, kOneCollective);
}
BENCHMARK(BM_RingAllReduceUnfolded)->ArgName("gpus")->Arg(1024)->Arg(16384);

void BM_AutoAllReduce(benchmark::State& state) {
  RunCollective(state, {}, Folding::kFold, kOneCollective);
}
BENCHMARK(BM_AutoAllReduce)->ArgName("gpus")->Arg(1024)->Arg(16384);

void BM_AllToAll(benchmark::State& state) {
  CollectiveRequest request;
  request.kind = CollectiveKind::kAllToAll;
  RunCollective(state, request, Folding::kFold, kOneCollective);
}
BENCHMARK(BM_AllToAll)->ArgName("gpus")->Arg(1024)->Arg(16384);

void BM_AllToAllUnfolded(benchmark::State& state) {
  CollectiveRequest request;
  request.kind = CollectiveKind::kAllToAll;
  RunCollective(state, request, Folding::kUnfold, kUnevenAllToAll);
}
BENCHMARK(BM_AllToAllUnfolded)
    ->ArgName("gpus")
    ->Arg(1024)
    ->Unit(benchmark::kMillisecond);

// A random size for every pair: nothing folds.
void BM_AllToAllV(benchmark::State& state) {
  const int num_gpus = state.range(0);
  Random random(/*seed=*/1, /*stream=*/0);
  std::vector<double> matrix(num_gpus * num_gpus);
  for (double& bytes : matrix) bytes = 2e6 * random.Uniform();
  CollectiveRequest request;
  request.kind = CollectiveKind::kAllToAllV;
  request.bytes_matrix = matrix;
  RunCollective(state, request, Folding::kFold, kUnevenAllToAll);
}
BENCHMARK(BM_AllToAllV)
    ->ArgName("gpus")
    ->Arg(64)
    ->Arg(1024)
    ->Unit(benchmark::kMillisecond);

// DeepSeek-V3's dispatch and combine over 64 GPUs with skewed loads.
void BM_MoeDispatch(benchmark::State& state) {
  const int num_gpus = state.range(0);
  const Cluster cluster = H100(num_gpus);
  const CollectiveModel model(cluster);
  Random random(/*seed=*/1, /*stream=*/0);
  std::vector<double> load(256);
  for (double& tokens : load) tokens = 1 + random.Uniform();
  MoeDispatchRequest request;
  request.group.count = num_gpus;
  request.tokens_per_rank = 4096;
  request.hidden = 7168;
  request.num_experts = load.size();
  request.top_k = 8;
  request.node_limit = 4;
  request.expert_load = load;
  double simulated_us = 0;
  for (auto _ : state) {
    const absl::StatusOr<MoeDispatchCost> cost = MoeDispatch(model, request);
    CHECK(cost.ok()) << cost.status();
    simulated_us = ToMicroseconds(cost->dispatch.time);
  }
  state.counters["simulated_us"] = simulated_us;
}
BENCHMARK(BM_MoeDispatch)->ArgName("gpus")->Arg(64)->Arg(256);

}  // namespace
}  // namespace strata::sim

BENCHMARK_MAIN();
