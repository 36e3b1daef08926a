// bazel run -c opt //core/cpu/quant:quant_product_benchmark
//
// The kernel alone, one thread: pieces of 64 KB of weights, one row of x, from
// the second cache (weights of 400 KB) and from memory (256 MB); and rounding a
// row of x. Bytes are those of packed rows.
//
// Many rows of x by 256 of w: row by row, by panels, and widened in tiles of
// 128 for Gemm; each time other rows of 64 MB, as experts come from memory.
// Items are multiply-adds.

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/cpu/gemm.h"
#include "core/cpu/quant/quant_panel.h"
#include "core/cpu/quant/quant_product.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/buffer.h"
#include "core/testing/random_bits.h"

namespace strata {
namespace {

Buffer Allocate(int64_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  CHECK(buffer.ok()) << buffer.status();
  return *std::move(buffer);
}

// Packed rows of random bits, with scales between 2^-31 and 2 of either sign
// among the codes: what counts is time, and numbers that are not normal would
// take longer than those of a model.
Buffer RandomRows(int64_t bytes) {
  Buffer buffer = Allocate(bytes);
  RandomBits bits;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    const uint64_t word =
        (bits.Next() & 0xBFFFBFFFBFFFBFFF) | 0x3000300030003000;
    std::memcpy(buffer.data() + i, &word, sizeof(word));
  }
  return buffer;
}

// Rows of x, rounded.
struct Activations {
  int64_t m, columns;
  Buffer memory;
  std::vector<float> x;
  QuantizedRows rows;

  Activations(int64_t m, int64_t columns)
      : m(m),
        columns(columns),
        memory(Allocate(QuantizedRows::NumBytes(m, columns))),
        x(m * columns) {
    RandomBits bits;
    for (float& v : x) v = static_cast<int32_t>(bits.Next()) * 1e-9f;
    rows = QuantizedRows::At(memory.data(), m, columns);
    Round();
  }
  void Round() { QuantProduct::Get().quantize(x.data(), columns, 0, m, rows); }
};

void BM_Dots(benchmark::State& state) {
  const QuantFormat format = {static_cast<int>(state.range(0)), 32, true};
  const int64_t columns = state.range(1), bytes = state.range(2) << 10;
  const PackedRow row(format, columns);
  const Buffer weights = RandomRows(bytes);
  const Activations x(1, columns);
  const int64_t n = 65536 / row.bytes;
  std::vector<float> y(n);
  int64_t at = 0;
  for (auto _ : state) {
    if (at + n * row.bytes > bytes) at = 0;
    QuantProduct::Get().dots(
        x.rows, 0, 1, reinterpret_cast<const uint8_t*>(weights.data()) + at,
        format, columns, n, y.data(), n);
    at += n * row.bytes;
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() * n * row.bytes);
}
BENCHMARK(BM_Dots)
    ->ArgNames({"bits", "columns", "kb"})
    ->ArgsProduct({{2, 4, 8}, {384, 1024}, {400, 262144}});

void BM_Round(benchmark::State& state) {
  Activations x(1, state.range(0));
  for (auto _ : state) x.Round();
}
BENCHMARK(BM_Round)->ArgName("columns")->Arg(384)->Arg(1024);

// Rows of w that are multiplied at a time, and those of a tile that is widened.
constexpr int64_t kRows = 256;
constexpr int64_t kTileColumns = 128;
constexpr int64_t kManyBytes = 64 << 20;

// What benchmarks of many rows have in common.
struct Many {
  QuantFormat format;
  int64_t k, m, bytes, at = 0;
  Buffer weights;
  Activations x;
  std::vector<float> y;  // [m, kRows]

  explicit Many(const benchmark::State& state)
      : format({static_cast<int>(state.range(0)), 32, true}),
        k(state.range(1)),
        m(state.range(2)),
        bytes(PackedRow(format, k).bytes),
        weights(RandomRows(kManyBytes)),
        x(m, k),
        y(m * kRows) {}

  // The next kRows.
  const uint8_t* Next() {
    at += kRows * bytes;
    if (at + kRows * bytes > kManyBytes) at = 0;
    return reinterpret_cast<const uint8_t*>(weights.data()) + at;
  }
  void Count(benchmark::State& state) const {
    state.SetItemsProcessed(state.iterations() * m * kRows * k);
  }
};

void BM_DotsOfMany(benchmark::State& state) {
  Many many(state);
  for (auto _ : state) {
    QuantProduct::Get().dots(many.x.rows, 0, many.m, many.Next(), many.format,
                             many.k, kRows, many.y.data(), kRows);
    benchmark::DoNotOptimize(many.y.data());
  }
  many.Count(state);
}

void BM_Panel(benchmark::State& state) {
  if (QuantPanel::Get().multiply == nullptr) {
    state.SkipWithError("this processor has no panels");
    return;
  }
  Many many(state);
  Buffer panel = Allocate(PanelBytes(many.k));
  for (auto _ : state) {
    const uint8_t* const w = many.Next();
    for (int64_t j = 0; j < kRows; j += kPanelRows) {
      QuantPanel::Get().multiply(many.x.rows, 0, many.m, w + j * many.bytes,
                                 many.format, many.k, kPanelRows, panel.data(),
                                 many.y.data() + j, kRows);
    }
    benchmark::DoNotOptimize(many.y.data());
  }
  many.Count(state);
}

void BM_WidenAndGemm(benchmark::State& state) {
  Many many(state);
  std::vector<float> wide(kTileColumns * many.k);
  for (auto _ : state) {
    const uint8_t* const w = many.Next();
    for (int64_t j = 0; j < kRows; j += kTileColumns) {
      QuantProduct::Get().widen(w + j * many.bytes, many.format, many.k,
                                kTileColumns, wide.data());
      GemmArgs<float> g;
      g.transpose_b = true;
      g.m = many.m;
      g.n = kTileColumns;
      g.k = g.lda = g.ldb = many.k;
      g.a = many.x.x.data();
      g.b = wide.data();
      g.c = many.y.data() + j;
      g.ldc = kRows;
      Gemm(g);
    }
    benchmark::DoNotOptimize(many.y.data());
  }
  many.Count(state);
}

void ManyRows(benchmark::internal::Benchmark* b) {
  b->ArgNames({"bits", "columns", "rows"})
      ->ArgsProduct({{2, 4, 8}, {384, 1024}, {4, 6, 48, 256}});
}
BENCHMARK(BM_DotsOfMany)->Apply(ManyRows);
BENCHMARK(BM_Panel)->Apply(ManyRows);
BENCHMARK(BM_WidenAndGemm)->Apply(ManyRows);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
