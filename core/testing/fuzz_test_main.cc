// The same damage in every run: what a fuzz target is as a test.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/testing/fuzz_target.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int kDamagedInputs = 4000;

void Feed(const std::string& input) {
  // A block of exactly that size shows reads beyond it to a sanitizer.
  const auto block = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), block.get());
  ASSERT_EQ(LLVMFuzzerTestOneInput(block.get(), input.size()), 0);
}

// One change: a bit, a byte, a cut, a word put in or over, a piece of another.
void Damage(Random& random, const std::string& other, std::string& input) {
  static const auto* const kWords =
      new std::vector<std::string>{"0",
                                   "-1",
                                   "1",
                                   "9223372036854775807",
                                   "18446744073709551615",
                                   "1e9",
                                   "[",
                                   "]",
                                   "{",
                                   "}",
                                   ",",
                                   ":",
                                   "\"",
                                   "null",
                                   "true",
                                   "{%",
                                   "%}",
                                   "{{",
                                   "}}",
                                   std::string(8, '\0'),
                                   "\xff\xff\xff\xff",
                                   std::string(7, '\xff') + "\x7f"};
  if (input.empty()) input = other;
  if (input.empty()) return;
  const size_t at = random.UniformInt(input.size());
  const std::string& word = (*kWords)[random.UniformInt(kWords->size())];
  switch (random.UniformInt(7)) {
    case 0:
      input[at] ^= static_cast<char>(1 << random.UniformInt(8));
      return;
    case 1:
      input[at] = static_cast<char>(random.Bits());
      return;
    case 2:
      input.erase(at, 1 + random.UniformInt(16));
      return;
    case 3:
      input.insert(at, word);
      return;
    case 4:
      input.replace(at, std::min(word.size(), input.size() - at), word);
      return;
    case 5:
      input.resize(at);
      return;
    case 6: {
      if (other.empty()) return;
      const size_t from = random.UniformInt(other.size());
      input.insert(at, other, from, 1 + random.UniformInt(40));
      return;
    }
  }
}

TEST(FuzzTest, TakesWholeInputsAndNone) {
  Feed("");
  for (const std::string& seed : FuzzSeeds()) Feed(seed);
}

TEST(FuzzTest, SurvivesDamagedInputs) {
  const std::vector<std::string> seeds = FuzzSeeds();
  ASSERT_FALSE(seeds.empty());
  Random random(/*seed=*/1, /*stream=*/0);
  for (int i = 0; i < kDamagedInputs; ++i) {
    std::string input = seeds[random.UniformInt(seeds.size())];
    const uint64_t num_changes = 1 + random.UniformInt(4);
    for (uint64_t change = 0; change < num_changes; ++change) {
      Damage(random, seeds[random.UniformInt(seeds.size())], input);
    }
    Feed(input);
  }
}

}  // namespace
}  // namespace strata
