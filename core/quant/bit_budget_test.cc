#include "core/quant/bit_budget.h"

#include <algorithm>
#include <cstdint>
#include <string>
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

std::string Wide(const std::vector<BitChoice>& choices) {
  std::string names;
  for (const BitChoice& choice : choices) {
    if (choice.wide) names += choice.name;
  }
  return names;
}

TEST(SpendBytesTest, TakesWhatGainsMostAByteAndPassesOverWhatIsTooDear) {
  // Gains a byte: 0.3, 0.5, 0.2, 0.1.
  const std::vector<BitChoice> all = {
      {"a", 3, 10}, {"b", 10, 20}, {"c", 6, 30}, {"d", 0.5, 5}};
  const std::vector<std::string> want = {"", "d", "a", "ad", "b", "bd", "ab"};
  for (int64_t spare = 0; spare <= 30; spare += 5) {
    std::vector<BitChoice> choices = all;
    ASSERT_THAT(SpendBytes(100 + spare, 100, choices), IsOk());
    EXPECT_EQ(Wide(choices), want[spare / 5]) << spare;
  }
  std::vector<BitChoice> choices = all;
  ASSERT_THAT(SpendBytes(165, 100, choices), IsOk());
  EXPECT_EQ(Wide(choices), "abcd");
}

TEST(SpendBytesTest, IsWithinOneChoiceOfTheBestThereIs) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed, /*stream=*/0);
    std::vector<BitChoice> choices(10);
    double largest = 0;
    for (BitChoice& choice : choices) {
      choice.gain = random.Uniform();
      choice.extra_bytes = 1 + static_cast<int64_t>(random.UniformInt(20));
      largest = std::max(largest, choice.gain);
    }
    const int64_t spare = 50;
    ASSERT_THAT(SpendBytes(spare, 0, choices), IsOk());
    double gain = 0;
    int64_t bytes = 0;
    for (const BitChoice& choice : choices) {
      gain += choice.wide ? choice.gain : 0;
      bytes += choice.wide ? choice.extra_bytes : 0;
    }
    EXPECT_LE(bytes, spare);
    double best = 0;
    for (int set = 0; set < 1 << 10; ++set) {
      double of_set = 0;
      int64_t price = 0;
      for (int i = 0; i < 10; ++i) {
        if ((set >> i & 1) == 0) continue;
        of_set += choices[i].gain;
        price += choices[i].extra_bytes;
      }
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
