#include "cuda/ops/cache/packed_cache.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/ops/packed_cache.h"
#include "core/quant/cache_format.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::_;

static_assert(PackedFormat{static_cast<int>(CacheFormat::kBF16)} ==
              PackedFormat::kBf16);
static_assert(PackedFormat{static_cast<int>(CacheFormat::kInt8)} ==
              PackedFormat::kInt8);
static_assert(PackedFormat{static_cast<int>(CacheFormat::kInt4)} ==
              PackedFormat::kInt4);
static_assert(kPackedGroup == kCacheGroup);

TEST(PackedFormatTest, BytesAreTheFormats) {
  for (const CacheFormat format :
       {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
    const auto packed = static_cast<PackedFormat>(format);
    EXPECT_EQ(PackedCodeBytes(packed), CacheCodeBytes(format));
    EXPECT_EQ(PackedGroupBytes(packed), CacheGroupBytes(format));
  }
}

std::string NameOf(const CacheOptions& cache) {
  return absl::StrCat(ToText(cache.format), "_bits", cache.attention_bits);
}

ValueId PackedState(GraphBuilder& b, const std::string& name, int64_t slots,
                    int64_t heads, int64_t width, CacheFormat format) {
  return b.State(name, DType::kU8,
                 {Static(slots), Static(CacheRowBytes(format, heads, width))});
}

// --- Rounding ---

struct Write {
  CacheOptions cache;
  int64_t rows, heads, columns;
};
using PackedWriteTest = DeviceTest<Write>;

// What rounding may go wrong at: nothing, ties, what is not finite, the
// smallest and the largest numbers, halves of a step.
void FillEdges(const TensorView& view, int64_t columns) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> edges = {
      {0, 0, 0},
      {-3, 3, 3, -3},
      {3, -3, 1.5f},
      {1, kInf, 2},
      {1, -kInf, 2},
      {1, std::nanf(""), 2},
      {1e-42f, -3e-43f, 1e-45f},
      {3e38f, -3.4e38f, 1},
      {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f},
      {-8, 0.5f, 1.5f, 7, 7.5f, -7.5f},
      {7.5f, 0.25f, -0.25f, 0.75f},
      {1e-30f, 1, -1e-30f}};
  float* const to = view.as<float>();
  const int64_t heads = view.num_elements() / columns;
  for (int64_t h = 0; h < heads; ++h) {
    if (h % 3 != 0) continue;
    const std::vector<float>& edge = edges[h / 3 % edges.size()];
    const auto n =
        std::min<int64_t>(columns, static_cast<int64_t>(edge.size()));
    std::fill_n(to + h * columns, columns, 0.f);
    std::copy_n(edge.begin(), n, to + h * columns);
  }
}

TEST_P(PackedWriteTest, BytesAreTheCpus) {
  const Write& p = GetParam();
  const int64_t slots = p.rows + 3;
  std::vector<int32_t> row(p.rows);
  std::iota(row.rbegin(), row.rend(), 2);
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const Dim t = RaggedRows(b, p.rows);
            const int64_t width = p.heads * p.columns;
            PackedCacheWrite(
                b,
                PackedState(b, "cache", slots, p.heads, width, p.cache.format),
                FloatInput(b, "x", t, width), b.Input("row", DType::kI32, {t}),
                p.heads, p.cache);
            return std::vector<ValueId>{};
          },
          {/*roundings=*/0,
           WithRows(p.rows,
                    [&](const std::string& name, const TensorView& view) {
                      if (name == "row") return FillInts(view, row);
                      if (name != "x") return false;
                      const std::vector<int32_t> ints =
                          RandomInts(view.num_elements(), -9999, 9999, 4);
                      std::transform(ints.begin(), ints.end(), view.as<float>(),
                                     [](int32_t i) { return i / 777.f; });
                      FillEdges(view, p.columns);
                      return true;
                    })}),
      IsOk());
}

