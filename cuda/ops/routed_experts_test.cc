#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_experts.h"
#include "core/ops/quant_fused.h"
#include "core/quant/format.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

void FillNarrow(const TensorView& view, float size) {
  auto* const to = static_cast<BFloat16*>(view.data);
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    to[i] = RoundToBFloat16(size * ((i * 37 + i / 41) % 201 - 100));
  }
}

constexpr QuantFormat kNotPacked = {/*bits=*/0, 0, false};

// Fills `view`, whose rows have `columns`, if it is a weight.
bool FillWeight(const TensorView& view, const QuantFormat& format,
                int64_t columns) {
  if (view.dtype == DType::kBF16) FillNarrow(view, 0.001f);
  if (view.dtype == DType::kU8) FillPacked(view, format, columns);
  return view.dtype != DType::kF32 && view.dtype != DType::kI32;
}

// --- RoutedExperts ---

struct Routed {
  const char* name;
  int64_t tokens, experts, k, d, width, shared;
  bool softmax = false;
  int64_t groups = 1, top_groups = 1;
  QuantFormat format = kNotPacked;  // Of weights but the gate's.
};
std::string RoutedName(const testing::TestParamInfo<Routed>& info) {
  return info.param.name;
}

class RoutedExpertsTest : public DeviceTest<Routed> {
 protected:
  static std::vector<ValueId> Build(GraphBuilder& b, const Routed& p) {
    const Dim t = Tokens(b, p.tokens);
    const auto narrow = [&](const char* name, const Dims& dims) {
      return WeightInput(b, name, dims, p.format);
    };
    RoutedOptions options;
    options.eps = 1e-6;
    options.softmax = p.softmax;
    options.k = p.k;
    options.num_groups = p.groups;
    options.top_groups = p.top_groups;
    options.normalize = true;
    options.scale = 2.5;
    std::vector<ValueId> inputs = {
        FloatInput(b, "h", t, p.d),
        b.Input("gain", DType::kF32, {Static(p.d)}),
        b.Input("gate", DType::kBF16, {Static(p.experts), Static(p.d)}),
        b.Input("bias", DType::kF32, {Static(p.experts)}),
        narrow("up", {Static(p.experts), Static(2 * p.width), Static(p.d)}),
        narrow("down", {Static(p.experts), Static(p.d), Static(p.width)})};
    if (p.shared > 0) {
      inputs.push_back(
          narrow("shared_up", {Static(2 * p.shared), Static(p.d)}));
      inputs.push_back(narrow("shared_down", {Static(p.d), Static(p.shared)}));
    }
    const std::vector<ValueId> y =
        b.Add(p.format.bits == 0 ? kRoutedExperts : kQuantRoutedExperts, inputs,
              RoutedAttrs(options));
    b.Output("y", y[kRoutedY]);
    b.Output("offset", y[kRoutedOffset]);
    return {};
  }

  // Probabilities are below 1, biases of experts 1.5 apart: rounding moves no
  // choice.
  static FillFn Inputs(const Routed& p) {
    return WithRows(
        p.tokens, [p](const std::string& name, const TensorView& view) {
          const int64_t columns = name == "down"          ? p.width
                                  : name == "shared_down" ? p.shared
                                                          : p.d;
          if (FillWeight(view, p.format, columns)) return true;
          if (name != "bias") return false;
          const int64_t n = view.num_elements();
          for (int64_t e = 0; e < n; ++e) {
            view.as<float>()[e] = 1.5f * static_cast<float>(e * 5 % n);
          }
          return true;
        });
  }
};

TEST_P(RoutedExpertsTest, AgreesWithTheCpu) {
  const Routed& p = GetParam();
  EXPECT_THAT(
      CompareBackends([&](GraphBuilder& b) { return Build(b, p); },
                      {256. + 4. * (p.d + p.width + p.shared), Inputs(p)}),
      IsOk());
}

