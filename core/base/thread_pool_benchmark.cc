// bazel run -c opt //core/base:thread_pool_benchmark

#include <cstdint>

#include "benchmark/benchmark.h"
#include "core/base/thread_pool.h"

namespace strata {
namespace {

// One loop with an empty body: what it costs to hand work out and to gather it.
void BM_Dispatch(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    pool.ParallelFor(state.range(1),
                     [](int64_t i) { benchmark::DoNotOptimize(i); });
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(BM_Dispatch)
    ->ArgNames({"threads", "indexes"})
    ->ArgsProduct({{1, 2, 4}, {2, 16, 256}})
    ->UseRealTime();

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
