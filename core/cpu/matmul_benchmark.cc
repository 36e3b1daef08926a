// Speed of MatMul over that of one large product per thread (the machine's
// SGEMM peak, measured first in the same run), at the shapes of a training
// step.
//
//   bazel run -c opt //core/cpu:matmul_benchmark
//
// `over_peak` is the share of that peak; operands are warm, as far as they fit.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/cpu_backend.h"
#include "core/cpu/gemm.h"
#include "core/cpu/matmul.h"
#include "core/graph/builder.h"
#include "core/ops/matmul.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/sgemm_peak.h"

namespace strata {
namespace {

// The three products of a layer: y = x w^T, dx = dy w, dw = dy^T x.
enum class Product { kForward, kInputGrad, kWeightGrad };

void BM_MatMul(benchmark::State& state, Product product, int64_t m, int64_t k,
               int64_t n, double peak) {
  KernelRegistry kernels;
  RegisterMatMulKernels(kernels);
  CpuBackend backend(NumUsableCores(), std::move(kernels));
  StateStore store(backend);
  GraphBuilder b(DType::kF32);
  const ValueId x = b.Input("x", DType::kF32, {Static(m), Static(k)});
  const ValueId w = b.Input("w", DType::kF32, {Static(n), Static(k)});
  const ValueId dy = b.Input("dy", DType::kF32, {Static(m), Static(n)});
  switch (product) {
    case Product::kForward:
      b.Output("y", Linear(b, x, w));
      break;
    case Product::kInputGrad:
      b.Output("dx", MatMul(b, dy, w));
      break;
    case Product::kWeightGrad:
      b.Output("dw", MatMul(b, dy, x, /*transpose_lhs=*/true));
      break;
  }
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  auto program = Program::Compile(*std::move(graph), backend, store);
  CHECK(program.ok()) << program.status().ToString();
  for (const char* name : {"x", "w", "dy"}) {
    for (float& value : (*program)->Input(name).span<float>()) value = 0.5f;
  }
  const auto run = [&] {
    const absl::Status status = (*program)->Run();
    CHECK(status.ok()) << status.ToString();
  };
  run();  // Touches the pages of the result.
  for (auto _ : state) run();
  const double flops = 2.0 * m * k * n * state.iterations();
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsRate);
  state.counters["over_peak"] =
      benchmark::Counter(flops / peak, benchmark::Counter::kIsRate);
}

void RegisterAll(double peak) {
  struct Shape {
    int64_t m, k, n;
  };
  // Tokens of a step by the layers of the demo and small models, their output
  // layers, a gate's, and one token of decoding.
  constexpr Shape kShapes[] = {
      {2048, 128, 128},  {2048, 128, 384}, {2048, 256, 256},   {2048, 512, 512},
      {2048, 512, 1536}, {2048, 512, 256}, {2048, 512, 32000}, {2048, 512, 32},
      {64, 512, 1536},   {1, 512, 1536}};
  const std::pair<const char*, Product> kProducts[] = {
      {"Forward", Product::kForward},
      {"InputGrad", Product::kInputGrad},
      {"WeightGrad", Product::kWeightGrad}};
  for (const Shape& s : kShapes) {
    for (const auto& [name, product] : kProducts) {
      if (s.m == 1 && product != Product::kForward) continue;
      benchmark::RegisterBenchmark(
          absl::StrCat("BM_MatMul/", name, "/m:", s.m, "/k:", s.k, "/n:", s.n)
              .c_str(),
          BM_MatMul, product, s.m, s.k, s.n, peak)
          ->MeasureProcessCPUTime()
          ->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const double peak = strata::SgemmPeak();
  benchmark::AddCustomContext("sgemm_peak_flop_per_s", absl::StrCat(peak));
  strata::RegisterAll(peak);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
