// Random numbers that are a pure function of a seed and a position.
//
// The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011). It keeps no state beyond a counter, streams never
// overlap, and no library function takes part, so a number is the same on every
// machine and for any number of threads.
//
//   Random random(seed, HashName("tier0.w_gate"));
//   for (float& w : weights) w = scale * random.Normal();
//
// To fill an array in parallel, give each row a stream of its own.

#ifndef CORE_BASE_RANDOM_H_
#define CORE_BASE_RANDOM_H_

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace strata {

// One block: ten rounds of the cipher over `counter`.
std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter,
                                   const std::array<uint32_t, 2>& key);

// 64 random bits for (a, b) under `seed`, as for the order of the data: epoch
// and index. Independent of all streams of the same seed.
uint64_t HashCounter(uint64_t seed, uint64_t a, uint64_t b = 0);

// A stream number for a name.
uint64_t HashName(absl::string_view name);

// A stream of random numbers. Copying it copies the position.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  // 64 random bits. Two calls make a block.
  uint64_t Bits();

  // In [0, 1), a multiple of 2^-53.
  double Uniform();

  // In [0, n), each with the same probability. `n` is at least 1.
  uint64_t UniformInt(uint64_t n);

  // Mean 0, variance 1, at most 8.6 away from 0. Pairs of calls share a block.
  double Normal();

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t next_block_ = 0;
  uint64_t second_bits_ = 0;
  bool has_second_bits_ = false;
  double second_normal_ = 0;
  bool has_second_normal_ = false;
};

}  // namespace strata

#endif  // CORE_BASE_RANDOM_H_