TEST_P(RoutedExpertsTest, RoundedOperandsStayWithinTheirRounding) {
  const Routed& p = GetParam();
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) { return Build(b, p); },
                  {/*roundings=*/16, Inputs(p), /*seed=*/1, Precision::kBf16}),
              IsOk());
}

// Up to 8 tokens, and up to 64 at the bound, which is five more, go other ways
// than more, in tiles of 16, 32 and 64; rows longer than a stage of those, with
// more tiles than a GPU has blocks; and widths that have no tiles.
INSTANTIATE_TEST_SUITE_P(
    Layers, RoutedExpertsTest,
    testing::Values(Routed{"one", 1, 16, 8, 256, 128, 128},
                    Routed{"softmax", 2, 48, 2, 512, 128, 0, true},
                    Routed{"eight", 8, 32, 8, 256, 256, 128},
                    Routed{"segments", 3, 16, 4, 2304, 1088, 1088},
                    Routed{"nine", 9, 32, 8, 256, 256, 128},
                    Routed{"thirty", 25, 16, 4, 256, 128, 128},
                    Routed{"sixteen", 11, 32, 8, 512, 128, 72},
                    Routed{"seventeen", 12, 128, 8, 256, 128, 0, true},
                    Routed{"thirty_two", 27, 128, 8, 512, 256, 256},
                    Routed{"thirty_three", 28, 256, 4, 256, 128, 128},
                    Routed{"sixty_four", 59, 128, 8, 512, 128, 128},
                    Routed{"sixty_five", 60, 128, 8, 256, 128, 128},
                    Routed{"many", 200, 16, 3, 256, 128, 64},
                    Routed{"groups", 4, 16, 4, 256, 128, 64, false, 4, 2},
                    Routed{"odd", 5, 6, 2, 40, 24, 13, true}),
    RoutedName);

