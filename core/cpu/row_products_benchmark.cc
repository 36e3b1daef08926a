// bazel run -c opt //core/cpu:row_products_benchmark
//
// Products of rows that do not know each other beside Gemm's, on one thread, at
// shapes of a decoder of width 1024 that serves 1 to 64 sequences: a projection
// and an expert's two. `b` is read again and again, so it comes from the caches
// (BF16: 2 MB and 0.8 MB, F32: twice that).

#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/cpu/gemm.h"
#include "core/cpu/row_products.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

enum class Kind { kGemm, kRows, kNarrowRows };

template <Kind kKind>
void BM_Product(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const std::vector<float> a(m * k, 0.5f), b(n * k, 0.25f);
  const std::vector<BFloat16> narrow(n * k, RoundToBFloat16(0.25f));
  std::vector<float> c(m * n);
  for (auto _ : state) {
    if constexpr (kKind == Kind::kGemm) {
      GemmArgs<float> g;
      g.transpose_b = true;
      g.m = m, g.n = n, g.k = g.lda = g.ldb = k;
      g.a = a.data(), g.b = b.data(), g.c = c.data(), g.ldc = n;
      Gemm(g);
    } else if constexpr (kKind == Kind::kRows) {
      RowProductArgs<float> g;
      g.m = m, g.n = n, g.k = g.lda = g.ldb = k;
      g.a = a.data(), g.b = b.data(), g.c = c.data(), g.ldc = n;
      RowProducts<float>::Get().by_dots(g);
    } else {
      RowProductArgs<float, BFloat16> g;
      g.m = m, g.n = n, g.k = g.lda = g.ldb = k;
      g.a = a.data(), g.b = narrow.data(), g.c = c.data(), g.ldc = n;
      NarrowRowProducts::Get().by_dots(g);
    }
    benchmark::DoNotOptimize(c.data());
  }
  state.counters["FLOPS"] = benchmark::Counter(
      2.0 * m * n * k, benchmark::Counter::kIsIterationInvariantRate);
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k"});
  for (const int64_t m : {1, 4, 6, 16, 64}) {
    benchmark->Args({m, 1024, 1024});
    benchmark->Args({m, 384, 1024});
    benchmark->Args({m, 1024, 384});
  }
  benchmark->Args({64, 256, 128});
}
BENCHMARK(BM_Product<Kind::kGemm>)->Apply(Shapes);
BENCHMARK(BM_Product<Kind::kRows>)->Apply(Shapes);
BENCHMARK(BM_Product<Kind::kNarrowRows>)->Apply(Shapes);

// Weights that come from memory, 256 MB of them in turn, by few rows.
void BM_FromMemory(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const int64_t count = (int64_t{128} << 20) / (n * k);
  const std::vector<float> a(m * k, 0.5f);
  const std::vector<BFloat16> b(count * n * k, RoundToBFloat16(0.25f));
  std::vector<float> c(m * n);
  int64_t turn = 0;
  for (auto _ : state) {
    RowProductArgs<float, BFloat16> g;
    g.m = m, g.n = n, g.k = g.lda = g.ldb = k;
    g.a = a.data(), g.c = c.data(), g.ldc = n;
    g.b = b.data() + turn++ % count * n * k;
    NarrowRowProducts::Get().by_dots(g);
    benchmark::DoNotOptimize(c.data());
  }
  state.SetBytesProcessed(state.iterations() * n * k * 2);
  state.counters["FLOPS"] = benchmark::Counter(
      2.0 * m * n * k, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_FromMemory)
    ->ArgNames({"m", "n", "k"})
    ->ArgsProduct({{1, 3, 6, 16, 32}, {384}, {1024}})
    ->ArgsProduct({{1, 3, 6, 16, 32}, {1024}, {384}});

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
