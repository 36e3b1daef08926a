// What the KV cache still holds of earlier texts: a tree of full blocks, keyed
// by the tokens in them.
//
//   root --[t0 .. t15]--> block 7 --[t16 .. t31]--> block 2
//                            '-----[u16 .. u31]--> block 5
//
// A path from the root is the beginning of some text; the block at a node holds
// the keys and values of its tokens after those of the path. The tree is one of
// the holders of its blocks (BlockPool). Leaves that nobody else holds may be
// evicted, the least recently used first. Not for several threads.

#ifndef SERVING_ENGINE_PREFIX_TREE_H_
#define SERVING_ENGINE_PREFIX_TREE_H_

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "serving/engine/block_pool.h"

namespace strata {

class PrefixTree {
 public:
  // `pool` must outlive the tree.
  PrefixTree(int64_t block_size, BlockPool& pool);

  // The blocks of the longest known beginning of `tokens`, at most
  // `max_blocks`; the caller becomes a holder of each.
  std::vector<int32_t> Match(absl::Span<const int32_t> tokens,
                             int64_t max_blocks);

  // Keeps the full blocks of `tokens`, which lie in `blocks`; the tree becomes
  // a holder of those that are new to it. Of a block that it has already with
  // the same tokens before it and in it, the old one stays.
  void Insert(absl::Span<const int32_t> tokens,
              absl::Span<const int32_t> blocks);

  // Drops the least recently used leaf that nobody else holds; false if there
  // is none.
  bool Evict();

  // Blocks that the tree holds.
  int64_t num_blocks() const { return num_blocks_; }

 private:
  struct Node {
    int parent = 0;
    int32_t block = BlockPool::kNone;
    uint64_t last_use = 0;
    std::vector<int32_t> tokens;                           // [block_size]
    absl::flat_hash_map<std::vector<int32_t>, int> child;  // By their tokens.
  };

  // The child of `node` for the i-th block of `tokens`, or -1.
  int Child(int node, absl::Span<const int32_t> tokens, int64_t i) const;
  void Touch(int node);

  const int64_t block_size_;
  BlockPool& pool_;
  std::vector<Node> nodes_;                    // The first is the root.
  std::vector<int> free_nodes_;                // Of nodes_.
  std::set<std::pair<uint64_t, int>> leaves_;  // By last use.
  uint64_t clock_ = 0;
  int64_t num_blocks_ = 0;
};

}  // namespace strata

#endif  // SERVING_ENGINE_PREFIX_TREE_H_
