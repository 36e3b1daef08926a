// Random bits for benchmarks that fill gigabytes: a xorshift generator, some
// times as fast as core/base/random.h, and no better than it need be.

#ifndef CORE_TESTING_RANDOM_BITS_H_
#define CORE_TESTING_RANDOM_BITS_H_

#include <cstdint>

namespace strata {

class RandomBits {
 public:
  uint64_t Next() {
    bits_ ^= bits_ << 13;
    bits_ ^= bits_ >> 7;
    bits_ ^= bits_ << 17;
    return bits_;
  }

 private:
  uint64_t bits_ = 1;
};

}  // namespace strata

#endif  // CORE_TESTING_RANDOM_BITS_H_
