#include "core/passes/pack_caches.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/paged_attention.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Operators(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes()) names.emplace_back(node.op->name);
  return names;
}

// A step of 3 tokens: 4 query heads of 40, 2 KV heads with values of 33; or
// latents of 33 and 7 columns. 64 slots.
Graph Step(bool latent, bool paged, bool also_read = false) {
  GraphBuilder b;
  const Dim t = Static(3);
  const auto floats = [&](const std::string& name, int64_t columns) {
    return b.Input(name, DType::kF32, {t, Static(columns)});
  };
  const auto ints = [&](const std::string& name) {
    return b.Input(name, DType::kI32, {t});
  };
  const ValueId row = ints("row");
  const auto cache = [&](const std::string& name, int64_t columns) {
    const ValueId state =
        b.State(name, DType::kF32, {Static(64), Static(columns)});
    CacheWrite(b, state, floats(absl::StrCat(name, "_rows"), columns), row);
    return state;
  };
  const ValueId q = floats("q", 4 * 40);
  Pages pages;
  const ValueId where = ints("where");
  if (paged) {
    pages.block_table = b.Input("table", DType::kI32, {Static(2), Static(4)});
    pages.sequence = where;
  }
  const ValueId position = ints("position");
  ValueId o;
  if (latent) {
    const ValueId latents = cache("latent", 40);
    const CachedLatentOptions options = {4, 33, 0.5, 7};
    o = paged ? PagedLatentAttention(b, q, latents, pages, position, options)
              : CachedLatentAttention(b, q, latents, where, position, options);
  } else {
    const ValueId k = cache("k", 2 * 40), v = cache("v", 2 * 33);
    const AttentionOptions options = {4, 2, 0.5, 7};
    o = paged ? PagedAttention(b, q, k, v, pages, position, options)
              : CachedAttention(b, q, k, v, where, position, options);
    if (also_read) b.Output("twice", Add(b, k, k));
  }
  b.Output("o", o);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

int64_t Columns(const Graph& graph, const std::string& name) {
  const Value& value = graph.value(graph.FindSource(name));
  EXPECT_EQ(value.type.dtype, DType::kU8);
  EXPECT_EQ(value.role, Role::kState);
  return value.type.dims[1].bound;
}

TEST(PackCachesTest, PacksEveryFormOfACache) {
  for (const bool paged : {true, false}) {
    const auto packed =
        PackCaches(Step(/*latent=*/false, paged), {CacheFormat::kInt8, 0});
    ASSERT_THAT(packed, IsOk());
    EXPECT_THAT(Verify(*packed), IsOk());
    EXPECT_THAT(
        Operators(*packed),
        ElementsAre("PackedCacheWrite", "PackedCacheWrite", "PackedAttention"));
    // Heads of 40 and 33 are two groups of 34 bytes each.
    EXPECT_EQ(Columns(*packed, "k"), 2 * 2 * 34);
    EXPECT_EQ(Columns(*packed, "v"), 2 * 2 * 34);

    const auto latent =
        PackCaches(Step(/*latent=*/true, paged), {CacheFormat::kInt4, 4});
    ASSERT_THAT(latent, IsOk());
    EXPECT_THAT(Verify(*latent), IsOk());
    EXPECT_THAT(Operators(*latent),
                ElementsAre("PackedCacheWrite", "PackedAttention"));
    EXPECT_EQ(Columns(*latent, "latent"), 2 * 18);
    const Node& attention = latent->nodes().back();
    EXPECT_EQ(attention.attrs.Int("value_dim"), 33);
    EXPECT_EQ(attention.attrs.Int("window"), 7);
    EXPECT_EQ(attention.attrs.Int("attention_bits"), 4);
  }
}

// Inference of the packed operators agrees with what the pass wrote.
TEST(PackCachesTest, GivesEachNodeTheTypesThatItInfers) {
  for (const bool latent : {true, false}) {
    for (const bool paged : {true, false}) {
      for (const CacheFormat format :
           {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
        const auto packed = PackCaches(Step(latent, paged), {format, 0});
        ASSERT_THAT(packed, IsOk());
        for (const Node& node : packed->nodes()) {
          const auto types =
              node.op->infer({*packed, node.inputs, {}, node.attrs});
          ASSERT_THAT(types, IsOk());
          ASSERT_EQ(types->size(), node.outputs.size());
          for (size_t i = 0; i < types->size(); ++i) {
            EXPECT_EQ((*types)[i].dims,
                      packed->value(node.outputs[i]).type.dims);
          }
        }
      }
    }
  }
}

TEST(PackCachesTest, LeavesAGraphInF32AsItIs) {
  const Graph graph = Step(false, true);
  const auto same = PackCaches(graph, {});
  ASSERT_THAT(same, IsOk());
  EXPECT_EQ(ToText(*same), ToText(graph));
}

TEST(PackCachesTest, RejectsWhatItCannotPack) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(PackCaches(Step(false, true, /*also_read=*/true),
                         {CacheFormat::kInt8, 0}),
              StatusIs(kInvalid, HasSubstr("Add of k, which is a cache")));
  EXPECT_THAT(PackCaches(Step(false, true), {CacheFormat::kF32, 4}),
              StatusIs(kInvalid, HasSubstr("want int8 or int4")));
}

}  // namespace
}  // namespace strata
