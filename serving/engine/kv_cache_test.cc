#include "serving/engine/kv_cache.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/block_pool.h"
#include "serving/engine/prefix_tree.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BlockPoolTest, ABlockIsFreeWhenItsLastHolderDropsIt) {
  BlockPool pool(2);
  const int32_t a = pool.Take(), b = pool.Take();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool.Take(), BlockPool::kNone);

  pool.Share(a);
  pool.Drop(a);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Drop(a);

  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.Take(), a);
}

TEST(PrefixTreeTest, FindsTheLongestBeginningInWholeBlocks) {
  BlockPool pool(8);
  PrefixTree tree(/*block_size=*/2, pool);
  const std::vector<int32_t> blocks = {pool.Take(), pool.Take(), pool.Take()};
  tree.Insert({1, 2, 3, 4, 5, 6, 7}, blocks);  // The 7 fills no block.

  EXPECT_THAT(tree.Match({1, 2, 3, 4, 9, 9}, 9),
              ElementsAre(blocks[0], blocks[1]));
  EXPECT_THAT(tree.Match({1, 2, 3, 4, 5, 6}, 2),
              ElementsAre(blocks[0], blocks[1]));
  EXPECT_THAT(tree.Match({1, 2, 3}, 9), ElementsAre(blocks[0]));
  EXPECT_THAT(tree.Match({3, 4}, 9), IsEmpty()) << "not at the beginning";
  EXPECT_EQ(pool.holders(blocks[0]), 5) << "taker, tree, three matches";
}

TEST(PrefixTreeTest, KeepsTheFirstOfTwoBlocksWithTheSameTokens) {
  BlockPool pool(4);
  PrefixTree tree(2, pool);
  const int32_t a = pool.Take(), b = pool.Take(), c = pool.Take();
  tree.Insert({1, 2}, {a});
  tree.Insert({1, 2, 3, 4}, {b, c});

  EXPECT_THAT(tree.Match({1, 2, 3, 4}, 9), ElementsAre(a, c));
  EXPECT_EQ(pool.holders(b), 1);
}

