#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/ops/fused_attention.h"
#include "core/ops/packed_cache.h"
#include "core/ops/quant_fused.h"
#include "core/quant/cache_format.h"
#include "core/quant/format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// Attention over latents in codes that both backends have stored alike, with
// what fusion puts behind it.

namespace strata::gpu {
namespace {

constexpr int64_t kBlockSize = 16;

// One sequence whose last tokens are given.
struct Codes {
  const char* name;
  CacheOptions cache;
  int64_t tokens, context, d, heads, nope, rope, value, rank;
  int64_t window = 0;
  QuantFormat format = {/*bits=*/0, 0, false};  // Of the projection; 0: BF16.

  int64_t slots() const {
    return (context + tokens + kBlockSize) / kBlockSize * kBlockSize;
  }
  int64_t width() const { return rank + rope; }
};
using LatentCodesTest = DeviceTest<Codes>;

std::vector<ValueId> Build(GraphBuilder& b, const Codes& p) {
  const Dim t = Tokens(b, p.tokens), slots = Static(p.slots());
  const ValueId cache =
      b.State("cache", DType::kU8,
              {slots, Static(CacheRowBytes(p.cache.format, 1, p.width()))});
  PackedCacheWrite(b, cache, FloatInput(b, "rows", slots, p.width()),
                   b.Input("row", DType::kI32, {slots}), 1, p.cache);
  const ValueId q = FloatInput(b, "q", t, p.heads * p.width());
  const ValueId h = FloatInput(b, "h", t, p.d);
  const ValueId w =
      WeightInput(b, "w", {Static(p.d), Static(p.heads * p.value)}, p.format);
  const ValueId kv_b = b.Parameter(
      "kv_b", {Static(p.heads * (p.nope + p.value)), Static(p.rank)});
  const ValueId position = b.Input("position", DType::kI32, {t});
  const Attrs attrs = {{"num_heads", p.heads},
                       {"num_kv_heads", int64_t{1}},
                       {"scale", 0.05},
                       {"window", p.window},
                       {"block_size", kBlockSize},
                       {"rank", p.rank},
                       {"value_dim", p.rank},
                       {"format", static_cast<int64_t>(p.cache.format)},
                       {"attention_bits", int64_t{p.cache.attention_bits}},
                       {"nope", p.nope},
                       {"rope", p.rope},
                       {"value", p.value},
                       {"in_place", int64_t{kNumPackedInputs}}};
  const auto attend = [&](ValueId table, ValueId where) {
    return b.Add(p.format.bits != 0 ? kQuantPackedLatentAttendProject
                                    : kPackedLatentAttendProject,
                 {q, cache, kNone, table, where, position, h, w, kNone, kv_b},
                 attrs)[0];
  };
  b.Output("rows", attend(kNone, b.Input("first_row", DType::kI32, {t})));
  b.Output("paged", attend(b.Input("table", DType::kI32,
                                   {Static(1), Static(p.slots() / kBlockSize)}),
                           b.Input("sequence", DType::kI32, {t})));
  return {};
}

absl::Status Compare(const Codes& p, double roundings, Precision precision) {
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (view.dtype == DType::kBF16) return FillBf16Weight(view);
    if (name == "w") {
      FillPacked(view, p.format, p.heads * p.value);
      return true;
    }
    if (name == "kv_b") {
      float* const to = view.as<float>();
      for (int64_t i = 0; i < view.num_elements(); ++i) {
        to[i] = 0.001f * static_cast<float>((i * 53 + i / 29) % 173 - 86);
      }
      return true;
    }
    if (name == "table" || name == "row") {
      return FillConsecutive(view, 0, p.slots());
    }
    return name == "position" && FillConsecutive(view, p.context, p.slots());
  };
  CompareOptions options;
  options.roundings = roundings;
  options.fill = WithRows(p.tokens, fill);
  options.precision = precision;
  return CompareBackends([&](GraphBuilder& b) { return Build(b, p); }, options);
}

TEST_P(LatentCodesTest, AgreesWithTheCpu) {
  const Codes& p = GetParam();
  const double roundings =
      256. + 4. * static_cast<double>(p.d + p.rank + p.heads * p.value) +
      static_cast<double>(p.context + p.tokens);
  EXPECT_THAT(Compare(p, roundings, Precision::kF32), IsOk());
}

TEST_P(LatentCodesTest, RoundedOperandsStayWithinTheirRounding) {
  EXPECT_THAT(Compare(GetParam(), /*roundings=*/16, Precision::kBf16), IsOk());
}

// Tokens about what a cluster has, few rows and a batch have; keys about a
// tile's 64, a cluster's first tile and the most that it takes, and pieces;
// heads about 16, 32 and 64; widths that have no kernel of their own.
constexpr CacheOptions kInt8Cache = {CacheFormat::kInt8},
                       kInt4Cache = {CacheFormat::kInt4};
INSTANTIATE_TEST_SUITE_P(
    Cases, LatentCodesTest,
    testing::Values(
        Codes{"int8_first", kInt8Cache, 1, 0, 256, 16, 128, 64, 128, 512},
        Codes{"int4_first", kInt4Cache, 1, 0, 256, 16, 128, 64, 128, 512},
        Codes{"int8_one", kInt8Cache, 1, 700, 512, 16, 128, 64, 128, 512},
        Codes{"int4_one", kInt4Cache, 1, 700, 512, 16, 128, 64, 128, 512},
        Codes{"int8_seven", kInt8Cache, 7, 1033, 256, 16, 64, 64, 64, 512},
        Codes{"int4_two", kInt4Cache, 2, 1024, 256, 16, 32, 64, 48, 512},
        Codes{"int8_most", kInt8Cache, 1, 1520, 256, 16, 32, 64, 16, 512},
        Codes{"int8_pieces", kInt8Cache, 1, 1600, 256, 16, 128, 64, 128, 512},
        Codes{"int4_pieces", kInt4Cache, 3, 2000, 256, 16, 32, 64, 128, 512},
        Codes{"int8_eight", kInt8Cache, 8, 250, 256, 16, 64, 64, 64, 512},
        Codes{"int4_nine", kInt4Cache, 9, 55, 256, 16, 64, 64, 64, 512},
        Codes{"int8_heads_17", kInt8Cache, 3, 200, 256, 17, 32, 64, 16, 512},
        Codes{"int4_heads_32", kInt4Cache, 3, 200, 256, 32, 32, 64, 16, 512},
        Codes{"int8_heads_33", kInt8Cache, 9, 130, 256, 33, 32, 64, 64, 512},
        Codes{"int8_heads_64", kInt8Cache, 5, 63, 256, 64, 32, 64, 16, 512},
        Codes{"int4_heads_80", kInt4Cache, 2, 127, 256, 80, 32, 64, 16, 512},
        Codes{"int8_heads_128", kInt8Cache, 20, 500, 256, 128, 32, 64, 32, 512},
        Codes{"int8_sixty_four", kInt8Cache, 59, 390, 512, 16, 64, 64, 64, 512},
        Codes{"int4_sixty_five", kInt4Cache, 65, 90, 256, 16, 64, 64, 64, 512},
        Codes{"int8_many", kInt8Cache, 150, 20, 256, 4, 32, 64, 16, 512},
        Codes{"int8_window", kInt8Cache, 4, 300, 256, 16, 32, 64, 16, 512, 101},
        Codes{"int4_batch_window", kInt4Cache, 30, 300, 256, 32, 64, 64, 64,
              512, 100},
        Codes{"int8_by_int4",
              kInt8Cache,
              1,
              130,
              512,
              16,
              128,
              64,
              128,
              512,
              0,
              {4, 32, true}},
        Codes{"int4_by_int8",
              kInt4Cache,
              27,
              130,
              512,
              16,
              128,
              64,
              128,
              512,
              0,
              {8, 64, true}},
        Codes{"int8_powers",
              {CacheFormat::kInt8, 5},
              3,
              90,
              256,
              16,
              32,
              64,
              32,
              512},
        Codes{"int8_narrow", kInt8Cache, 12, 40, 256, 5, 64, 8, 16, 64},
        Codes{"int4_plain", kInt4Cache, 5, 40, 72, 3, 20, 8, 10, 24}),
    [](const testing::TestParamInfo<Codes>& info) { return info.param.name; });

}  // namespace
}  // namespace strata::gpu
