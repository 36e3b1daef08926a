#include "core/ops/fused_latent.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// One sequence whose last tokens are given; weights are BF16 or packed.
struct Latents {
  const char* name;
  int64_t tokens, context;  // Rows of the cache that came before.
  int64_t d, heads, nope, rope, value, rank;
  int64_t q_rank = 0;  // 0: queries straight from x.
  bool interleaved = false, bias = false;
  int64_t window = 0;
  QuantFormat format = {/*bits=*/0, 0, false};  // Of projections; 0: BF16.
};
std::string LatentsName(const testing::TestParamInfo<Latents>& info) {
  return info.param.name;
}

constexpr int64_t kBlockSize = 16;

class FusedLatentTest : public DeviceTest<Latents> {
 protected:
  static ValueId Vector(GraphBuilder& b, const std::string& name, int64_t n) {
    return b.Input(name, DType::kF32, {Static(n)});
  }
  static int64_t Slots(const Latents& p) {
    return (p.context + p.tokens + kBlockSize) / kBlockSize * kBlockSize;
  }

  static std::vector<ValueId> Build(GraphBuilder& b, const Latents& p) {
    const Dim t = Tokens(b, p.tokens);
    const int64_t width = p.rank + p.rope;
    const bool packed = p.format.bits != 0;
    const auto weight = [&](const char* name, int64_t rows, int64_t columns) {
      return WeightInput(b, name, {Static(rows), Static(columns)}, p.format);
    };
    const ValueId position = b.Input("position", DType::kI32, {t});
    RopeOptions turn;
    turn.rotary_dim = p.rope;
    const std::vector<ValueId> table =
        b.Add(kRopeTable, {position}, RopeTableAttrs(turn, DType::kF32));
    LatentQkvOptions options;
    options.num_heads = p.heads;
    options.nope = p.nope;
    options.rope = p.rope;
    options.value = p.value;
    options.eps = options.q_eps = options.kv_eps = 1e-6;
    options.interleaved = p.interleaved;
    const ValueId x = FloatInput(b, "x", t, p.d);
    const ValueId kv_b = b.Parameter(
        "kv_b", {Static(p.heads * (p.nope + p.value)), Static(p.rank)});
    const bool down = p.q_rank > 0;
    const ValueId cache =
        b.State("cache", DType::kF32, {Static(Slots(p)), Static(width)});
    const ValueId q = b.Add(
        packed ? kQuantLatentQkv : kLatentQkv,
        {x, Vector(b, "gain", p.d),
         down ? weight("wq_down", p.q_rank, p.d) : kNone,
         down && p.bias ? Vector(b, "bq_down", p.q_rank) : kNone,
         down ? Vector(b, "q_gain", p.q_rank) : kNone,
         weight("wq", p.heads * (p.nope + p.rope), down ? p.q_rank : p.d),
         weight("wkv", width, p.d), p.bias ? Vector(b, "bkv", width) : kNone,
         Vector(b, "kv_gain", p.rank), kv_b, table[0], table[1], cache,
         b.Input("row", DType::kI32, {t})},
        LatentQkvAttrs(options))[0];
    b.Output("q", q);

    const ValueId h = FloatInput(b, "h", t, p.d);
    const ValueId w = weight("w", p.d, p.heads * p.value);
    const ValueId bias = p.bias ? Vector(b, "bias", p.d) : kNone;
    const auto attend = [&](const OpDef& op, std::vector<ValueId> inputs,
                            int64_t in_place) {
      for (const ValueId input : {h, w, bias, kv_b}) inputs.push_back(input);
      return b.Add(op, inputs,
                   {{"num_heads", p.heads},
                    {"num_kv_heads", int64_t{1}},
                    {"scale", 0.05},
                    {"window", p.window},
                    {"block_size", kBlockSize},
                    {"rank", p.rank},
                    {"nope", p.nope},
                    {"rope", p.rope},
                    {"value", p.value},
                    {"in_place", in_place}})[0];
    };
    b.Output("rows", attend(packed ? kQuantCachedLatentAttendProject
                                   : kCachedLatentAttendProject,
                            {q, cache, b.Input("first_row", DType::kI32, {t}),
                             position},
                            /*in_place=*/4));
    b.Output("paged",
             attend(packed ? kQuantPagedLatentAttendProject
                           : kPagedLatentAttendProject,
                    {q, cache,
                     b.Input("table", DType::kI32,
                             {Static(1), Static(Slots(p) / kBlockSize)}),
                     b.Input("sequence", DType::kI32, {t}), position},
                    /*in_place=*/5));
    return {};
  }

