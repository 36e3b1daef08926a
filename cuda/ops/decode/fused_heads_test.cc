#include "cuda/ops/decode/fused_heads.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/ops/fused_attention.h"
#include "core/ops/packed_cache.h"
#include "core/ops/quant_fused.h"
#include "core/ops/rope.h"
#include "core/quant/cache_format.h"
#include "core/quant/format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/head_rows.h"
#include "cuda/runtime/device_array.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::_;

constexpr int64_t kBlockSize = 16;

// One sequence whose last tokens are given; weights are BF16 or packed.
struct Heads {
  const char* name;
  int64_t tokens, context;  // Rows of the caches that came before.
  int64_t d, heads, kv_heads, dim, value, rotary;
  bool interleaved = false, bias = false, norm = false;
  int64_t window = 0;
  QuantFormat format = {/*bits=*/0, 0, false};  // Of projections; 0: BF16.

  int64_t slots() const {
    return (context + tokens + kBlockSize) / kBlockSize * kBlockSize;
  }
};
std::string HeadsName(const testing::TestParamInfo<Heads>& info) {
  return info.param.name;
}
using FusedHeadsTest = DeviceTest<Heads>;

std::vector<ValueId> Build(GraphBuilder& b, const Heads& p) {
  const Dim t = Tokens(b, p.tokens);
  const bool packed = p.format.bits != 0;
  const auto weight = [&](const char* name, int64_t rows, int64_t columns) {
    return WeightInput(b, name, {Static(rows), Static(columns)}, p.format);
  };
  const auto vector = [&](const char* name, int64_t n, bool there = true) {
    return there ? b.Input(name, DType::kF32, {Static(n)}) : kNone;
  };
  const ValueId position = b.Input("position", DType::kI32, {t});
  RopeOptions turn;
  turn.rotary_dim = p.rotary;
  const std::vector<ValueId> table =
      b.Add(kRopeTable, {position}, RopeTableAttrs(turn, DType::kF32));
  const int64_t keys = p.kv_heads * p.dim, values = p.kv_heads * p.value;
  const auto cache = [&](const char* name, int64_t width) {
    return b.State(name, DType::kF32, {Static(p.slots()), Static(width)});
  };
  const ValueId k = cache("k", keys), v = cache("v", values);
  NormQkvOptions options;
  options.num_heads = p.heads;
  options.num_kv_heads = p.kv_heads;
  options.eps = options.qk_eps = 1e-6;
  options.interleaved = p.interleaved;
  const ValueId q =
      b.Add(packed ? kQuantNormQkv : kNormQkv,
            {FloatInput(b, "x", t, p.d), vector("gain", p.d),
             weight("wq", p.heads * p.dim, p.d), weight("wk", keys, p.d),
             weight("wv", values, p.d), vector("bq", p.heads * p.dim, p.bias),
             vector("bk", keys, p.bias), vector("bv", values, p.bias),
             vector("q_gain", p.dim, p.norm), vector("k_gain", p.dim, p.norm),
             table[0], table[1], k, v, b.Input("row", DType::kI32, {t})},
            NormQkvAttrs(options))[0];
  b.Output("q", q);

  const ValueId h = FloatInput(b, "h", t, p.d);
  const ValueId w = weight("w", p.d, p.heads * p.value);
  const ValueId bias = vector("bias", p.d, p.bias);
  const auto attend = [&](const OpDef& op, std::vector<ValueId> inputs,
                          int64_t in_place) {
    for (const ValueId input : {h, w, bias}) inputs.push_back(input);
    return b.Add(op, inputs,
                 {{"num_heads", p.heads},
                  {"num_kv_heads", p.kv_heads},
                  {"scale", 0.05},
                  {"window", p.window},
                  {"block_size", kBlockSize},
                  {"in_place", in_place}})[0];
  };
  b.Output("rows",
           attend(packed ? kQuantCachedAttendProject : kCachedAttendProject,
                  {q, k, v, b.Input("first_row", DType::kI32, {t}), position},
                  /*in_place=*/5));
  b.Output("paged",
           attend(packed ? kQuantPagedAttendProject : kPagedAttendProject,
                  {q, k, v,
                   b.Input("table", DType::kI32,
                           {Static(1), Static(p.slots() / kBlockSize)}),
                   b.Input("sequence", DType::kI32, {t}), position},
                  /*in_place=*/6));
  return {};
}

FillFn Inputs(const Heads& p) {
  return WithRows(
      p.tokens, [p](const std::string& name, const TensorView& view) {
        if (view.dtype == DType::kBF16) return FillBf16Weight(view);
        if (view.dtype == DType::kU8) {
          FillPacked(view, p.format, name == "w" ? p.heads * p.value : p.d);
          return true;
        }
        if (name == "table") return FillConsecutive(view, 0, p.slots());
        if (name != "position" && name != "row") return false;
        return FillConsecutive(view, p.context, p.slots());
      });
}

