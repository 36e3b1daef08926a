#include "tools/scorecard/cka.h"

#include <cmath>
#include <vector>

#include "core/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::DoubleNear;

std::vector<float> Normal(int n, uint64_t stream) {
  Random random(1, stream);
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(random.Normal());
  return values;
}

TEST(LinearCkaTest, AHandWorkedCase) {
  // Centred: x = (1, -1), y = (1, -1 | 1, -1), z = (1, 1, -1, -1).
  // Columns (1, -1, 1, -1) and (1, 1, -1, -1) are orthogonal; of y = both,
  // |y'x|^2 = 4^2 and |y'y| = sqrt(2) 4: 16 / (4 * 4 sqrt(2)).
  const std::vector<float> x = {1, -1, 1, -1};
  const std::vector<float> z = {1, 1, -1, -1};
  const std::vector<float> both = {1, 1, -1, 1, 1, -1, -1, -1};

  EXPECT_THAT(LinearCka(x, z, 4), DoubleNear(0, 1e-12));
  EXPECT_THAT(LinearCka(x, both, 4), DoubleNear(1 / std::sqrt(2.0), 1e-12));
}

TEST(LinearCkaTest, IsOneUpToRotationShiftAndScale) {
  const std::vector<float> x = Normal(2 * 50, 3);
  std::vector<float> y(x.size());
  for (int row = 0; row < 50; ++row) {  // By 60 degrees, times 3, plus 7.
    const float a = x[2 * row], b = x[2 * row + 1];
    y[2 * row] = 3 * (0.5f * a - 0.8660254f * b) + 7;
    y[2 * row + 1] = 3 * (0.8660254f * a + 0.5f * b) + 7;
  }

  EXPECT_THAT(LinearCka(x, y, 50), DoubleNear(1, 1e-5));
}

TEST(LinearCkaTest, IsSmallOfWhatIsIndependent) {
  // Of independent normal columns |y'x|^2 is about n dx dy and |x'x| about n
  // sqrt(dx) where n is far more than dx: sqrt(dx dy) / n = 0.004.
  EXPECT_LT(LinearCka(Normal(4 * 1000, 4), Normal(4 * 1000, 5), 1000), 0.02);
}

TEST(LinearCkaTest, IsZeroOfWhatDoesNotVary) {
  EXPECT_EQ(LinearCka({2, 2, 2}, {1, 2, 3}, 3), 0);
}

}  // namespace
}  // namespace strata
