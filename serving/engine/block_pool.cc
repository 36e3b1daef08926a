#include "serving/engine/block_pool.h"

#include <cstdint>
#include <vector>

#include "core/base/check.h"

namespace strata {

BlockPool::BlockPool(int64_t num_blocks) : holders_(num_blocks) {
  free_.reserve(num_blocks);
  for (int64_t i = num_blocks; i > 0; --i) {
    free_.push_back(static_cast<int32_t>(i - 1));
  }
}

int32_t BlockPool::Take() {
  if (free_.empty()) return kNone;
  const int32_t block = free_.back();
  free_.pop_back();
  holders_[block] = 1;
  return block;
}

void BlockPool::Share(int32_t block) {
  CHECK(holders_[block] > 0) << "block " << block << " is free";
  ++holders_[block];
}

void BlockPool::Drop(int32_t block) {
  CHECK(holders_[block] > 0) << "block " << block << " is free";
  if (--holders_[block] == 0) free_.push_back(block);
}

}  // namespace strata
