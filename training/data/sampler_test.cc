#include "training/data/sampler.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Bytes 0, 1, 2, ... so that a byte says where it lies.
std::string Counting(int size) {
  std::string bytes(size, 0);
  for (int i = 0; i < size; ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}

Corpus ThreeDomains() {
  Corpus corpus;
  corpus.domains = {{"a", Counting(200), Counting(41)},
                    {"b", Counting(100), Counting(9)},
                    {"c", Counting(256), Counting(256)}};
  return corpus;
}

struct Batch {
  explicit Batch(int64_t num_tokens) : ids(num_tokens), targets(num_tokens) {}

  std::vector<int32_t> ids;
  std::vector<int32_t> targets;
};

Batch Fill(const Sampler& sampler, int64_t step, int64_t first,
           int64_t num_sequences) {
  Batch batch(num_sequences * sampler.config().seq_len);
  sampler.Fill(step, first, absl::MakeSpan(batch.ids),
               absl::MakeSpan(batch.targets));
  return batch;
}

TEST(SamplerTest, CopiesASequenceAndTheByteAfterEach) {
  const Corpus corpus = ThreeDomains();
  const auto sampler = Sampler::Create(&corpus, {1, 8, 6});
  ASSERT_THAT(sampler, IsOk());

  const Batch batch = Fill(*sampler, /*step=*/3, /*first=*/0, 6);

  for (int s = 0; s < 6; ++s) {
    const int32_t start = sampler->StartOf(3, s);
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(batch.ids[s * 8 + i], start + i);
      EXPECT_EQ(batch.targets[s * 8 + i], (start + i + 1) % 256);
    }
  }
}

TEST(SamplerTest, BytesFrom128OnAreNotNegative) {
  Corpus corpus;
  corpus.domains = {{"a", std::string(10, '\xFF'), std::string(10, '\x80')}};
  const auto sampler = Sampler::Create(&corpus, {1, 9, 1});
  const auto windows = ValidationWindows::Create(&corpus, 9, 9);
  ASSERT_THAT(sampler, IsOk());
  ASSERT_THAT(windows, IsOk());
  Batch batch(9);

  EXPECT_THAT(Fill(*sampler, 0, 0, 1).targets, Each(255));
  windows->Fill(0, 0, absl::MakeSpan(batch.ids), absl::MakeSpan(batch.targets));
  EXPECT_THAT(batch.ids, Each(128));
}

TEST(SamplerTest, AStepIsTheSameHoweverItIsCut) {
  const Corpus corpus = ThreeDomains();
  const auto sampler = Sampler::Create(&corpus, {7, 8, 12});
  ASSERT_THAT(sampler, IsOk());
  const Batch whole = Fill(*sampler, /*step=*/5, 0, 12);

  for (const int piece : {1, 2, 3, 4, 6}) {
    SCOPED_TRACE(absl::StrFormat("pieces of %d", piece));
    std::vector<int32_t> ids, targets;
    for (int first = 0; first < 12; first += piece) {
      const Batch part = Fill(*sampler, 5, first, piece);
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
      targets.insert(targets.end(), part.targets.begin(), part.targets.end());
    }
    EXPECT_EQ(ids, whole.ids);
    EXPECT_EQ(targets, whole.targets);
  }
}

TEST(SamplerTest, StepsAndSeedsDiffer) {
  const Corpus corpus = ThreeDomains();
  const auto one = Sampler::Create(&corpus, {1, 8, 12});
  const auto again = Sampler::Create(&corpus, {1, 8, 12});
  const auto two = Sampler::Create(&corpus, {2, 8, 12});
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(again, IsOk());
  ASSERT_THAT(two, IsOk());

  EXPECT_EQ(Fill(*one, 0, 0, 12).ids, Fill(*again, 0, 0, 12).ids);
  EXPECT_NE(Fill(*one, 0, 0, 12).ids, Fill(*one, 1, 0, 12).ids);
  EXPECT_NE(Fill(*one, 0, 0, 12).ids, Fill(*two, 0, 0, 12).ids);
}

// The order is part of what a checkpoint promises: a change of it would train
// on other bytes after a resume. Recorded from this sampler's first version.
TEST(SamplerTest, TheOrderNeverChanges) {
  const Corpus corpus = ThreeDomains();
  const auto sampler = Sampler::Create(&corpus, {42, 8, 4});
  ASSERT_THAT(sampler, IsOk());

  std::vector<int64_t> order;
  for (int s = 0; s < 4; ++s) {
    order.push_back(sampler->DomainOf(1000, s));
    order.push_back(sampler->StartOf(1000, s));
  }

  EXPECT_THAT(order, ElementsAre(2, 190, 0, 56, 0, 13, 1, 28));
}

