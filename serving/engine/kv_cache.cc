#include "serving/engine/kv_cache.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "serving/engine/block_pool.h"

namespace strata {

KvCache::KvCache(int64_t num_blocks, int64_t block_size)
    : block_size_(block_size), pool_(num_blocks), tree_(block_size, pool_) {}

KvCache::Sequence KvCache::Begin(absl::Span<const int32_t> tokens) {
  Sequence sequence;
  const auto count = static_cast<int64_t>(tokens.size());
  sequence.blocks = tree_.Match(tokens, (count - 1) / block_size_);
  sequence.num_computed =
      static_cast<int64_t>(sequence.blocks.size()) * block_size_;
  num_queried_tokens_ += count;
  num_found_tokens_ += sequence.num_computed;
  return sequence;
}

int32_t KvCache::Take() {
  int32_t block = pool_.Take();
  while (block == BlockPool::kNone && tree_.Evict()) block = pool_.Take();
  return block;
}

bool KvCache::Reserve(Sequence& sequence, int64_t num_tokens,
                      std::vector<BlockCopy>& copies) {
  const int64_t wanted = BlocksFor(num_tokens);
  const auto present = static_cast<int64_t>(sequence.blocks.size());
  const int64_t first_written = sequence.num_computed / block_size_;
  std::vector<int64_t> shared;
  for (int64_t i = first_written; i < std::min(present, wanted); ++i) {
    if (pool_.holders(sequence.blocks[i]) > 1) shared.push_back(i);
  }
  const int64_t num_new = static_cast<int64_t>(shared.size()) +
                          std::max<int64_t>(0, wanted - present);
  std::vector<int32_t> taken;
  while (static_cast<int64_t>(taken.size()) < num_new) {
    const int32_t block = Take();
    if (block == BlockPool::kNone) {
      for (const int32_t b : taken) pool_.Drop(b);
      return false;
    }
    taken.push_back(block);
  }
  for (size_t i = 0; i < shared.size(); ++i) {
    int32_t& block = sequence.blocks[shared[i]];
    copies.push_back({block, taken[i]});
    pool_.Drop(block);
    block = taken[i];
  }
  sequence.blocks.insert(sequence.blocks.end(), taken.begin() + shared.size(),
                         taken.end());
  return true;
}

void KvCache::Keep(const Sequence& sequence, absl::Span<const int32_t> tokens) {
  tree_.Insert(tokens.subspan(0, sequence.num_computed), sequence.blocks);
}

KvCache::Sequence KvCache::Fork(const Sequence& sequence) {
  for (const int32_t block : sequence.blocks) pool_.Share(block);
  return sequence;
}

void KvCache::End(Sequence& sequence) {
  for (const int32_t block : sequence.blocks) pool_.Drop(block);
  sequence = Sequence();
}

}  // namespace strata
