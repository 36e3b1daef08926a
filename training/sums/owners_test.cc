#include "training/sums/owners.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(OwnersTest, TheLargestGoFirstToWhoHasTheFewest) {
  // Sorted: d 9, a 5, b 5, c 2. Rank 0: d; rank 1: a, then b, as 5 < 9; rank 0:
  // c, as 9 < 10.
  const std::vector<Owners::Parameter> parameters = {
      {"a", 5}, {"b", 5}, {"c", 2}, {"d", 9}};
  const Owners owners(parameters, /*num_ranks=*/2, /*rank=*/1);

  EXPECT_EQ(owners.Of("d"), 0);
  EXPECT_EQ(owners.Of("a"), 1);
  EXPECT_EQ(owners.Of("b"), 1);
  EXPECT_EQ(owners.Of("c"), 0);
  EXPECT_TRUE(owners.IsMine("a"));
  EXPECT_FALSE(owners.IsMine("d"));
  EXPECT_FALSE(owners.IsMine("e"));
  EXPECT_FALSE(owners.Has("e"));
}

// Ranks that list the same parameters otherwise agree all the same.
TEST(OwnersTest, DoesNotDependOnTheOrderInWhichTheyAreGiven) {
  std::vector<Owners::Parameter> parameters;
  for (int i = 0; i < 20; ++i) {
    parameters.push_back({"p" + std::to_string(i), i % 4});
  }
  const Owners forwards(parameters, 3, 0);
  const Owners backwards({parameters.rbegin(), parameters.rend()}, 3, 0);
  for (const Owners::Parameter& parameter : parameters) {
    EXPECT_EQ(forwards.Of(parameter.name), backwards.Of(parameter.name));
  }
}

TEST(OwnersTest, OneRankHasAll) {
  const Owners owners({{"a", 1}, {"b", 1}}, /*num_ranks=*/1, /*rank=*/3);
  EXPECT_TRUE(owners.IsMine("a"));
  EXPECT_TRUE(owners.IsMine("b"));
}

}  // namespace
}  // namespace strata
