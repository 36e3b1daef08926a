#include "core/runtime/scratch.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/buffer.h"

namespace strata {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMinBlockBytes = 1 << 20;

}  // namespace

char* Scratch::TakeBytes(int64_t num_bytes) {
  num_bytes = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (blocks_.empty() || used_ + num_bytes > blocks_.back().num_bytes()) {
    auto block = Buffer::Allocate(std::max(num_bytes, kMinBlockBytes));
    CHECK(block.ok()) << block.status().ToString();
    blocks_.push_back(*std::move(block));
    used_ = 0;
  }
  char* taken = blocks_.back().data() + used_;
  used_ += num_bytes;
  return taken;
}

void Scratch::Reset() {
  if (blocks_.size() > 1) {
    auto block = Buffer::Allocate(num_bytes());
    CHECK(block.ok()) << block.status().ToString();
    blocks_.clear();
    blocks_.push_back(*std::move(block));
  }
  used_ = 0;
}

int64_t Scratch::num_bytes() const {
  int64_t sum = 0;
  for (const Buffer& block : blocks_) sum += block.num_bytes();
  return sum;
}

}  // namespace strata
