#include "core/ops/fused_latent.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/ops/fused_attention.h"
#include "core/ops/quant_fused.h"
#include "core/ops/rope.h"
#include "core/quant/cache_format.h"
#include "core/quant/format.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/packed_inputs.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::ElementsAreArray;

// One sequence whose last tokens are given; weights are BF16 or packed.
struct Latents {
  const char* name;
  int64_t tokens, context;  // Rows of the cache that came before.
  int64_t d, heads, nope, rope, value, rank;
  int64_t q_rank = 0;  // 0: queries straight from x.
  bool interleaved = false, bias = false;
  int64_t window = 0;
  QuantFormat format = {/*bits=*/0, 0, false};  // Of projections; 0: BF16.
  CacheFormat cache = CacheFormat::kF32;

  Latents Over(CacheFormat format) const {
    Latents latents = *this;
    latents.cache = format;
    return latents;
  }
  Latents OverBf16() const { return Over(CacheFormat::kBF16); }
  bool packed_cache() const { return cache != CacheFormat::kF32; }
};
std::string LatentsName(const testing::TestParamInfo<Latents>& info) {
  return info.param.name;
}

constexpr int64_t kBlockSize = 16;

class FusedLatentTest : public DeviceTest<Latents> {
 public:
  static ValueId Vector(GraphBuilder& b, const std::string& name, int64_t n) {
    return b.Input(name, DType::kF32, {Static(n)});
  }
  static int64_t Slots(const Latents& p) {
    return (p.context + p.tokens + kBlockSize) / kBlockSize * kBlockSize;
  }

  static ValueId Cache(GraphBuilder& b, const std::string& name,
                       const Latents& p) {
    const int64_t width = p.rank + p.rope;
    return p.packed_cache()
               ? b.State(name, DType::kU8,
                         {Static(Slots(p)),
                          Static(CacheRowBytes(p.cache, 1, width))})
               : b.State(name, DType::kF32, {Static(Slots(p)), Static(width)});
  }

  // What LatentQkv reads beside the cache.
  struct Sources {
    ValueId x, gain, wq_down, bq_down, q_gain, wq, wkv, bkv, kv_gain, kv_b;
    ValueId position, row;
    std::vector<ValueId> turns;
  };
  static Sources SourcesOf(GraphBuilder& b, const Latents& p, Dim t) {
    const int64_t width = p.rank + p.rope;
    const bool down = p.q_rank > 0;
    Sources s;
    s.position = b.Input("position", DType::kI32, {t});
    RopeOptions turn;
    turn.rotary_dim = p.rope;
    s.turns =
        b.Add(kRopeTable, {s.position}, RopeTableAttrs(turn, DType::kF32));
    s.x = FloatInput(b, "x", t, p.d);
    s.gain = Vector(b, "gain", p.d);
    s.wq_down = down ? Weight(b, p, "wq_down", p.q_rank, p.d) : kNone;
    s.bq_down = down && p.bias ? Vector(b, "bq_down", p.q_rank) : kNone;
    s.q_gain = down ? Vector(b, "q_gain", p.q_rank) : kNone;
    s.wq =
        Weight(b, p, "wq", p.heads * (p.nope + p.rope), down ? p.q_rank : p.d);
    s.wkv = Weight(b, p, "wkv", width, p.d);
    s.bkv = p.bias ? Vector(b, "bkv", width) : kNone;
    s.kv_gain = Vector(b, "kv_gain", p.rank);
    s.kv_b = b.Parameter(
        "kv_b", {Static(p.heads * (p.nope + p.value)), Static(p.rank)});
    s.row = b.Input("row", DType::kI32, {t});
    return s;
  }
  static ValueId Weight(GraphBuilder& b, const Latents& p, const char* name,
                        int64_t rows, int64_t columns) {
    return WeightInput(b, name, {Static(rows), Static(columns)}, p.format);
  }

  // The queries of the tokens, whose keys go into the cache.
  static ValueId Store(GraphBuilder& b, const Latents& p, const Sources& s,
                       ValueId cache) {
    LatentQkvOptions options;
    options.num_heads = p.heads;
    options.nope = p.nope;
    options.rope = p.rope;
    options.value = p.value;
    options.eps = options.q_eps = options.kv_eps = 1e-6;
    options.interleaved = p.interleaved;
    options.cache.format = p.cache;
    return b.Add(
        p.format.bits != 0 ? kQuantLatentQkv : kLatentQkv,
        {s.x, s.gain, s.wq_down, s.bq_down, s.q_gain, s.wq, s.wkv, s.bkv,
         s.kv_gain, s.kv_b, s.turns[0], s.turns[1], cache, s.row},
        LatentQkvAttrs(options))[0];
  }