TEST_P(FusedHeadsTest, AgreesWithTheCpu) {
  const Heads& p = GetParam();
  // Sums over a row, over a head's scores, over keys, over heads.
  const double roundings =
      256. + 4. * static_cast<double>(p.d + p.dim + p.heads * p.value) +
      static_cast<double>(p.context + p.tokens);
  EXPECT_THAT(CompareBackends([&](GraphBuilder& b) { return Build(b, p); },
                              {roundings, Inputs(p)}),
              IsOk());
}

TEST_P(FusedHeadsTest, RoundedOperandsStayWithinTheirRounding) {
  const Heads& p = GetParam();
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) { return Build(b, p); },
                  {/*roundings=*/16, Inputs(p), /*seed=*/1, Precision::kBf16}),
              IsOk());
}

constexpr QuantFormat kInt4 = {4, 32, true}, kInt8 = {8, 32, true};

// Tokens about the 8 and the 64 up to which there are kernels; widths that
// these take and such as they do not; heads that turn whole, in part, in pairs.
INSTANTIATE_TEST_SUITE_P(
    Cases, FusedHeadsTest,
    testing::Values(
        Heads{"one", 1, 0, 256, 4, 2, 64, 64, 64},
        Heads{"one_of_many", 1, 700, 512, 16, 2, 128, 128, 128, true},
        Heads{"three", 3, 61, 256, 8, 1, 64, 64, 32, false, false, true},
        Heads{"eight", 8, 250, 512, 4, 4, 128, 128, 128, false, false, true},
        Heads{"nine", 9, 55, 256, 4, 2, 64, 64, 64},
        Heads{"thirty", 28, 200, 256, 8, 2, 64, 64, 64, true, false, true},
        Heads{"sixty_four", 59, 90, 512, 4, 2, 128, 128, 128},
        Heads{"sixty_five", 60, 90, 256, 4, 2, 64, 64, 64},
        Heads{"window", 4, 300, 256, 4, 2, 64, 64, 64, false, false, false, 70},
        Heads{"biases", 5, 40, 256, 4, 2, 64, 64, 64, false, true},
        Heads{"biases_of_many", 70, 10, 256, 4, 2, 64, 64, 64, false, true,
              true},
        Heads{"odd", 5, 40, 72, 6, 3, 20, 10, 8, false, true},
        Heads{"odd_many", 70, 10, 72, 6, 2, 20, 10, 20, true, false, true},
        Heads{"int4_two", 2, 80, 256, 8, 2, 64, 64, 64, false, false, true, 0,
              kInt4},
        Heads{"int8_twenty", 20, 80, 256, 4, 2, 64, 64, 64, false, false, false,
              0, kInt8},
        Heads{"int4_many", 90, 30, 256, 4, 2, 64, 64, 64, false, true, false, 0,
              kInt4}),
    HeadsName);

// --- Packed caches ---

// Attention over all of them, stored by the operator for that, and what is
// behind it.
struct Packed {
  const char* name;
  CacheOptions cache;
  int64_t tokens, context, d, heads, kv_heads, dim;
  QuantFormat format = {/*bits=*/0, 0, false};  // Of the projection; 0: BF16.
  int64_t window = 0;
};
using PackedAttendProjectTest = DeviceTest<Packed>;

