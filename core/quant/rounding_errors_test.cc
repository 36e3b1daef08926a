#include "core/quant/rounding_errors.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/quant/quantized_matrix.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// Sizes about every vector's, codes at both ends, places halfway between codes.
TEST(RoundingErrorsTest, AreThoseOfTheCodes) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (const int bits : {2, 4, 8}) {
    const int max_code = (1 << bits) - 1;
    for (const int64_t n : {1, 3, 4, 7, 8, 15, 16, 17, 32, 45, 128}) {
      std::vector<float> w(n), weight(n), got(n);
      const float scale = 0.37f;
      const int zero = max_code / 3;
      for (int64_t c = 0; c < n; ++c) {
        w[c] = c % 5 == 0 ? 0.5f * scale * static_cast<float>(c - n / 2)
                          : normal(rng) * scale * static_cast<float>(max_code);
        weight[c] = std::abs(normal(rng));
      }
      RoundingErrors(w.data(), weight.data(), n, scale, zero, max_code,
                     got.data());
      for (int64_t c = 0; c < n; ++c) {
        const int code = CodeOf(w[c], scale, zero, max_code);
        const double off = double{w[c]} - double{scale} * (code - zero);
        const double want = weight[c] * off * off;
        // The product with the scale is rounded, and what is left of w.
        const double of_off = 0x1p-23 * (std::abs(w[c]) + scale * max_code);
        EXPECT_NEAR(
            got[c], want,
            weight[c] * (2 * std::abs(off) + of_off) * of_off + 0x1p-22 * want)
            << bits << " bits, " << c << " of " << n;
      }
    }
  }
}

}  // namespace
}  // namespace strata
