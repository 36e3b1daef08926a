// Temporary memory of kernels: grows in the first step, then is reused.

#ifndef CORE_RUNTIME_SCRATCH_H_
#define CORE_RUNTIME_SCRATCH_H_

#include <cstdint>
#include <vector>

#include "core/tensor/buffer.h"

namespace strata {

// A bump allocator. Reset() keeps the memory, so that a steady state allocates
// nothing. Not for several threads: take what workers need before they start.
class Scratch {
 public:
  // Uninitialized room for `count` elements of T, aligned to a cache line.
  template <typename T>
  T* Take(int64_t count) {
    return reinterpret_cast<T*>(TakeBytes(count * sizeof(T)));
  }

  // Forgets what was taken. If that came in several blocks, they become one.
  void Reset();

  int64_t num_bytes() const;

 private:
  char* TakeBytes(int64_t num_bytes);

  std::vector<Buffer> blocks_;
  int64_t used_ = 0;  // Of the last block.
};

}  // namespace strata

#endif  // CORE_RUNTIME_SCRATCH_H_
