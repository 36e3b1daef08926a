#include "training/demo/demo.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

Domain DomainWith(const std::string& validation) {
  return {"prose", std::string(1, '\0'), validation};
}

TEST(PromptOfTest, TakesWholeLinesAndWordsFromTheMiddle) {
  std::string text(1, '\0');
  for (int i = 0; i < 100; ++i) text += "first second third fourth\n";
  text += '\0';

  const std::string prompt = PromptOf(DomainWith(text), 40);

  EXPECT_THAT(prompt, StartsWith("first second third fourth\nfirst"));
  EXPECT_THAT(prompt, EndsWith("first second"));
  EXPECT_EQ(prompt, PromptOf(DomainWith(text), 40));
}

TEST(PromptOfTest, NeverHoldsTheEndOfAText) {
  for (size_t length = 1; length < 60; ++length) {
    std::string text(1, '\0');
    for (const char c : {'a', 'b', 'c', 'd'}) {
      text += std::string(length, c);
      text += '\0';
    }
    for (const size_t max_bytes : {1, 7, 50}) {
      const std::string prompt = PromptOf(DomainWith(text), max_bytes);
      ASSERT_FALSE(prompt.empty()) << length;
      EXPECT_LE(prompt.size(), max_bytes);
      EXPECT_EQ(prompt.find('\0'), std::string::npos) << length;
    }
  }
}

TEST(PromptOfTest, IsTheBoundaryWhereThereIsNoText) {
  EXPECT_EQ(PromptOf(DomainWith(std::string(3, '\0')), 10),
            std::string(1, '\0'));
}

}  // namespace
}  // namespace strata