  static FillFn Inputs(const Latents& p) {
    return WithRows(p.tokens,
                    [p](const std::string& name, const TensorView& view) {
                      if (view.dtype == DType::kBF16)
                        return FillBf16Weight(view);
                      if (view.dtype == DType::kU8) {
                        FillPacked(view, p.format,
                                   name == "w" ? p.heads * p.value
                                   : name == "wq" && p.q_rank > 0 ? p.q_rank
                                                                  : p.d);
                        return true;
                      }
                      if (name == "kv_b") {
                        float* const to = view.as<float>();
                        for (int64_t i = 0; i < view.num_elements(); ++i) {
                          to[i] = 0.001f * ((i * 53 + i / 29) % 173 - 86);
                        }
                        return true;
                      }
                      if (name == "table")
                        return FillConsecutive(view, 0, Slots(p));
                      if (name != "position" && name != "row") return false;
                      return FillConsecutive(view, p.context, Slots(p));
                    });
  }
};

TEST_P(FusedLatentTest, AgreesWithTheCpu) {
  const Latents& p = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) { return Build(b, p); },
          {256. + 4. * (p.d + p.rank + p.q_rank) + p.context, Inputs(p)}),
      IsOk());
}

TEST_P(FusedLatentTest, RoundedOperandsStayWithinTheirRounding) {
  const Latents& p = GetParam();
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) { return Build(b, p); },
                  {/*roundings=*/16, Inputs(p), /*seed=*/1, Precision::kBf16}),
              IsOk());
}

// Latents of 512 and 64 columns are attended to in the tensor cores: keys about
// a tile's 64, pieces, heads about a block's 64. Up to 8 tokens have kernels of
// their own for the rest, where widths allow it. Few tokens with heads in
// groups of 16 and up to 1,536 keys each go to clusters of 16 blocks: keys
// about a block's first, its tile of 64, and the most that there may be. Others
// go by pieces, which blocks join together where a head has 128 values: with
// one token to eight, whose keys are in a piece's first tile or beyond, and of
// which the new ones are in one piece or two.
INSTANTIATE_TEST_SUITE_P(
    Cases, FusedLatentTest,
    testing::Values(
        Latents{"one", 1, 0, 256, 16, 128, 64, 128, 512},
        Latents{"one_of_many", 1, 700, 512, 16, 128, 64, 128, 512, 0, true},
        Latents{"three", 3, 61, 256, 4, 32, 64, 32, 512, 0, true},
        Latents{"eight", 8, 250, 256, 16, 64, 64, 64, 512},
        Latents{"nine", 9, 55, 256, 16, 64, 64, 64, 512},
        Latents{"sixteen", 11, 40, 256, 16, 128, 64, 128, 512, 0, true},
        Latents{"seventeen", 12, 300, 512, 4, 64, 64, 64, 512},
        Latents{"thirty_two", 27, 55, 256, 16, 128, 64, 128, 512},
        Latents{"thirty_three", 28, 200, 256, 16, 64, 64, 128, 512, 0, true},
        Latents{"sixty_four", 59, 90, 512, 16, 64, 64, 64, 512},
        Latents{"sixty_five", 60, 90, 256, 16, 64, 64, 64, 512},
        Latents{"batch_window", 30, 300, 256, 32, 64, 64, 64, 512, 0, false,
                false, 100},
        Latents{"many_heads", 2, 127, 256, 80, 32, 64, 16, 512},
        Latents{"heads_of_a_block", 5, 63, 256, 64, 32, 64, 16, 512},
        Latents{"window", 4, 300, 256, 16, 32, 64, 16, 512, 0, false, false,
                100},
        Latents{"fifteen_keys", 1, 14, 256, 16, 32, 64, 16, 512},
        Latents{"seventeen_keys", 1, 16, 256, 16, 32, 64, 112, 512},
        Latents{"tile_of_keys", 1, 1023, 256, 16, 128, 64, 128, 512},
        Latents{"two_tiles_of_keys", 2, 1024, 256, 16, 32, 64, 48, 512},
        Latents{"most_keys", 1, 1520, 256, 16, 32, 64, 16, 512},
        Latents{"too_many_keys", 1, 1536, 256, 16, 32, 64, 16, 512},
        Latents{"seven", 7, 33, 256, 16, 64, 64, 64, 512, 0, true},
        Latents{"two_clusters_a_token", 3, 200, 256, 32, 32, 64, 16, 512},
        Latents{"narrow_window", 4, 300, 256, 16, 32, 64, 16, 512, 0, false,
                false, 3},
        Latents{"wide_window", 2, 1400, 256, 16, 32, 64, 16, 512, 0, false,
                false, 1100},
        Latents{"pieces_of_one", 1, 1600, 256, 16, 128, 64, 128, 512},
        Latents{"pieces_of_two", 2, 1541, 256, 16, 32, 64, 128, 512},
        Latents{"pieces_of_three", 3, 1600, 256, 16, 32, 64, 128, 512},
        Latents{"pieces_of_eight", 8, 505, 256, 16, 128, 64, 128, 512, 0, true},
        Latents{"eight_first", 8, 0, 256, 16, 32, 64, 128, 512},
        Latents{"eight_tiles", 8, 1500, 256, 16, 32, 64, 128, 512},
        Latents{"window_of_eight", 8, 300, 256, 16, 32, 64, 128, 512, 0, false,
                false, 100},
        Latents{"many_tokens", 150, 20, 256, 4, 32, 64, 16, 512},
        Latents{"down", 3, 30, 256, 4, 32, 64, 16, 512, 96, true, true},
        Latents{"plain", 5, 40, 72, 3, 20, 8, 10, 24, 0, false, true},
        Latents{"plain_many", 70, 10, 72, 3, 20, 8, 10, 24, 36}),
    LatentsName);