// Packed experts in the formats that have tiles, of few tokens with up to 31
// slots and with more, down's in units that its warps do not divide evenly,
// with more tiles than blocks have to themselves, and of rows that are too long
// for one launch; and others, which go by their parts.
INSTANTIATE_TEST_SUITE_P(
    Packed, RoutedExpertsTest,
    testing::Values(
        Routed{"int4", 1, 16, 8, 2048, 384, 256, false, 1, 1, {4, 32, true}},
        Routed{
            "groups_of_64", 8, 24, 3, 512, 256, 0, true, 1, 1, {4, 64, true}},
        Routed{"groups_of_128",
               3,
               16,
               8,
               768,
               512,
               256,
               false,
               1,
               1,
               {4, 128, true}},
        Routed{"int4_thirty",
               25,
               32,
               8,
               512,
               768,
               256,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_tiles",
               8,
               16,
               3,
               2304,
               1024,
               1024,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{
            "int4_eight", 8, 32, 4, 512, 256, 128, false, 1, 1, {4, 32, true}},
        Routed{"int4_four_without_shared",
               4,
               64,
               8,
               768,
               256,
               0,
               true,
               1,
               1,
               {4, 128, true}},
        Routed{"int8_eight", 8, 24, 4, 256, 128, 64, true, 1, 1, {8, 64, true}},
        Routed{"int4_thirty_two",
               27,
               64,
               8,
               512,
               256,
               128,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_sixty_four",
               59,
               128,
               8,
               512,
               256,
               128,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_sixty_five",
               60,
               64,
               8,
               512,
               256,
               128,
               true,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_with_shared",
               27,
               64,
               8,
               512,
               256,
               256,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_wide_shared",
               9,
               32,
               8,
               2048,
               256,
               512,
               true,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_many_experts",
               59,
               256,
               8,
               256,
               256,
               256,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_over_four_rows",
               28,
               64,
               8,
               512,
               256,
               256,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int4_long_rows",
               11,
               32,
               8,
               2560,
               256,
               256,
               false,
               1,
               1,
               {4, 32, true}},
        Routed{"int8_with_shared",
               12,
               64,
               4,
               256,
               128,
               128,
               false,
               1,
               1,
               {8, 32, true}},
        Routed{"int8_long", 2, 16, 2, 4096, 256, 0, false, 1, 1, {8, 32, true}},
        Routed{"int8", 5, 16, 4, 256, 128, 128, false, 1, 1, {8, 32, true}},
        Routed{
            "int8_tiles", 5, 16, 4, 256, 256, 256, false, 1, 1, {8, 32, true}},
        Routed{"int8_groups_of_64",
               2,
               16,
               4,
               512,
               256,
               0,
               false,
               1,
               1,
               {8, 64, true}},
        Routed{"int8_thirty",
               25,
               16,
               4,
               256,
               256,
               256,
               false,
               1,
               1,
               {8, 128, true}},
        Routed{
            "int4_many", 150, 16, 3, 256, 128, 64, false, 1, 1, {4, 32, true}},
        Routed{"zeros", 4, 16, 4, 256, 128, 64, false, 1, 1, {4, 32, false}}),
    RoutedName);

// --- NormMlp ---

struct Mlp {
  int64_t rows, columns, width;
  bool bias;
  QuantFormat format = kNotPacked;
};
using NormMlpTest = DeviceTest<Mlp>;

TEST_P(NormMlpTest, AgreesWithTheCpu) {
  const Mlp& p = GetParam();
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    EXPECT_THAT(
        CompareBackends(
            [&](GraphBuilder& b) {
              const Dim t = Tokens(b, p.rows);
              const auto vector = [&](const char* name, int64_t n) {
                return p.bias ? b.Input(name, DType::kF32, {Static(n)}) : kNone;
              };
              const OpDef& op = p.format.bits == 0 ? kNormMlp : kQuantNormMlp;
              b.Output(
                  "y",
                  b.Add(op,
                        {FloatInput(b, "h", t, p.columns),
                         b.Input("gain", DType::kF32, {Static(p.columns)}),
                         WeightInput(b, "up",
                                     {Static(2 * p.width), Static(p.columns)},
                                     p.format),
                         WeightInput(b, "down",
                                     {Static(p.columns), Static(p.width)},
                                     p.format),
                         vector("up_bias", 2 * p.width),
                         vector("down_bias", p.columns)},
                        {{"eps", 1e-6}, {"in_place", int64_t{0}}})[0]);
              return std::vector<ValueId>{};
            },
            {precision == Precision::kBf16 ? 16.
                                           : 256. + 4. * (p.columns + p.width),
             WithRows(p.rows,
                      [p](const std::string& name, const TensorView& view) {
                        return FillWeight(view, p.format,
                                          name == "down" ? p.width : p.columns);
                      }),
             /*seed=*/1, precision}),
        IsOk());
  }
}

// Up to eight rows have a kernel of their own: up to 264 tiles of 16 rows of
// gate and up a block each, beyond that several; rows of x staged by one warp
// to eight.
INSTANTIATE_TEST_SUITE_P(
    Layers, NormMlpTest,
    testing::Values(Mlp{1, 256, 512, false}, Mlp{8, 512, 256, false},
                    Mlp{9, 256, 256, false}, Mlp{27, 512, 1024, false},
                    Mlp{28, 256, 320, false}, Mlp{59, 2048, 512, false},
                    Mlp{60, 256, 256, false}, Mlp{3, 256, 512, true},
                    Mlp{5, 40, 24, false}, Mlp{1, 2048, 8192, false},
                    Mlp{8, 256, 2048, false}, Mlp{3, 256, 2304, false},
                    Mlp{8, 512, 4352, false}, Mlp{2, 8192, 256, false},
                    Mlp{1, 2048, 1024, false, {4, 32, true}},
                    Mlp{8, 2048, 4352, false, {4, 32, true}},
                    Mlp{5, 8192, 2176, false, {4, 32, true}},
                    Mlp{7, 384, 256, false, {4, 128, true}},
                    Mlp{4, 320, 192, false, {8, 64, true}},
                    Mlp{9, 256, 256, false, {4, 64, true}},
                    Mlp{27, 512, 256, false, {4, 32, true}},
                    Mlp{59, 512, 1024, false, {8, 32, true}},
                    Mlp{60, 256, 256, false, {4, 32, true}},
                    Mlp{2, 96, 64, true, {4, 32, false}}));

