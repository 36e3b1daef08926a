// bazel run -c opt //core/cpu/quant:quant_product_benchmark
//
// The kernel alone, one thread: pieces of 64 KB of weights, one row of x, from
// the second cache (weights of 400 KB) and from memory (256 MB); and rounding a
// row of x. Bytes are those of packed rows.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/cpu/quant/quant_product.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/buffer.h"
#include "core/testing/random_bits.h"

namespace strata {
namespace {

// One row of x, rounded.
struct Activations {
  Buffer memory;
  std::vector<float> x;
  QuantizedRows rows;

  explicit Activations(int64_t columns) : x(columns) {
    RandomBits bits;
    for (float& v : x) v = static_cast<int32_t>(bits.Next()) * 1e-9f;
    absl::StatusOr<Buffer> buffer =
        Buffer::Allocate(QuantizedRows::NumBytes(1, columns));
    CHECK(buffer.ok()) << buffer.status();
    memory = *std::move(buffer);
    rows = QuantizedRows::At(memory.data(), 1, columns);
    Round();
  }
  void Round() {
    QuantProduct::Get().quantize(x.data(), static_cast<int64_t>(x.size()), 0, 1,
                                 rows);
  }
};

void BM_Dots(benchmark::State& state) {
  const QuantFormat format = {static_cast<int>(state.range(0)), 32, true};
  const int64_t columns = state.range(1), bytes = state.range(2) << 10;
  const PackedRow row(format, columns);
  absl::StatusOr<Buffer> weights = Buffer::Allocate(bytes);
  CHECK(weights.ok()) << weights.status();
  RandomBits bits;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    // As scales they are between 2^-31 and 2, of either sign: numbers that are
    // not normal would take longer than those of a model.
    const uint64_t word =
        (bits.Next() & 0xBFFFBFFFBFFFBFFF) | 0x3000300030003000;
    *reinterpret_cast<uint64_t*>(weights->data() + i) = word;
  }
  Activations x(columns);
  const int64_t n = 65536 / row.bytes;
  std::vector<float> y(n);
  int64_t at = 0;
  for (auto _ : state) {
    if (at + n * row.bytes > bytes) at = 0;
    QuantProduct::Get().dots(
        x.rows, 0, 1, reinterpret_cast<const uint8_t*>(weights->data()) + at,
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
  Activations x(state.range(0));
  for (auto _ : state) x.Round();
}
BENCHMARK(BM_Round)->ArgName("columns")->Arg(384)->Arg(1024);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
