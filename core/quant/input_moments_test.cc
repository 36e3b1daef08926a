#include "core/quant/input_moments.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/quant/calibrate.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

std::vector<float> Normal(int64_t n, uint64_t seed) {
  Random random(seed, /*stream=*/0);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.Normal());
  return x;
}

// Adds x^T x of rows [first, end) in double.
void AddProducts(const std::vector<float>& x, int64_t columns, int64_t first,
                 int64_t end, std::vector<double>& sum) {
  sum.resize(columns * columns);
  for (int64_t r = first; r < end; ++r) {
    const float* const row = x.data() + r * columns;
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        sum[i * columns + j] += double{row[i]} * row[j];
      }
    }
  }
}

// Terms are below 16, so sums of n of them are off by 16 n n / 2^24 at most.
void ExpectNear(const InputMoments& moments, int64_t count,
                const std::vector<double>& want) {
  EXPECT_EQ(moments.count, count);
  ASSERT_EQ(moments.sum.size(), want.size());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(moments.sum[i] - want[i]));
  }
  EXPECT_LE(worst, 1e-6 * static_cast<double>(count * count));
}

class MomentsOfTest : public ::testing::TestWithParam<int64_t> {
 protected:
  const int64_t columns_ = GetParam();
};

// Experts of 3, 0 and 17 rows, twice; the same on any number of threads.
TEST_P(MomentsOfTest, SumsEachExpertsRows) {
  const std::vector<float> x = Normal(20 * columns_, 1);
  const std::vector<int32_t> offset = {0, 3, 3, 20};
  const auto run = [&](SeeInputs see) {
    const std::vector<std::string> weights = {"gate", "up"};
    for (int i = 0; i < 2; ++i) {
      if (const absl::Status s = see(weights, columns_, x, offset); !s.ok()) {
        return s;
      }
    }
    return absl::OkStatus();
  };
  ThreadPool one(1), three(3);

  const auto alone = MomentsOf(run, one);
  const auto shared = MomentsOf(run, three);

  ASSERT_THAT(alone, IsOk());
  ASSERT_THAT(shared, IsOk());
  for (const char* name : {"gate", "up"}) {
    const std::vector<InputMoments>& of_name = shared->at(name);
    ASSERT_EQ(of_name.size(), 3);
    for (size_t e = 0; e < 3; ++e) {
      std::vector<double> want;
      for (int i = 0; i < 2; ++i) {
        AddProducts(x, columns_, offset[e], offset[e + 1], want);
      }
      ExpectNear(of_name[e], 2 * (offset[e + 1] - offset[e]), want);
      EXPECT_EQ(of_name[e].sum, alone->at(name)[e].sum);
    }
  }
}

// A matrix that multiplies what another does, and something else.
TEST_P(MomentsOfTest, SumsAllProductsByAMatrix) {
  const std::vector<float> x = Normal(5 * columns_, 2);
  const std::vector<float> y = Normal(4 * columns_, 3);
  ThreadPool pool(2);

  const auto moments = MomentsOf(
      [&](SeeInputs see) {
        const absl::Status first = see({"a", "b"}, columns_, x, {});
        return first.ok() ? see({"b"}, columns_, y, {}) : first;
      },
      pool);

  ASSERT_THAT(moments, IsOk());
  std::vector<double> want;
  AddProducts(x, columns_, 0, 5, want);
  ExpectNear(moments->at("a")[0], 5, want);
  AddProducts(y, columns_, 0, 4, want);
  ExpectNear(moments->at("b")[0], 9, want);
}

// About a part of 256 columns.
INSTANTIATE_TEST_SUITE_P(Columns, MomentsOfTest,
                         ::testing::Values(1, 255, 256, 257, 600));

TEST(MomentsTest, AnErrorOfARunIsThatOfTheMoments) {
  ThreadPool pool(1);
  EXPECT_THAT(
      MomentsOf([](SeeInputs) { return absl::DataLossError("gone"); }, pool)
          .status(),
      StatusIs(absl::StatusCode::kDataLoss, "gone"));
}

}  // namespace
}  // namespace strata