TEST(SamplerTest, EveryDomainHasItsShareOfEveryRun) {
  const Corpus corpus = ThreeDomains();
  // 5 a step: runs of three go on from one step into the next.
  const auto sampler = Sampler::Create(&corpus, {9, 8, 5});
  ASSERT_THAT(sampler, IsOk());

  std::set<int> firsts;
  for (int run = 0; run < 100; ++run) {
    std::set<int> domains;
    for (int number = 3 * run; number < 3 * run + 3; ++number) {
      const int domain = sampler->DomainOf(number / 5, number % 5);
      if (number == 3 * run) firsts.insert(domain);
      domains.insert(domain);
    }
    EXPECT_EQ(domains.size(), 3);
  }
  EXPECT_EQ(firsts.size(), 3);  // No domain always comes first.
}

// Domain b has 100 - 8 = 92 starts. Each is drawn 100 times in 9200 draws, with
// a deviation of 10; chi-square over 91 degrees of freedom is 91 +- 13.5, and
// twice that far out is one run in ten thousand.
TEST(SamplerTest, StartsAreUniformAndReachBothEnds) {
  const Corpus corpus = ThreeDomains();
  const auto sampler = Sampler::Create(&corpus, {3, 8, 3});
  ASSERT_THAT(sampler, IsOk());

  std::vector<int> count(92);
  for (int step = 0; step < 9200; ++step) {
    for (int s = 0; s < 3; ++s) {
      if (sampler->DomainOf(step, s) == 1)
        ++count.at(sampler->StartOf(step, s));
    }
  }

  double chi_square = 0;
  for (const int n : count) chi_square += (n - 100.0) * (n - 100.0) / 100.0;
  EXPECT_GT(chi_square, 91 - 4 * 13.5);
  EXPECT_LT(chi_square, 91 + 4 * 13.5);
}

TEST(SamplerTest, RejectsWhatItCannotSample) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const Corpus corpus = ThreeDomains();

  EXPECT_THAT(Sampler::Create(&corpus, {1, 0, 4}),
              StatusIs(kInvalid, HasSubstr("seq_len is 0")));
  EXPECT_THAT(Sampler::Create(&corpus, {1, 8, 0}),
              StatusIs(kInvalid, HasSubstr("sequences_per_step is 0")));
  EXPECT_THAT(Sampler::Create(&corpus, {1, 9, 4}),
              StatusIs(kInvalid, HasSubstr("domain \"b\" is too small")));
  EXPECT_THAT(ValidationWindows::Create(&corpus, 9, 100),
              StatusIs(kInvalid, HasSubstr("domain \"b\" is too small")));
}

TEST(ValidationWindowsTest, CoverTheDomainWithoutOverlap) {
  const Corpus corpus = ThreeDomains();
  const auto windows = ValidationWindows::Create(&corpus, 8, 1000);
  ASSERT_THAT(windows, IsOk());

  // 41 bytes are 40 tokens with a target: 5 windows. 9 are one. 255 are 31.
  EXPECT_EQ(windows->num_windows(0), 5);
  EXPECT_EQ(windows->num_windows(1), 1);
  EXPECT_EQ(windows->num_windows(2), 31);
  Batch batch(40);
  EXPECT_EQ(windows->Fill(0, 0, absl::MakeSpan(batch.ids),
                          absl::MakeSpan(batch.targets)),
            5);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(batch.ids[i], i);
    EXPECT_EQ(batch.targets[i], i + 1);
  }
}

TEST(ValidationWindowsTest, ABudgetIsSpreadOverTheDomain) {
  const Corpus corpus = ThreeDomains();
  const auto windows = ValidationWindows::Create(&corpus, 8, 39);
  ASSERT_THAT(windows, IsOk());

  // 4 of 31 places: 0 * 31 / 4, 1 * 31 / 4, ... = 0, 7, 15, 23.
  EXPECT_EQ(windows->num_windows(2), 4);
  EXPECT_EQ(windows->num_windows(1), 1);
  EXPECT_EQ(windows->StartOf(2, 0), 0);
  EXPECT_EQ(windows->StartOf(2, 1), 7 * 8);
  EXPECT_EQ(windows->StartOf(2, 2), 15 * 8);
  EXPECT_EQ(windows->StartOf(2, 3), 23 * 8);
}

TEST(ValidationWindowsTest, RowsWithoutAWindowHaveNoTarget) {
  const Corpus corpus = ThreeDomains();
  const auto windows = ValidationWindows::Create(&corpus, 8, 1000);
  ASSERT_THAT(windows, IsOk());
  Batch batch(4 * 8);

  const int64_t num_filled =
      windows->Fill(/*domain=*/0, /*first_window=*/3, absl::MakeSpan(batch.ids),
                    absl::MakeSpan(batch.targets));

  EXPECT_EQ(num_filled, 2);
  EXPECT_EQ(batch.ids[0], 24);
  EXPECT_EQ(batch.targets[15], 40);
  EXPECT_THAT(absl::MakeSpan(batch.ids).subspan(16), Each(0));
  EXPECT_THAT(absl::MakeSpan(batch.targets).subspan(16), Each(-1));
  EXPECT_EQ(windows->Fill(0, 5, absl::MakeSpan(batch.ids),
                          absl::MakeSpan(batch.targets)),
            0);
}

}  // namespace
}  // namespace strata
