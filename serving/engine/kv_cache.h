// Which blocks of the KV cache belong to which sequence: BlockPool and
// PrefixTree together. Numbers only; the memory is the programs'.
//
//   KvCache::Sequence s = cache.Begin(tokens);     blocks of a known beginning
//   cache.Reserve(s, tokens.size(), copies)        room for more
//   ... tokens are computed ...
//   cache.Keep(s, tokens)                          others may begin with them
//   KvCache::Sequence t = cache.Fork(s);           goes on by itself
//   cache.End(s)
//
// Not for several threads.

#ifndef SERVING_ENGINE_KV_CACHE_H_
#define SERVING_ENGINE_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "serving/engine/block_pool.h"
#include "serving/engine/prefix_tree.h"

namespace strata {

// The content of a block that must be in another before the next step; copies
// are made in the order of the list.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
};

class KvCache {
 public:
  struct Sequence {
    std::vector<int32_t> blocks;
    int64_t num_computed = 0;  // Tokens whose keys and values are there.
  };

  KvCache(int64_t num_blocks, int64_t block_size);

  // A sequence of `tokens`, with the blocks of what is known of them; the last
  // token is always to be computed, as its logits are wanted.
  Sequence Begin(absl::Span<const int32_t> tokens);

  // Makes room for the first `num_tokens` tokens. Blocks that tokens after
  // num_computed go to become the sequence's own: a shared one is replaced by a
  // copy, which is added to `copies`. Evicts what the tree holds alone. False,
  // with nothing changed but evictions, if there are too few blocks.
  bool Reserve(Sequence& sequence, int64_t num_tokens,
               std::vector<BlockCopy>& copies);

  // Lets later sequences begin with the full blocks of what is computed of
  // `tokens`.
  void Keep(const Sequence& sequence, absl::Span<const int32_t> tokens);

  // Another sequence with the same blocks, none of them copied yet.
  Sequence Fork(const Sequence& sequence);

  // Drops the sequence's blocks.
  void End(Sequence& sequence);

  int64_t BlocksFor(int64_t num_tokens) const {
    return (num_tokens + block_size_ - 1) / block_size_;
  }
  int64_t num_blocks() const { return pool_.num_blocks(); }
  int64_t block_size() const { return block_size_; }
  // Held by nobody, or by the tree alone if nobody reads its block.
  int64_t num_free() const { return pool_.num_free(); }
  int64_t num_kept() const { return tree_.num_blocks(); }
  const BlockPool& pool() const { return pool_; }

  // Since the beginning: tokens of sequences begun, and those found in the
  // tree.
  int64_t num_queried_tokens() const { return num_queried_tokens_; }
  int64_t num_found_tokens() const { return num_found_tokens_; }

 private:
  // A free block, evicting if need be; kNone if there is none.
  int32_t Take();

  const int64_t block_size_;
  BlockPool pool_;
  PrefixTree tree_;
  int64_t num_queried_tokens_ = 0;
  int64_t num_found_tokens_ = 0;
};

}  // namespace strata

#endif  // SERVING_ENGINE_KV_CACHE_H_
