#include "cuda/ops/decode/fused_heads.h"

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/fused_attention.h"
#include "core/ops/quant_fused.h"
#include "core/ops/rope.h"
#include "core/quant/format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
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
