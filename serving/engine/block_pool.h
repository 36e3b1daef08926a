// Blocks of the KV cache, by number, with how many hold each.
//
// Take gives a block that nobody holds; Share and Drop count holders; the block
// whose last holder drops it is free again. Not for several threads.

#ifndef SERVING_ENGINE_BLOCK_POOL_H_
#define SERVING_ENGINE_BLOCK_POOL_H_

#include <cstdint>
#include <vector>

namespace strata {

class BlockPool {
 public:
  static constexpr int32_t kNone = -1;

  explicit BlockPool(int64_t num_blocks);

  // A free block, held once from now on; kNone if there is none.
  int32_t Take();
  // One more holder of a block that has some.
  void Share(int32_t block);
  // One holder less.
  void Drop(int32_t block);

  int64_t holders(int32_t block) const { return holders_[block]; }
  int64_t num_blocks() const { return static_cast<int64_t>(holders_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

 private:
  std::vector<int32_t> holders_;  // [blocks]
  std::vector<int32_t> free_;     // The next to be taken is the last.
};

}  // namespace strata

#endif  // SERVING_ENGINE_BLOCK_POOL_H_
