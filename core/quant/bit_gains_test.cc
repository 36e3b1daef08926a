#include "core/quant/bit_gains.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kExperts = 3, kRows = 5, kColumns = 32;

// Three experts' matrices and the moments of 7, 0 and 20 inputs.
class GainsTest : public ::testing::Test {
 protected:
  GainsTest() {
    Random random(/*seed=*/4, /*stream=*/0);
    w_.resize(kExperts * kRows * kColumns);
    for (float& x : w_) x = static_cast<float>(random.Normal());
    for (const int64_t inputs : {7, 0, 20}) {
      InputMoments moments = {kColumns, inputs,
                              std::vector<float>(kColumns * kColumns)};
      for (int64_t i = 0; i < inputs; ++i) {
        std::vector<float> x(kColumns);
        for (float& v : x) v = static_cast<float>(random.Normal());
        for (int64_t a = 0; a < kColumns; ++a) {
          for (int64_t b = 0; b < kColumns; ++b) {
            moments.sum[a * kColumns + b] += x[a] * x[b];
          }
        }
      }
      moments_.push_back(moments);
    }
    matrix_ = {"w", w_.data(), kExperts, kRows, kColumns};
  }

  // What expert `e` loses in so many bits: a sum over rows of d H d^T times
  // what a row counts; of weights, of d d^T.
  double Lost(int64_t e, int bits, const std::vector<float>& counts,
              bool of_weights = false) const {
    const float* const w = &w_[e * kRows * kColumns];
    const std::vector<float> rounded =
        RoundToNearest(w, kRows, kColumns, {bits, 32, true}).Dequantize();
    double lost = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t a = 0; a < kColumns; ++a) {
        for (int64_t b = 0; b < kColumns; ++b) {
          const double h = of_weights ? static_cast<double>(a == b)
                                      : moments_[e].sum[a * kColumns + b];
          const int64_t i = r * kColumns + a, j = r * kColumns + b;
          lost += counts[e * kRows + r] * h * (double{w[i]} - rounded[i]) *
                  (double{w[j]} - rounded[j]);
        }
      }
    }
    return lost;
  }

  ThreadPool pool_{2};
  std::vector<float> w_;
  std::vector<InputMoments> moments_;
  MatrixStack matrix_;
};

TEST_F(GainsTest, CountsEachOutputAsItIsTold) {
  Random random(/*seed=*/5, /*stream=*/0);
  std::vector<float> counts(kExperts * kRows);
  for (float& x : counts) x = static_cast<float>(random.Uniform());
  counts[3] = 0;

  const auto gains =
      GainsOfBits(matrix_, {2, 32, true}, moments_, counts, pool_);

  ASSERT_THAT(gains, IsOk());
  ASSERT_EQ(gains->size(), kExperts);
  for (int64_t e = 0; e < kExperts; ++e) {
    ASSERT_EQ((*gains)[e].size(), 2);
    const double in[] = {Lost(e, 2, counts), Lost(e, 4, counts),
                         Lost(e, 8, counts)};
    // Sums of 32 x 32 products in floats, each within 2^-23 of its size.
    EXPECT_NEAR((*gains)[e][0], in[0] - in[1], 1e-4 * in[0]);
    EXPECT_NEAR((*gains)[e][1], in[1] - in[2], 1e-4 * in[1]);
  }
  // No token came to the second.
  EXPECT_THAT((*gains)[1], ElementsAre(0, 0));
  EXPECT_GT((*gains)[2][0], 0);

  // Weights that are twice as large are worth twice as much, all else alike.
  for (float& x : counts) x *= 2;
  const auto twice =
      GainsOfBits(matrix_, {2, 32, true}, moments_, counts, pool_);
  ASSERT_THAT(twice, IsOk());
  EXPECT_DOUBLE_EQ((*twice)[2][0], 2 * (*gains)[2][0]);
}

TEST_F(GainsTest, CountsSharesOfAllOutputsWithoutWeights) {
  const std::vector<float> alike(kExperts * kRows, 1);
  double energy = 0;
  for (int64_t e = 0; e < kExperts; ++e) {
    energy += ErrorBetween(&w_[e * kRows * kColumns], w_.data(), kRows,
                           kColumns, moments_[e].sum, pool_)
                  .output;
  }

  const auto gains = GainsOfBits(matrix_, {4, 32, true}, moments_, {}, pool_);

  ASSERT_THAT(gains, IsOk());
  for (int64_t e = 0; e < kExperts; ++e) {
    ASSERT_EQ((*gains)[e].size(), 1);
    const double lost = Lost(e, 4, alike);
    EXPECT_NEAR((*gains)[e][0], (lost - Lost(e, 8, alike)) / energy,
                1e-4 * lost / energy);
  }
  // Without data, shares of the weights' own energy.
  double of_weights = 0;
  for (const float x : w_) of_weights += double{x} * x;
  const auto without = GainsOfBits(matrix_, {4, 32, true}, {}, {}, pool_);
  ASSERT_THAT(without, IsOk());
  const double lost = Lost(1, 4, alike, true) - Lost(1, 8, alike, true);
  EXPECT_NEAR((*without)[1][0], lost / of_weights, 1e-4 * lost / of_weights);
}

TEST_F(GainsTest, RefusesWeightsThatAreNone) {
  const QuantFormat format = {4, 32, true};
  std::vector<float> counts(kExperts * kRows, 1);
  EXPECT_THAT(GainsOfBits(matrix_, format, {}, counts, pool_),
              StatusIs(kInvalid, HasSubstr("no calibration data")));
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    counts[4] = bad;
    EXPECT_THAT(GainsOfBits(matrix_, format, moments_, counts, pool_),
                StatusIs(kInvalid,
                         AllOf(HasSubstr("\"w\""), HasSubstr("not negative"))));
  }
  counts.pop_back();
  EXPECT_THAT(GainsOfBits(matrix_, format, moments_, counts, pool_),
              StatusIs(kInvalid, AllOf(HasSubstr("15"), HasSubstr("14"))));
}

}  // namespace
}  // namespace strata
