// Reads the packages that the set-up installs.

#include "training/data/demo_corpus.h"

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

const Corpus& Demo() {
  static const absl::StatusOr<Corpus>* corpus =
      new absl::StatusOr<Corpus>(LoadDemoCorpus());
  if (!corpus->ok()) {
    ADD_FAILURE() << corpus->status();
    static const Corpus* none = new Corpus;
    return *none;
  }
  return **corpus;
}

TEST(DemoCorpusTest, HasFourDomainsOfAboutASize) {
  EXPECT_THAT(Demo().domains, ElementsAre(Field(&Domain::name, "prose"),
                                          Field(&Domain::name, "code"),
                                          Field(&Domain::name, "legal"),
                                          Field(&Domain::name, "technical")));
  for (const Domain& domain : Demo().domains) {
    SCOPED_TRACE(domain.name);
    const size_t num_bytes = domain.train.size() + domain.validation.size();
    EXPECT_GE(num_bytes, 800'000);
    EXPECT_LE(num_bytes, kMaxDemoDomainBytes + 1000);  // With the boundaries.
    EXPECT_NEAR(domain.validation.size(), num_bytes / 10.0, 1000);
  }
  EXPECT_THAT(Demo().notes, IsEmpty());
}

TEST(DemoCorpusTest, EachDomainHoldsItsKindOfText) {
  ASSERT_EQ(Demo().domains.size(), 4);
  const Corpus& corpus = Demo();

  EXPECT_THAT(corpus.domains[0].train,
              AllOf(HasSubstr("Sherlock Holmes"), HasSubstr("Refractions"),
                    HasSubstr("Shakespeare")));
  EXPECT_THAT(corpus.domains[0].train, Not(HasSubstr("PROJECT GUTENBERG")));
  EXPECT_THAT(corpus.domains[1].train,
              AllOf(HasSubstr("template <"), HasSubstr("namespace absl {")));
  EXPECT_THAT(corpus.domains[2].train,
              AllOf(HasSubstr("License"), HasSubstr("WITHOUT")));
  EXPECT_THAT(corpus.domains[2].train, Not(HasSubstr("__LICENSE__")));
  EXPECT_THAT(corpus.domains[3].train, HasSubstr("=head1"));
}

TEST(DemoCorpusTest, NamesThePackagesWithVersions) {
  EXPECT_THAT(Demo().sources, Contains(StartsWith("package perl-doc 5.36")));
  EXPECT_THAT(Demo().sources, Contains(StartsWith("package base-files 12")));
  for (const std::string& source : Demo().sources) {
    EXPECT_THAT(source, Not(HasSubstr("unknown version")));
  }
}

TEST(DemoCorpusTest, IsTheSameEachTime) {
  const absl::StatusOr<Corpus> again = LoadDemoCorpus();

  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->sha256, Demo().sha256);
}

// What validation shares with training is what people write again and again:
// the rows of a table, a declaration, a phrase of law.
TEST(DemoCorpusTest, HardlyALongLineIsOnBothSides) {
  for (const Domain& domain : Demo().domains) {
    std::set<absl::string_view> seen;
    for (absl::string_view line : absl::StrSplit(domain.train, '\n')) {
      seen.insert(line);
    }
    int num_long = 0;
    int num_seen = 0;
    for (absl::string_view line : absl::StrSplit(domain.validation, '\n')) {
      if (line.size() < 60) continue;
      ++num_long;
      num_seen += seen.count(line);
    }
    EXPECT_LT(num_seen, 0.04 * num_long)
        << domain.name << ": " << num_seen << " of " << num_long;
  }
}

TEST(DemoCorpusTest, NamesTheFileAndThePackageThatAreMissing) {
  EXPECT_THAT(LoadDemoCorpus(::testing::TempDir()),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("pg1661.txt\" is missing; install"),
                             HasSubstr("golang-github-pierrec-lz4-dev"))));
}

}  // namespace
}  // namespace strata