TEST(PrefixTreeTest, EvictsTheLeastRecentlyUsedLeafThatNobodyHolds) {
  BlockPool pool(4);
  PrefixTree tree(1, pool);
  std::vector<int32_t> block;
  for (int i = 0; i < 4; ++i) block.push_back(pool.Take());
  tree.Insert({1, 2}, {block[0], block[1]});
  tree.Insert({1, 3}, {block[0], block[2]});
  tree.Insert({4}, {block[3]});
  for (const int32_t b : block) pool.Drop(b);
  for (const int32_t b : tree.Match({1, 2}, 9)) pool.Drop(b);  // Used last.
  const std::vector<int32_t> held = tree.Match({4}, 9);

  EXPECT_TRUE(tree.Evict());
  EXPECT_EQ(pool.holders(block[2]), 0) << "[1, 3] is older than [1, 2]";
  EXPECT_TRUE(tree.Evict());
  EXPECT_EQ(pool.holders(block[1]), 0);
  EXPECT_TRUE(tree.Evict());
  EXPECT_EQ(pool.holders(block[0]), 0) << "a leaf by now";
  EXPECT_FALSE(tree.Evict()) << "[4] is held";
  pool.Drop(held[0]);
  EXPECT_TRUE(tree.Evict());
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(KvCacheTest, LeavesTheLastTokenToBeComputed) {
  KvCache cache(8, /*block_size=*/2);
  std::vector<BlockCopy> copies;
  KvCache::Sequence s = cache.Begin({1, 2, 3, 4});
  ASSERT_TRUE(cache.Reserve(s, 4, copies));
  s.num_computed = 4;
  cache.Keep(s, {1, 2, 3, 4});

  KvCache::Sequence same = cache.Begin({1, 2, 3, 4});
  KvCache::Sequence longer = cache.Begin({1, 2, 3, 4, 5});

  EXPECT_EQ(same.num_computed, 2);
  EXPECT_EQ(longer.num_computed, 4);
  EXPECT_EQ(longer.blocks, s.blocks);
  EXPECT_EQ(cache.num_found_tokens(), 6);
  EXPECT_EQ(cache.num_queried_tokens(), 13);
}

TEST(KvCacheTest, CopiesASharedBlockBeforeItIsWrittenTo) {
  KvCache cache(8, /*block_size=*/4);
  std::vector<BlockCopy> copies;
  KvCache::Sequence a = cache.Begin({1, 2, 3, 4, 5});
  ASSERT_TRUE(cache.Reserve(a, 5, copies));
  a.num_computed = 5;
  KvCache::Sequence b = cache.Fork(a);

  ASSERT_TRUE(cache.Reserve(b, 6, copies));
  ASSERT_TRUE(cache.Reserve(a, 6, copies));

  ASSERT_EQ(copies.size(), 1) << "a has its block alone by then";
  EXPECT_EQ(copies[0].from, a.blocks[1]);
  EXPECT_EQ(copies[0].to, b.blocks[1]);
  EXPECT_EQ(a.blocks[0], b.blocks[0]);
  EXPECT_NE(a.blocks[1], b.blocks[1]);
}

TEST(KvCacheTest, AReservationThatFailsChangesNothing) {
  KvCache cache(3, /*block_size=*/2);
  std::vector<BlockCopy> copies;
  KvCache::Sequence a = cache.Begin({1, 2, 3});
  ASSERT_TRUE(cache.Reserve(a, 3, copies));
  KvCache::Sequence b = cache.Begin({5});

  EXPECT_FALSE(cache.Reserve(b, 4, copies));

  EXPECT_THAT(b.blocks, IsEmpty());
  EXPECT_EQ(cache.num_free(), 1);
}

// Random sequences begin, grow, fork and end. A model of it: what each slot of
// memory holds. Whatever a sequence reads must be its own tokens.
TEST(KvCacheTest, NoSequenceEverReadsAnothersTokens) {
  constexpr int64_t kBlocks = 24, kSize = 4;
  for (int seed = 0; seed < 20; ++seed) {
    std::mt19937 rng(seed);
    const auto below = [&](int n) { return static_cast<int>(rng() % n); };
    KvCache cache(kBlocks, kSize);
    std::vector<int32_t> memory(kBlocks * kSize, -1);
    struct Text {
      std::vector<int32_t> tokens;
      KvCache::Sequence cache;
    };
    std::vector<Text> texts;
    for (int action = 0; action < 2000; ++action) {
      const int kind = below(10);
      if (kind < 3) {
        Text text;
        const int length = 1 + below(20);
        for (int i = 0; i < length; ++i) text.tokens.push_back(below(2));
        text.cache = cache.Begin(text.tokens);
        texts.push_back(text);
      } else if (texts.empty()) {
        continue;
      } else if (kind < 7) {  // Computes some tokens of one.
        Text& text = texts[below(texts.size())];
        const auto length = static_cast<int64_t>(text.tokens.size());
        std::vector<BlockCopy> copies;
        if (!cache.Reserve(text.cache, length, copies)) continue;
        for (const BlockCopy& copy : copies) {
          std::copy_n(memory.begin() + copy.from * kSize, kSize,
                      memory.begin() + copy.to * kSize);
        }
        for (int64_t i = text.cache.num_computed; i < length; ++i) {
          const int32_t block = text.cache.blocks[i / kSize];
          ASSERT_EQ(cache.pool().holders(block), 1) << "writes to a shared one";
          memory[block * kSize + i % kSize] = text.tokens[i];
        }
        text.cache.num_computed = length;
        if (below(2) == 0) cache.Keep(text.cache, text.tokens);
        text.tokens.push_back(below(2));
      } else if (kind == 7) {
        Text copy = texts[below(texts.size())];
        copy.cache = cache.Fork(copy.cache);
        texts.push_back(copy);
      } else {
        const int which = below(texts.size());
        cache.Keep(texts[which].cache, texts[which].tokens);
        cache.End(texts[which].cache);
        texts.erase(texts.begin() + which);
      }

      std::map<int32_t, int64_t> holders;
      for (const Text& text : texts) {
        for (const int32_t block : text.cache.blocks) ++holders[block];
        for (int64_t i = 0; i < text.cache.num_computed; ++i) {
          ASSERT_EQ(memory[text.cache.blocks[i / kSize] * kSize + i % kSize],
                    text.tokens[i]);
        }
      }
      // The tree is one more holder of what it keeps, and nothing leaks.
      int64_t in_use = 0, by_tree = 0;
      for (int32_t block = 0; block < kBlocks; ++block) {
        const int64_t extra = cache.pool().holders(block) - holders[block];
        ASSERT_TRUE(extra == 0 || extra == 1) << extra;
        by_tree += extra;
        in_use += cache.pool().holders(block) > 0;
      }
      ASSERT_EQ(by_tree, cache.num_kept());
      ASSERT_EQ(in_use + cache.num_free(), kBlocks);
    }
    for (Text& text : texts) cache.End(text.cache);
    ASSERT_EQ(cache.num_free() + cache.num_kept(), kBlocks);
  }
}

}  // namespace
}  // namespace strata