std::vector<Write> Writes() {
  std::vector<Write> cases;
  for (const CacheOptions& cache : {CacheOptions{CacheFormat::kBF16, 0},
                                    CacheOptions{CacheFormat::kInt8, 0},
                                    CacheOptions{CacheFormat::kInt8, 4},
                                    CacheOptions{CacheFormat::kInt4, 0},
                                    CacheOptions{CacheFormat::kInt4, 6}}) {
    cases.push_back({cache, 50, 1, 32});
    cases.push_back({cache, 9, 8, 128});
    cases.push_back({cache, 23, 3, 45});
    cases.push_back({cache, 3, 1, 576});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Cases, PackedWriteTest, testing::ValuesIn(Writes()),
                         [](const testing::TestParamInfo<Write>& info) {
                           return absl::StrCat(NameOf(info.param.cache), "_",
                                               info.param.heads, "x",
                                               info.param.columns);
                         });

// --- Attention ---

struct Shape {
  const char* name;
  std::vector<int32_t> positions;  // Of each token, each its own sequence.
  int64_t heads, kv_heads, key_dim, value_dim, window;
  bool latent = false;  // Values are the first columns of the keys.
  int64_t block_size = 4;
};
struct Attending {
  CacheOptions cache;
  Shape shape;
  Precision precision = Precision::kF32;
};
using PackedAttentionTest = DeviceTest<Attending>;

// All keys and values stored, then attention to them in rows and in blocks.
absl::Status CompareAttention(const Attending& p, double roundings) {
  const Shape& s = p.shape;
  const auto tokens = static_cast<int64_t>(s.positions.size());
  const int64_t longest =
      1 + *std::max_element(s.positions.begin(), s.positions.end());
  const int64_t max_blocks = (longest + s.block_size - 1) / s.block_size;
  const int64_t slots = tokens * max_blocks * s.block_size;
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (name == "position") return FillInts(view, s.positions);
    std::vector<int32_t> values(view.num_elements());
    if (name == "row" || name == "sequence") {
      std::iota(values.begin(), values.end(), 0);
    } else if (name == "first_row") {
      for (int64_t i = 0; i < tokens; ++i) {
        values[i] = static_cast<int32_t>(i * max_blocks * s.block_size);
      }
    } else if (name == "table") {  // Of all sequences in turn.
      for (int64_t i = 0; i < tokens * max_blocks; ++i) {
        values[i] =
            static_cast<int32_t>(i % max_blocks * tokens + i / max_blocks);
      }
    } else {
      return false;
    }
    return FillInts(view, values);
  };
  return CompareBackends(
      [&](GraphBuilder& b) {
        const Dim t = RaggedRows(b, tokens);
        const ValueId q = FloatInput(b, "q", t, s.heads * s.key_dim);
        const ValueId row = b.Input("row", DType::kI32, {Static(slots)});
        const auto cache = [&](const std::string& name, int64_t dim) {
          const int64_t width = s.kv_heads * dim;
          const ValueId state =
              PackedState(b, name, slots, s.kv_heads, width, p.cache.format);
          PackedCacheWrite(b, state,
                           FloatInput(b, name + "_rows", Static(slots), width),
                           row, s.kv_heads, p.cache);
          return state;
        };
        const ValueId k = cache("k", s.key_dim);
        const ValueId v = s.latent ? kNone : cache("v", s.value_dim);
        PackedAttentionOptions options;
        options.heads = {s.heads, s.kv_heads, 1 / std::sqrt(s.key_dim),
                         s.window};
        options.value_dim = s.value_dim;
        options.block_size = s.block_size;
        options.cache = p.cache;
        const ValueId position = b.Input("position", DType::kI32, {t});
        b.Output("in rows",
                 PackedAttention(b, q, k, v, kNone,
                                 b.Input("first_row", DType::kI32, {t}),
                                 position, options));
        b.Output("in blocks",
                 PackedAttention(b, q, k, v,
                                 b.Input("table", DType::kI32,
                                         {Static(tokens), Static(max_blocks)}),
                                 b.Input("sequence", DType::kI32, {t}),
                                 position, options));
        return std::vector<ValueId>{};
      },
      {roundings, WithRows(tokens, fill), /*seed=*/1, p.precision});
}

TEST_P(PackedAttentionTest, AgreesWithTheCpu) {
  const Attending& p = GetParam();
  const Shape& s = p.shape;
  const double longest =
      1 + *std::max_element(s.positions.begin(), s.positions.end());
  // In the tensor cores operands of latents are rounded, a few times an
  // element; q and weights by codes to 16 bits of the largest, 2^-8 of BF16's
  // rounding: once a column of a score, and once a key.
  const double columns = static_cast<double>(s.key_dim);
  double roundings = p.precision == Precision::kF32
                         ? 64. + 2. * columns + longest
                     : s.latent ? 8
                                : (columns + longest) / 256;
  // The CPU drops what integers make less than 2^-16 of the largest of a
  // column; the GPU does not: up to 2^-16 = 2^8 roundings each.
  if (p.cache.attention_bits > 0) roundings += longest * 0x1p8;
  EXPECT_THAT(CompareAttention(p, roundings), IsOk());
}

// So many tokens that blocks of several KV heads are enough for a GPU.
std::vector<int32_t> ManyPositions() {
  std::vector<int32_t> positions(120);
  for (size_t i = 0; i < positions.size(); ++i) {
    positions[i] = static_cast<int32_t>(i * 37 % 101);
  }
  return positions;
}

const Shape kShapes[] = {
    {"first_token", {0}, 2, 1, 16, 16, 0},
    {"odd_widths", {30, 31, 32, 63, 64}, 6, 2, 40, 33, 0},
    {"many_heads", {5, 77}, 20, 1, 24, 33, 0},
    {"splits", {1500}, 8, 2, 64, 64, 0},
    {"window", {100, 5}, 4, 4, 32, 32, 9},
    {"widest", {40}, 17, 1, 200, 512, 0},
    {"heads_of_128", {0, 63, 64, 65, 700}, 16, 2, 128, 128, 0, false, 16},
    {"heads_of_64_window", {500, 3}, 8, 4, 64, 64, 70},
    {"heads_of_256", {90, 31}, 6, 2, 256, 256, 0},
    {"eight_to_one", {200, 17, 64}, 8, 1, 64, 64, 0, false, 8},
    {"one_to_one", {7, 300}, 2, 2, 128, 128, 0},
    {"five_to_one", {33, 250}, 10, 2, 128, 128, 0},
    {"eight_to_one_256", {31, 120}, 8, 1, 256, 256, 0},
    {"many_of_two_heads", ManyPositions(), 8, 2, 128, 128, 0, false, 8},
    {"many_of_two_narrow", ManyPositions(), 4, 2, 64, 64, 0},
    {"many_of_four_narrow", ManyPositions(), 12, 4, 64, 64, 0, false, 16},
    {"latent", {70, 9}, 5, 1, 48, 40, 0, true},
    {"latent_576", {130, 64, 3}, 16, 1, 576, 512, 0, true}};

