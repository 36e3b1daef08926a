// The machine's memory bandwidth: what benchmarks hold their bytes/s against.

#ifndef CORE_TESTING_READ_BANDWIDTH_H_
#define CORE_TESTING_READ_BANDWIDTH_H_

#include <cstdint>

#include "core/base/thread_pool.h"
#include "core/tensor/buffer.h"

namespace strata {

// Reads a buffer of 512 MiB, far larger than any cache, with all threads of a
// pool. Others use the machine too, so a benchmark measures it anew beside
// what it compares. Ends the process if there is no memory for it.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(ThreadPool& pool);

  // Bytes per second of one pass: the widest loads there are, in pieces that
  // are read from end to end.
  double Measure() const;

 private:
  float* Words() const { return reinterpret_cast<float*>(buffer_.data()); }

  ThreadPool& pool_;
  Buffer buffer_;
};

}  // namespace strata

#endif  // CORE_TESTING_READ_BANDWIDTH_H_
