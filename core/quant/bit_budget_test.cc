#include "core/quant/bit_budget.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Names of what went up, once for each step.
std::string Taken(const std::vector<BitChoice>& choices) {
  std::string names;
  for (const BitChoice& choice : choices) {
    for (int64_t i = 0; i < choice.num_taken; ++i) names += choice.name;
  }
  return names;
}

std::string Taken(int64_t spare, std::vector<BitChoice> choices) {
  EXPECT_THAT(SpendBytes(100 + spare, 100, choices), IsOk());
  return Taken(choices);
}

TEST(SpendBytesTest, TakesWhatGainsMostAByteAndPassesOverWhatIsTooDear) {
  // Gains a byte: 0.3, 0.5, 0.2, 0.1.
  const std::vector<BitChoice> all = {{"a", {{8, 3, 10}}},
                                      {"b", {{8, 10, 20}}},
                                      {"c", {{8, 6, 30}}},
                                      {"d", {{8, 0.5, 5}}}};
  const std::vector<std::string> want = {"", "d", "a", "ad", "b", "bd", "ab"};
  for (int64_t spare = 0; spare <= 30; spare += 5) {
    EXPECT_EQ(Taken(spare, all), want[spare / 5]) << spare;
  }
  EXPECT_EQ(Taken(65, all), "abcd");
}

TEST(SpendBytesTest, GoesUpStepByStep) {
  // Gains a byte: 0.9 and 0.2; 0.5 and 0.4.
  const std::vector<BitChoice> all = {{"a", {{4, 9, 10}, {8, 4, 20}}},
                                      {"b", {{4, 5, 10}, {8, 8, 20}}}};
  const std::vector<std::string> want = {"", "a", "ab", "ab", "abb", "abb"};
  for (int64_t spare = 0; spare <= 50; spare += 10) {
    EXPECT_EQ(Taken(spare, all), want[spare / 10]) << spare;
  }
  EXPECT_EQ(Taken(60, all), "aabb");
}

TEST(SpendBytesTest, TakesStepsTogetherWhereTheLaterGainsMore) {
  // a by itself gains 0.1 and then 0.6 a byte, in all 13 / 30 = 0.43: more than
  // b's 0.4.
  const std::vector<BitChoice> all = {{"a", {{4, 1, 10}, {8, 12, 20}}},
                                      {"b", {{4, 4, 10}}}};
  EXPECT_EQ(Taken(10, all), "b");
  EXPECT_EQ(Taken(20, all), "b");
  EXPECT_EQ(Taken(30, all), "aa");
  EXPECT_EQ(Taken(40, all), "aab");
}

TEST(SpendBytesTest, IsWithinOneChoiceOfTheBestThereIs) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed, /*stream=*/0);
    std::vector<BitChoice> choices(8);
    double largest = 0;
    for (BitChoice& choice : choices) {
      double all = 0;
      for (const int bits : {4, 8}) {
        choice.steps.push_back(
            {bits, random.Uniform(),
             1 + static_cast<int64_t>(random.UniformInt(20))});
        all += choice.steps.back().gain;
      }
      largest = std::max(largest, all);
    }
    // The gain and the price of taking so many steps of each.
    const auto sums = [&](const std::vector<int64_t>& taken) {
      std::pair<double, int64_t> sum = {0, 0};
      for (size_t i = 0; i < choices.size(); ++i) {
        for (int64_t s = 0; s < taken[i]; ++s) {
          sum.first += choices[i].steps[s].gain;
          sum.second += choices[i].steps[s].extra_bytes;
        }
      }
      return sum;
    };
    const int64_t spare = 50;
    ASSERT_THAT(SpendBytes(spare, 0, choices), IsOk());
    std::vector<int64_t> taken;
    for (const BitChoice& choice : choices) taken.push_back(choice.num_taken);
    const auto [gain, bytes] = sums(taken);
    EXPECT_LE(bytes, spare);
    double best = 0;
    for (int set = 0; set < 6561; ++set) {  // 3^8
      for (int i = 0, rest = set; i < 8; ++i, rest /= 3) taken[i] = rest % 3;
      const auto [of_set, price] = sums(taken);
      if (price <= spare) best = std::max(best, of_set);
    }
    EXPECT_GE(gain, best - largest);
  }
}

TEST(SpendBytesTest, SaysTheSmallestPossible) {
  std::vector<BitChoice> choices;
  EXPECT_THAT(SpendBytes(99, 100, choices),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("99"), HasSubstr("possible is 100"))));
}

}  // namespace
}  // namespace strata