std::vector<Attending> Attentions() {
  std::vector<Attending> cases;
  for (const CacheFormat format :
       {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
    for (const Shape& shape : kShapes) cases.push_back({{format, 0}, shape});
    cases.push_back({{format, 0}, std::end(kShapes)[-1], Precision::kBf16});
    if (format == CacheFormat::kBF16) continue;
    for (const Shape& shape : kShapes) {
      const bool has_kernel = shape.key_dim % 64 == 0 && !shape.latent;
      if (!has_kernel) continue;
      cases.push_back({{format, 0}, shape, Precision::kBf16});
    }
  }
  for (const int bits : {4, 5, 6}) {
    cases.push_back({{CacheFormat::kInt8, bits}, kShapes[1]});
    cases.push_back({{CacheFormat::kInt8, bits}, kShapes[3]});
    cases.push_back({{CacheFormat::kInt4, bits}, kShapes[7]});
    cases.push_back({{CacheFormat::kInt4, bits}, std::end(kShapes)[-2]});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Cases, PackedAttentionTest,
                         testing::ValuesIn(Attentions()),
                         [](const testing::TestParamInfo<Attending>& info) {
                           const bool bf16 =
                               info.param.precision == Precision::kBf16;
                           return absl::StrCat(NameOf(info.param.cache), "_",
                                               info.param.shape.name,
                                               bf16 ? "_in_tensor_cores" : "");
                         });

TEST(PackedCacheErrorTest, RowsOutsideTheCacheAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const int32_t bad : {-1, 8}) {
    EXPECT_THAT(CompareBackends(
                    [](GraphBuilder& b) {
                      PackedCacheWrite(
                          b, PackedState(b, "k", 8, 1, 8, CacheFormat::kInt8),
                          FloatInput(b, "x", Static(2), 8),
                          b.Input("row", DType::kI32, {Static(2)}),
                          /*num_heads=*/1, {CacheFormat::kInt8});
                      return std::vector<ValueId>{};
                    },
                    {/*roundings=*/0,
                     [=](const std::string& name, const TensorView& view) {
                       return name == "row" && FillInts(view, {3, bad});
                     }}),
                StatusIs(absl::StatusCode::kInvalidArgument, _));
  }
}

// --- Rows copied ---

// Bytes of a row about each of the words that they are copied in.
class CopyCacheRowsTest : public DeviceTest<int64_t> {};

TEST_P(CopyCacheRowsTest, AgreesWithTheCpu) {
  const int64_t bytes = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const ValueId from = b.Input("from", DType::kI32, {Static(3)});
            const ValueId to = b.Input("to", DType::kI32, {Static(3)});
            const auto copy = [&](const char* name, DType dtype) {
              CopyCacheRows(b, b.State(name, dtype, {Static(9), Static(bytes)}),
                            from, to);
            };
            copy("packed", DType::kU8);
            copy("floats", DType::kF32);
            return std::vector<ValueId>{};
          },
          {/*roundings=*/0,
           [&](const std::string& name, const TensorView& view) {
             if (name == "from") return FillInts(view, {7, 0, 8});
             if (name == "to") return FillInts(view, {2, 3, 5});
             if (name != "packed") return false;
             const auto ints = RandomInts(view.num_elements(), 0, 255, 2);
             std::copy(ints.begin(), ints.end(), view.as<uint8_t>());
             return true;
           }}),
      IsOk());
}
INSTANTIATE_TEST_SUITE_P(Bytes, CopyCacheRowsTest,
                         testing::Values(1, 18, 34, 36, 68, 128, 2304));

TEST(CopyCacheRowsErrorTest, RowsOutsideTheCacheAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  for (const char* const wrong : {"from", "to"}) {
    EXPECT_THAT(CompareBackends(
                    [](GraphBuilder& b) {
                      const Dim one = Static(1);
                      CopyCacheRows(b,
                                    b.State("k", DType::kF32, {Static(8), one}),
                                    b.Input("from", DType::kI32, {one}),
                                    b.Input("to", DType::kI32, {one}));
                      return std::vector<ValueId>{};
                    },
                    {/*roundings=*/0,
                     [=](const std::string& name, const TensorView& view) {
                       return name == wrong && FillInts(view, {8});
                     }}),
                StatusIs(absl::StatusCode::kInvalidArgument, _));
  }
}

}  // namespace
}  // namespace strata::gpu