  static std::vector<ValueId> Build(GraphBuilder& b, const Latents& p) {
    const Dim t = Tokens(b, p.tokens);
    const bool packed = p.format.bits != 0;
    const Sources sources = SourcesOf(b, p, t);
    const ValueId position = sources.position, kv_b = sources.kv_b;
    const ValueId cache = Cache(b, "cache", p);
    const ValueId q = Store(b, p, sources, cache);
    b.Output("q", q);

    const ValueId h = FloatInput(b, "h", t, p.d);
    const ValueId w = Weight(b, p, "w", p.d, p.heads * p.value);
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
                    {"value_dim", p.rank},
                    {"format", static_cast<int64_t>(p.cache)},
                    {"attention_bits", int64_t{0}},
                    {"nope", p.nope},
                    {"rope", p.rope},
                    {"value", p.value},
                    {"in_place", in_place}})[0];
    };
    const ValueId first_row = b.Input("first_row", DType::kI32, {t});
    const ValueId table = b.Input("table", DType::kI32,
                                  {Static(1), Static(Slots(p) / kBlockSize)});
    const ValueId sequence = b.Input("sequence", DType::kI32, {t});
    if (p.packed_cache()) {
      const OpDef& op =
          packed ? kQuantPackedLatentAttendProject : kPackedLatentAttendProject;
      b.Output("rows", attend(op, {q, cache, kNone, kNone, first_row, position},
                              /*in_place=*/6));
      b.Output("paged", attend(op, {q, cache, kNone, table, sequence, position},
                               /*in_place=*/6));
      return {};
    }
    b.Output("rows", attend(packed ? kQuantCachedLatentAttendProject
                                   : kCachedLatentAttendProject,
                            {q, cache, first_row, position},
                            /*in_place=*/4));
    b.Output("paged", attend(packed ? kQuantPagedLatentAttendProject
                                    : kPagedLatentAttendProject,
                             {q, cache, table, sequence, position},
                             /*in_place=*/5));
    return {};
  }

  static std::set<std::string> Bf16States(const Latents& p) {
    return p.packed_cache() ? std::set<std::string>{"cache"}
                            : std::set<std::string>{};
  }

  static FillFn Inputs(const Latents& p) {
    return WithRows(p.tokens,
                    [p](const std::string& name, const TensorView& view) {
                      if (view.dtype == DType::kBF16)
                        return FillBf16Weight(view);
                      if (name == "cache" && p.packed_cache()) {
                        return FillBf16Cache(view);
                      }
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
  CompareOptions options;
  options.roundings = 256. + 4. * (p.d + p.rank + p.q_rank) + p.context;
  options.fill = Inputs(p);
  options.bf16_states = Bf16States(p);
  // Where the last bits of a key differ, it may be rounded to the number beside
  // in BF16, 2^-8 of it away.
  if (p.packed_cache()) options.roundings += 0x1p-8 / 0x1p-24;
  EXPECT_THAT(
      CompareBackends([&](GraphBuilder& b) { return Build(b, p); }, options),
      IsOk());
}

TEST_P(FusedLatentTest, RoundedOperandsStayWithinTheirRounding) {
  const Latents& p = GetParam();
  CompareOptions options;
  options.roundings = 16;
  options.fill = Inputs(p);
  options.precision = Precision::kBf16;
  options.bf16_states = Bf16States(p);
  EXPECT_THAT(
      CompareBackends([&](GraphBuilder& b) { return Build(b, p); }, options),
      IsOk());
}

// Latents of 512 and 64 columns are attended to in the tensor cores: keys about
// a tile's 64, pieces, heads about a block's 64. Up to 8 tokens have kernels of
// their own for the rest, where widths allow it; so do up to 64, where nope is
// a multiple of 64 up to 512, 128 columns of which are brought at a time. Few
// tokens with heads in groups of 16 and up to 1,536 keys each go to clusters of
// 16 blocks: keys about a block's first, its tile of 64, and the most that
// there may be. Others go by pieces, which blocks join together where a head
// has 128 values: with one token to eight, whose keys are in a piece's first
// tile or beyond, and of which the new ones are in one piece or two. From nine
// to 64 tokens a cluster joins a head's pieces: of one piece, two and the most;
// 64 and 128 values and more, and more heads than have clusters.
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
        Latents{"sixty_three", 58, 30, 256, 16, 64, 64, 128, 512},
        Latents{"sixty_four", 59, 90, 512, 16, 64, 64, 64, 512},
        Latents{"sixty_five", 60, 90, 256, 16, 64, 64, 64, 512},
        Latents{"batch_window", 30, 300, 256, 32, 64, 64, 64, 512, 0, false,
                false, 100},
        Latents{"nope_80", 11, 40, 256, 4, 80, 64, 64, 512},
        Latents{"nope_192", 11, 40, 256, 16, 192, 64, 64, 512, 0, true},
        Latents{"nope_256", 28, 40, 256, 3, 256, 64, 64, 512},
        Latents{"nope_512", 58, 40, 256, 2, 512, 64, 64, 512},
        Latents{"nope_576", 12, 40, 256, 2, 576, 64, 64, 512},
        Latents{"rank_64", 28, 40, 256, 5, 64, 8, 16, 64, 0, true},
        Latents{"rank_192", 9, 40, 256, 5, 128, 16, 16, 192},
        Latents{"batch_of_one_piece", 11, 4, 256, 16, 64, 64, 128, 512},
        Latents{"batch_of_two_pieces", 9, 22, 256, 16, 64, 64, 64, 512},
        Latents{"batch_of_most_pieces", 9, 290, 256, 16, 64, 64, 128, 512},
        Latents{"batch_of_eight_pieces", 11, 500, 256, 16, 64, 64, 128, 512},
        Latents{"batch_of_many_heads", 12, 100, 256, 34, 32, 64, 64, 512},
        Latents{"batch_of_many_values", 12, 100, 256, 4, 32, 64, 192, 512},
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

// Over a cache in BF16: the same boundaries of tokens, pieces of which the new
// keys are in one or several, and rows that have columns behind the last.
INSTANTIATE_TEST_SUITE_P(
    OverBf16, FusedLatentTest,
    testing::Values(
        Latents{"one", 1, 0, 256, 16, 128, 64, 128, 512}.OverBf16(),
        Latents{"one_of_many", 1, 700, 512, 16, 128, 64, 128, 512, 0, true}
            .OverBf16(),
        Latents{"two_tiles_of_keys", 2, 1024, 256, 16, 32, 64, 48, 512}
            .OverBf16(),
        Latents{"two_clusters_a_token", 3, 200, 256, 32, 32, 64, 16, 512}
            .OverBf16(),
        Latents{"narrow_window", 4, 300, 256, 16, 32, 64, 16, 512, 0, false,
                false, 3}
            .OverBf16(),
        Latents{"seven", 7, 33, 256, 16, 64, 64, 64, 512, 0, true}.OverBf16(),
        Latents{"too_many_keys", 1, 1536, 256, 16, 32, 64, 16, 512}.OverBf16(),
        Latents{"eight", 8, 250, 256, 16, 64, 64, 64, 512}.OverBf16(),
        Latents{"eight_first", 8, 0, 256, 16, 32, 64, 128, 512}.OverBf16(),
        Latents{"eight_tiles", 8, 1500, 256, 16, 32, 64, 128, 512}.OverBf16(),
        Latents{"many_heads", 2, 127, 256, 80, 32, 64, 16, 512}.OverBf16(),
        Latents{"nine", 9, 55, 256, 16, 64, 64, 64, 512}.OverBf16(),
        Latents{"sixteen", 11, 600, 256, 16, 128, 64, 128, 512, 0, true}
            .OverBf16(),
        Latents{"batch_of_one_piece", 11, 4, 256, 16, 64, 64, 128, 512}
            .OverBf16(),
        Latents{"batch_of_most_pieces", 9, 290, 256, 16, 64, 64, 128, 512}
            .OverBf16(),
        Latents{"seventeen", 12, 300, 512, 4, 64, 64, 64, 512}.OverBf16(),
        Latents{"thirty_two", 27, 555, 256, 16, 128, 64, 128, 512}.OverBf16(),
        Latents{"thirty_three", 28, 200, 256, 16, 64, 64, 128, 512, 0, true}
            .OverBf16(),
        Latents{"sixty_four", 59, 390, 512, 16, 64, 64, 64, 512}.OverBf16(),
        Latents{"sixty_five", 60, 90, 256, 16, 64, 64, 64, 512}.OverBf16(),
        Latents{"batch_window", 30, 300, 256, 32, 64, 64, 64, 512, 0, false,
                false, 100}
            .OverBf16(),
        Latents{"batch_of_pairs", 20, 500, 256, 128, 32, 64, 32, 512}
            .OverBf16(),
        Latents{"nope_192", 59, 40, 256, 16, 192, 64, 64, 512, 0, true}
            .OverBf16(),
        Latents{"nope_512", 27, 40, 256, 2, 512, 64, 64, 512}.OverBf16(),
        Latents{"rank_64", 12, 40, 256, 5, 64, 8, 16, 64}.OverBf16(),
        Latents{"many_tokens", 150, 20, 256, 4, 32, 64, 16, 512}.OverBf16(),
        Latents{"down", 3, 30, 256, 4, 32, 64, 16, 512, 96, true, true}
            .OverBf16(),
        Latents{"plain", 5, 40, 72, 3, 20, 8, 10, 24, 0, false, true}
            .OverBf16(),
        Latents{"plain_many", 70, 10, 72, 3, 20, 8, 10, 20, 36}.OverBf16(),
        Latents{"int4_one",
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
                {4, 32, true}}
            .OverBf16(),
        Latents{"int4_thirty_two",
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
                {4, 32, true}}
            .OverBf16()),
    LatentsName);

// --- What is stored ---

using StoredLatentTest =
    DeviceTest<std::tuple<int64_t, Precision, CacheFormat>>;

// The same tokens into an F32 cache and into a packed one, one of them with
// nothing that is a number, and all with a column of 0 or -0.
TEST_P(StoredLatentTest, RowsAreThoseOfAnF32CacheRounded) {
  const auto [tokens, precision, format] = GetParam();
  constexpr int64_t kWidth = 576, kZero = 5;
  Latents p = {"", tokens, 3, 256, 16, 64, 64, 64, 512};
  p.interleaved = tokens % 2 == 0;
  GraphBuilder b;
  const FusedLatentTest::Sources sources =
      FusedLatentTest::SourcesOf(b, p, Static(tokens));
  const ValueId floats = FusedLatentTest::Cache(b, "floats", p);
  b.Output("q", FusedLatentTest::Store(b, p, sources, floats));
  p.cache = format;
  const ValueId numbers = FusedLatentTest::Cache(b, "numbers", p);
  b.Output("same_q", FusedLatentTest::Store(b, p, sources, numbers));
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  CudaOptions options;
  options.precision = precision;
  const auto backend = CudaBackend::Create(options, AllCudaKernels());
  ASSERT_THAT(backend, IsOk());
  StateStore state(**backend);
  const auto program = Program::Compile(*std::move(graph), **backend, state);
  ASSERT_THAT(program, IsOk());
  const FillFn fill = FusedLatentTest::Inputs(p);
  for (const Value& value : (*program)->graph().values()) {
    if (value.role == Role::kActivation || value.role == Role::kState) continue;
    const TensorView& view = value.role == Role::kInput
                                 ? (*program)->Input(value.name)
                                 : state.Get(value.name);
    if (!fill(value.name, view)) {
      const std::vector<int32_t> ints =
          RandomInts(view.num_elements(), -99, 99, /*seed=*/2);
      std::transform(ints.begin(), ints.end(), view.as<float>(),
                     [](int32_t i) { return i / 37.f; });
    }
    if (value.name == "kv_gain") view.as<float>()[kZero] = 0;
    if (value.name == "x") view.as<float>()[0] = HUGE_VALF;
  }

  ASSERT_THAT((*program)->Run(), IsOk());

  const TensorView want = state.Get("floats"), got = state.Get("numbers");
  std::vector<uint8_t> row(got.dim(1));
  for (int64_t i = 0; i < tokens; ++i) {
    std::vector<float> key(kWidth);
    // A sum with 0 has no -0.
    std::transform(want.as<float>() + (p.context + i) * kWidth,
                   want.as<float>() + (p.context + i + 1) * kWidth, key.begin(),
                   [](float x) { return x + 0; });
    EXPECT_EQ(std::isnan(key[0]), i == 0);
    PackCacheHead(format, false, key.data(), kWidth, row.data());
    EXPECT_THAT(absl::MakeSpan(got.as<uint8_t>() + (p.context + i) * got.dim(1),
                               got.dim(1)),
                ElementsAreArray(row))
        << "token " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Tokens, StoredLatentTest,
    testing::Combine(testing::Values(1, 7, 8, 9, 16, 17, 32, 33, 64, 65),
                     testing::Values(Precision::kF32, Precision::kBf16),
                     testing::Values(CacheFormat::kBF16, CacheFormat::kInt8,
                                     CacheFormat::kInt4)));

}  // namespace
}  // namespace strata::gpu