INSTANTIATE_TEST_SUITE_P(Packed, FusedLatentTest,
                         testing::Values(Latents{"int4_thirty_two",
                                                 27,
                                                 130,
                                                 512,
                                                 16,
                                                 128,
                                                 64,
                                                 128,
                                                 512,
                                                 0,
                                                 false,
                                                 false,
                                                 0,
                                                 {4, 32, true}},
                                         Latents{"int4_sixty_four",
                                                 59,
                                                 30,
                                                 256,
                                                 16,
                                                 64,
                                                 64,
                                                 64,
                                                 512,
                                                 0,
                                                 true,
                                                 false,
                                                 0,
                                                 {4, 64, true}},
                                         Latents{"int4",
                                                 1,
                                                 130,
                                                 2048,
                                                 16,
                                                 128,
                                                 64,
                                                 128,
                                                 512,
                                                 0,
                                                 false,
                                                 false,
                                                 0,
                                                 {4, 32, true}},
                                         Latents{"groups_of_128",
                                                 7,
                                                 20,
                                                 768,
                                                 8,
                                                 32,
                                                 64,
                                                 32,
                                                 512,
                                                 0,
                                                 true,
                                                 false,
                                                 0,
                                                 {4, 128, true}},
                                         Latents{"int8",
                                                 2,
                                                 30,
                                                 320,
                                                 4,
                                                 32,
                                                 64,
                                                 16,
                                                 512,
                                                 0,
                                                 false,
                                                 false,
                                                 0,
                                                 {8, 64, true}},
                                         Latents{"int4_nine",
                                                 9,
                                                 55,
                                                 256,
                                                 16,
                                                 64,
                                                 64,
                                                 64,
                                                 512,
                                                 0,
                                                 false,
                                                 false,
                                                 0,
                                                 {4, 32, true}},
                                         Latents{"int4_down",
                                                 3,
                                                 30,
                                                 256,
                                                 4,
                                                 32,
                                                 64,
                                                 16,
                                                 512,
                                                 96,
                                                 true,
                                                 true,
                                                 0,
                                                 {4, 32, false}}),
                         LatentsName);

}  // namespace
}  // namespace strata::gpu