// --- ChooseExperts ---

struct Chosen {
  std::vector<int32_t> expert, offset;
  std::vector<float> weight;
};

absl::StatusOr<Chosen> Choose(ChooseExpertsArgs args,
                              const std::vector<float>& logits,
                              const std::vector<float>& bias) {
  const int64_t slots = args.tokens.bound * args.k;
  ASSIGN_OR_RETURN(const auto device_logits,
                   DeviceArray<float>::CopyOf(logits));
  ASSIGN_OR_RETURN(const auto device_bias, DeviceArray<float>::CopyOf(bias));
  ASSIGN_OR_RETURN(const auto expert, DeviceArray<int32_t>::Allocate(slots));
  ASSIGN_OR_RETURN(const auto weight, DeviceArray<float>::Allocate(slots));
  ASSIGN_OR_RETURN(const auto offset,
                   DeviceArray<int32_t>::Allocate(args.num_experts + 1));
  ASSIGN_OR_RETURN(const auto rows, DeviceArray<int32_t>::Allocate(1));
  args.logits = device_logits.data();
  args.bias = device_bias.data();
  args.expert = expert.data();
  args.weight = weight.data();
  args.offset = offset.data();
  args.rows = rows.data();
  RETURN_IF_ERROR(ToStatus(ChooseExperts(args, /*stream=*/nullptr)));
  Chosen chosen;
  ASSIGN_OR_RETURN(chosen.expert, expert.ToHost());
  ASSIGN_OR_RETURN(chosen.weight, weight.ToHost());
  ASSIGN_OR_RETURN(chosen.offset, offset.ToHost());
  return chosen;
}

// Logits and biases in steps, so that scores of experts are equal.
TEST(ChooseExpertsTest, TakesTheBestAndOfEqualsTheFirst) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const int experts : {5, 32, 33, 128, 256}) {
    for (const bool softmax : {false, true}) {
      constexpr int kTokens = 7;
      ChooseExpertsArgs args;
      args.tokens = {kTokens, nullptr};
      args.num_experts = experts;
      args.k = std::min(8, experts);
      args.softmax = softmax;
      args.normalize = true;
      args.scale = 2.5f;
      std::vector<float> logits, bias;
      for (const int32_t x : RandomInts(kTokens * experts, -6, 6, 1)) {
        logits.push_back(x / 4.f);
      }
      for (const int32_t x : RandomInts(experts, 0, 1, 2)) {
        bias.push_back(2.f * x);
      }

      const auto got = Choose(args, logits, bias);

      ASSERT_THAT(got, IsOk());
      std::vector<int32_t> want_offset(experts + 1);
      for (int t = 0; t < kTokens; ++t) {
        const float* const row = logits.data() + t * experts;
        // Of equal biases, the larger logit is the better.
        std::vector<int> order(experts);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int c) {
          return bias[a] != bias[c] ? bias[a] > bias[c] : row[a] > row[c];
        });
        double all = 0, sum = 0;
        for (int e = 0; e < experts; ++e) all += std::exp(row[e]);
        const auto p = [&](int e) {
          return softmax ? std::exp(row[e]) / all : 1 / (1 + std::exp(-row[e]));
        };
        for (int j = 0; j < args.k; ++j) sum += p(order[j]);
        for (int j = 0; j < args.k; ++j) {
          EXPECT_EQ(got->expert[t * args.k + j], order[j]) << t << " " << j;
          EXPECT_NEAR(got->weight[t * args.k + j], 2.5 * p(order[j]) / sum,
                      1e-5);
          ++want_offset[order[j] + 1];
        }
      }
      std::partial_sum(want_offset.begin(), want_offset.end(),
                       want_offset.begin());
      EXPECT_EQ(got->offset, want_offset);
    }
  }
}

}  // namespace
}  // namespace strata::gpu
