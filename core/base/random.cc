#include "core/base/random.h"

#include <array>
#include <cmath>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/base/check.h"

namespace strata {
namespace {

// The constants of the paper: two multipliers and the Weyl steps of the key.
constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;

// Sets the keys of HashCounter apart from those of Random.
constexpr uint64_t kHashKey = 0x5bd1e9955bd1e995;

constexpr double kPi = 3.14159265358979323846;
constexpr double kLn2 = 0.69314718055994530942;
constexpr double kSqrtHalf = 0.70710678118654752440;

struct TwoWords {
  uint64_t first, second;
};

TwoWords Block(uint64_t seed, uint64_t low, uint64_t high) {
  const std::array<uint32_t, 4> bits = Philox4x32(
      {static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
       static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return {bits[0] | uint64_t{bits[1]} << 32, bits[2] | uint64_t{bits[3]} << 32};
}

// The C library's log, sin and cos differ in the last bit between versions and
// processors. These use only operations that IEEE 754 rounds exactly, and this
// file is compiled without contraction to fused multiply-adds.

// log(x) for a normal x > 0, by 2 atanh((m - 1) / (m + 1)) with the mantissa m
// in [sqrt(1/2), sqrt(2)): |s| < 0.172, so the first dropped term is < 1e-18.
double Log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // Exact; in [1/2, 1).
  if (mantissa < kSqrtHalf) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double s2 = s * s;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
  return exponent * kLn2 + 2 * s * sum;
}

// sin(x) and cos(x) for |x| <= pi / 4 by their Taylor series; the first dropped
// terms are below 3e-17 and 1e-18.
double Sin(double x) {
  const double x2 = x * x;
  double sum = 1;
  for (int k = 16; k >= 2; k -= 2) sum = 1 - sum * x2 / (k * (k + 1));
  return x * sum;
}
double Cos(double x) {
  const double x2 = x * x;
  double sum = 1;
  for (int k = 17; k >= 1; k -= 2) sum = 1 - sum * x2 / (k * (k + 1));
  return sum;
}

struct Point {
  double x, y;
};

// The point of the unit circle at `turn` in [0, 1): (cos, sin)(2 pi turn).
Point OnCircle(double turn) {
  const double quarters = turn * 4;
  const int quadrant = static_cast<int>(quarters + 0.5);   // Nearest axis.
  const double angle = (quarters - quadrant) * (kPi / 2);  // |.| <= pi / 4.
  const double c = Cos(angle), s = Sin(angle);
  switch (quadrant & 3) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

double ToUniform(uint64_t bits) { return (bits >> 11) * 0x1p-53; }

}  // namespace

std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter,
                                   const std::array<uint32_t, 2>& key) {
  std::array<uint32_t, 4> x = counter;
  uint32_t key0 = key[0], key1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * x[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0,
         static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1,
         static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return x;
}

uint64_t HashCounter(uint64_t seed, uint64_t a, uint64_t b) {
  return Block(seed ^ kHashKey, a, b).first;
}

uint64_t HashName(absl::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a.
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return hash;
}

uint64_t Random::Bits() {
  if (has_second_bits_) {
    has_second_bits_ = false;
    return second_bits_;
  }
  const TwoWords block = Block(seed_, next_block_++, stream_);
  second_bits_ = block.second;
  has_second_bits_ = true;
  return block.first;
}

double Random::Uniform() { return ToUniform(Bits()); }

uint64_t Random::UniformInt(uint64_t n) {
  CHECK(n >= 1);
  // The high word of bits * n is the number. Of the 2^64 values of `bits`,
  // those with a low word under 2^64 mod n are too many for an even split.
  unsigned __int128 product = static_cast<unsigned __int128>(Bits()) * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = -n % n;  // 2^64 mod n.
    while (static_cast<uint64_t>(product) < threshold) {
      product = static_cast<unsigned __int128>(Bits()) * n;
    }
  }
  return static_cast<uint64_t>(product >> 64);
}

double Random::Normal() {
  if (has_second_normal_) {
    has_second_normal_ = false;
    return second_normal_;
  }
  // Box and Muller: a point of the plane by its distance and its direction.
  const TwoWords block = Block(seed_, next_block_++, stream_);
  const double u = ((block.first >> 11) + 1) * 0x1p-53;  // In (0, 1].
  const double distance = std::sqrt(-2 * Log(u));
  const Point direction = OnCircle(ToUniform(block.second));
  second_normal_ = distance * direction.y;
  has_second_normal_ = true;
  return distance * direction.x;
}

}  // namespace strata