absl::Status ComparePacked(const Packed& p, double roundings,
                           Precision precision) {
  const int64_t slots =
      (p.context + p.tokens + kBlockSize) / kBlockSize * kBlockSize;
  const int64_t width = p.kv_heads * p.dim, columns = p.heads * p.dim;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (view.dtype == DType::kBF16) return FillBf16Weight(view);
    if (name == "w") {
      FillPacked(view, p.format, columns);
      return true;
    }
    if (name == "table" || name == "row") {
      return FillConsecutive(view, 0, slots);
    }
    return name == "position" && FillConsecutive(view, p.context, slots);
  };
  return CompareBackends(
      [&](GraphBuilder& b) {
        const Dim t = Tokens(b, p.tokens);
        const ValueId row = b.Input("row", DType::kI32, {Static(slots)});
        const auto cache = [&](const std::string& name) {
          const ValueId state = b.State(
              name, DType::kU8,
              {Static(slots),
               Static(CacheRowBytes(p.cache.format, p.kv_heads, width))});
          PackedCacheWrite(b, state,
                           FloatInput(b, name + "_rows", Static(slots), width),
                           row, p.kv_heads, p.cache);
          return state;
        };
        const ValueId k = cache("k"), v = cache("v");
        const ValueId q = FloatInput(b, "q", t, columns);
        const ValueId h = FloatInput(b, "h", t, p.d);
        const ValueId w =
            WeightInput(b, "w", {Static(p.d), Static(columns)}, p.format);
        const ValueId position = b.Input("position", DType::kI32, {t});
        const Attrs attrs = {
            {"num_heads", p.heads},
            {"num_kv_heads", p.kv_heads},
            {"scale", 0.05},
            {"window", p.window},
            {"block_size", kBlockSize},
            {"value_dim", p.dim},
            {"format", static_cast<int64_t>(p.cache.format)},
            {"attention_bits", int64_t{p.cache.attention_bits}},
            {"in_place", int64_t{kNumPackedInputs}}};
        const auto attend = [&](ValueId table, ValueId where) {
          return b.Add(p.format.bits != 0 ? kQuantPackedAttendProject
                                          : kPackedAttendProject,
                       {q, k, v, table, where, position, h, w, kNone},
                       attrs)[0];
        };
        b.Output("rows", attend(kNone, b.Input("first_row", DType::kI32, {t})));
        b.Output("paged",
                 attend(b.Input("table", DType::kI32,
                                {Static(1), Static(slots / kBlockSize)}),
                        b.Input("sequence", DType::kI32, {t})));
        return std::vector<ValueId>{};
      },
      {roundings, WithRows(p.tokens, fill), /*seed=*/1, precision});
}

TEST_P(PackedAttendProjectTest, AgreesWithTheCpu) {
  const Packed& p = GetParam();
  const double roundings = 256. +
                           4. * static_cast<double>(p.dim + p.heads * p.dim) +
                           static_cast<double>(p.context + p.tokens);
  EXPECT_THAT(ComparePacked(p, roundings, Precision::kF32), IsOk());
}

TEST_P(PackedAttendProjectTest, RoundedOperandsStayWithinTheirRounding) {
  EXPECT_THAT(ComparePacked(GetParam(), /*roundings=*/16, Precision::kBf16),
              IsOk());
}

constexpr CacheOptions kBf16Cache = {CacheFormat::kBF16},
                       kInt8Cache = {CacheFormat::kInt8},
                       kInt4Cache = {CacheFormat::kInt4};
INSTANTIATE_TEST_SUITE_P(
    Cases, PackedAttendProjectTest,
    testing::Values(
        Packed{"int8_one", kInt8Cache, 1, 700, 512, 8, 2, 128},
        Packed{"int4_eight", kInt4Cache, 8, 250, 256, 8, 2, 64},
        Packed{"bf16_nine", kBf16Cache, 9, 55, 256, 4, 2, 64},
        Packed{"int8_sixty_four", kInt8Cache, 64, 90, 256, 4, 2, 128},
        Packed{"int4_sixty_five", kInt4Cache, 65, 90, 256, 4, 1, 64},
        Packed{"int8_odd", kInt8Cache, 5, 40, 72, 6, 3, 20},
        Packed{"int8_window", kInt8Cache, 4, 300, 256, 4, 2, 64, {}, 70},
        Packed{"int4_by_int4", kInt4Cache, 3, 80, 256, 8, 2, 64, kInt4},
        Packed{"bf16_by_int8", kBf16Cache, 20, 80, 256, 4, 2, 64, kInt8}),
    [](const testing::TestParamInfo<Packed>& info) { return info.param.name; });

// Heads as they go to packed caches: of integers, of which nothing is rounded
// before.
struct Stored {
  const char* name;
  CacheOptions cache;
  int dim, half;
  bool interleaved;
};
using StoreHeadsTest = DeviceTest<Stored>;

