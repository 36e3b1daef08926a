// Attention's probabilities as powers of two, so that their product with values
// in integers is sums and shifts (B3).
//
//   bits b   steps to an octave m = 2^(b - 4)   levels 16 m, over 16 octaves
//   p        --> 2^(-code / m) of the row's largest;  code in [0, 16 m), or
//                dropped: below 2^-16 of it
//
// With probabilities p and values v, kept in integers under scales that are
// powers of two,
//
//   sum of p v = sum over codes of 2^(-code / m) * (sum of the integers of the
//                                                   tokens that have it)
//
// whose inner sums are exact additions, a vector of 16-bit integers each, and
// whose outer one has a factor a code: a shift where m is 1, else a table. The
// row is divided by the sum of its powers of two, so it stays a mean of values.
//
// The error: every kept p is off by at most half a step, a factor of
// 2^(1 / 2m) either way. Weights that are so, scaled to a sum of 1, differ from
// p by a total of at most, f = 2^(1 / 2m),
//
//   (f - 1) / (f + 1)  of the range of v, its largest minus its least:
//   0.172 for 4 bits, 0.087 for 5, 0.043 for 6
//
// (the worst case has the weight 1 / (1 + f) of p go up and all else go down),
// beside what was dropped. One token with all of p is exact.

#ifndef CORE_QUANT_LOG_LEVELS_H_
#define CORE_QUANT_LOG_LEVELS_H_

#include <cstdint>

namespace strata {

class LogLevels {
 public:
  static constexpr uint8_t kDropped = 255;
  static constexpr int kOctaves = 16;
  static constexpr int kMaxLevels = 64;

  // `bits` in 4 to 6.
  explicit LogLevels(int bits);

  int steps_per_octave() const { return steps_; }
  int num_levels() const { return steps_ * kOctaves; }
  // 2^(-code / m); 0 of what is dropped.
  float value(uint8_t code) const { return value_[code]; }

  // The code of p / largest, which is in [0, 1]. What kernels are held to; they
  // do the same with half_step() and fraction().
  uint8_t CodeOf(float ratio) const;

  // 2^(1 / 2m), by which x is multiplied so that down is to nearest.
  float half_step() const { return half_step_; }
  // 2^(k / m), where step k of an octave begins, k < m.
  float fraction(int k) const { return fraction_[k]; }

  // The largest error of a mean of values, in shares of their range.
  double MaxMeanError() const;

 private:
  int steps_;
  float half_step_;    // 2^(1 / 2m): rounds to nearest in logarithms.
  float fraction_[4];  // 2^(k / m), the bounds of steps in an octave.
  float value_[kDropped + 1] = {};
};

}  // namespace strata

#endif  // CORE_QUANT_LOG_LEVELS_H_
