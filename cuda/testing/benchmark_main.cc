// Runs the benchmarks of all sets that are linked, below the limits that their
// figures are held to.

#include <cstdio>

#include "benchmark/benchmark.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda/testing/gpu_limits.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::fprintf(stderr, "copy %.0f GB/s, cuBLAS BF16 %.0f TFLOP/s\n",
               1e-9 * strata::gpu::CopyBandwidth(),
               1e-12 * strata::gpu::BlasBf16Peak());
  for (const strata::gpu::BenchmarkSet::Add add :
       strata::gpu::BenchmarkSet::All()) {
    add();
  }
  benchmark::RunSpecifiedBenchmarks();
}