TEST_P(StoreHeadsTest, PacksWhatTheCpuPacks) {
  const Stored& p = GetParam();
  constexpr int64_t kTokens = 5, kSlots = 9;
  constexpr int kHeads[3] = {4, 2, 2};
  const std::vector<int32_t> row = {7, 0, 3, 8, 2};
  const auto numbers = [](int64_t n, int most, int seed) {
    const std::vector<int32_t> ints = RandomInts(n, -most, most, seed);
    return std::vector<float>(ints.begin(), ints.end());
  };
  const std::vector<float> cos = numbers(kTokens * p.half, 3, 1);
  const std::vector<float> sin = numbers(kTokens * p.half, 3, 2);
  const int64_t row_bytes =
      CacheRowBytes(p.cache.format, kHeads[1], kHeads[1] * p.dim);
  std::vector<std::vector<float>> x, bias;
  std::vector<DeviceArray<float>> device_x, device_bias;
  std::vector<DeviceArray<uint8_t>> cache;
  for (int i = 0; i < 3; ++i) {
    x.push_back(numbers(kTokens * kHeads[i] * p.dim, 40, 3 + i));
    bias.push_back(numbers(kHeads[i] * p.dim, 5, 6 + i));
    device_x.push_back(*DeviceArray<float>::CopyOf(x[i]));
    device_bias.push_back(*DeviceArray<float>::CopyOf(bias[i]));
    cache.push_back(*DeviceArray<uint8_t>::CopyOf(
        std::vector<uint8_t>(kSlots * row_bytes, 0xAB)));
  }
  auto q = DeviceArray<float>::Allocate(kTokens * kHeads[0] * p.dim);
  const auto device_row = DeviceArray<int32_t>::CopyOf(row);
  const auto device_cos = DeviceArray<float>::CopyOf(cos);
  const auto device_sin = DeviceArray<float>::CopyOf(sin);
  const auto fault = DeviceArray<Fault>::CopyOf(std::vector<Fault>(1));
  StoreHeadsArgs args;
  args.tokens = {kTokens, nullptr};
  for (int i = 0; i < 3; ++i) {
    HeadRows& part = args.part[i];
    part.x = device_x[i].data();
    part.heads = kHeads[i];
    part.dim = p.dim;
    part.bias = device_bias[i].data();
    part.turns = i < 2;
    if (i > 0) part.packed = cache[i].data();
  }
  args.part[0].y = q->data();
  args.cos = device_cos->data();
  args.sin = device_sin->data();
  args.half = p.half;
  args.interleaved = p.interleaved;
  args.row = device_row->data();
  args.slots = kSlots;
  args.rounding = {static_cast<PackedFormat>(p.cache.format),
                   p.cache.attention_bits > 0};
  args.fault = {fault->data(), 0};
  ASSERT_EQ(StoreHeads(args, /*stream=*/nullptr), cudaSuccess);

  const auto head_of = [&](int i, int64_t token, int head) {
    std::vector<float> y(p.dim);
    for (int c = 0; c < p.dim; ++c) {
      y[c] = x[i][(token * kHeads[i] + head) * p.dim + c] +
             bias[i][head * p.dim + c];
    }
    for (int j = 0; i < 2 && j < p.half; ++j) {
      const int low = p.dim - 2 * p.half;
      const int a = low + (p.interleaved ? 2 * j : j);
      const int b = p.interleaved ? a + 1 : a + p.half;
      const float u = y[a], v = y[b];
      const float c = cos[token * p.half + j], s = sin[token * p.half + j];
      y[a] = u * c - v * s;
      y[b] = u * s + v * c;
    }
    return y;
  };
  const auto got_q = q->ToHost();
  ASSERT_THAT(got_q, IsOk());
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int h = 0; h < kHeads[0]; ++h) {
      const std::vector<float> want = head_of(0, t, h);
      EXPECT_TRUE(std::equal(want.begin(), want.end(),
                             got_q->begin() + (t * kHeads[0] + h) * p.dim));
    }
  }
  for (int i = 1; i < 3; ++i) {
    std::vector<uint8_t> want(kSlots * row_bytes, 0xAB);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int h = 0; h < kHeads[i]; ++h) {
        PackCacheHead(p.cache.format, p.cache.attention_bits > 0,
                      head_of(i, t, h).data(), p.dim,
                      want.data() + row[t] * row_bytes +
                          h * CacheHeadBytes(p.cache.format, p.dim));
      }
    }
    const auto got = cache[i].ToHost();
    ASSERT_THAT(got, IsOk());
    EXPECT_EQ(*got, want) << (i == 1 ? "keys" : "values");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, StoreHeadsTest,
    testing::Values(Stored{"int8", kInt8Cache, 128, 64, false},
                    Stored{"int8_pairs", kInt8Cache, 64, 32, true},
                    Stored{
                        "int8_powers", {CacheFormat::kInt8, 4}, 64, 16, false},
                    Stored{"int4_part", kInt4Cache, 64, 16, true},
                    Stored{"int4_odd", kInt4Cache, 45, 10, false},
                    Stored{"bf16", kBf16Cache, 128, 64, false},
                    Stored{"bf16_odd", kBf16Cache, 20, 10, true}),
    [](const testing::TestParamInfo<Stored>& info) { return info.param.name; });

TEST(FusedHeadsErrorTest, RowsOutsideTheCacheAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const Heads p = {"bad", 3, 10, 256, 4, 2, 64, 64, 64};
  const FillFn inputs = Inputs(p);
  EXPECT_THAT(
      CompareBackends([&](GraphBuilder& b) { return Build(b, p); },
                      {/*roundings=*/1e9,
                       [&](const std::string& name, const TensorView& view) {
                         if (name != "row") return inputs(name, view);
                         return FillInts(view, {10, -1, 12});
                       }}),
      StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace strata::gpu
