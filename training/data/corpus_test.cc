#include "training/data/corpus.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A folder of this test's own, empty.
std::string FreshFolder() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/corpus_", info->name());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

void WriteFile(const std::string& path, std::string_view text) {
  std::filesystem::create_directories(
      std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// `num_lines` lines that occur nowhere else.
std::string Lines(const std::string& name, int num_lines) {
  std::string text;
  for (int i = 0; i < num_lines; ++i) {
    absl::StrAppend(&text, "line ", i, " of ", name, "\n");
  }
  return text;
}

std::vector<std::string> Split(const std::string& text, char at) {
  return absl::StrSplit(text, at, absl::SkipEmpty());
}

TEST(MakeCorpusTest, EndsOfTheOnlyDocumentAreForValidation) {
  // 20 bytes, half of which are for validation; the cut moves on to the next
  // line's start, from 10 to 12.
  const absl::StatusOr<Corpus> corpus =
      MakeCorpus({{"one", {{"a", "aaa\nbbb\nccc\nddd\neee\n"}}}});

  ASSERT_THAT(corpus, IsOk());
  ASSERT_EQ(corpus->domains.size(), 1);
  EXPECT_EQ(corpus->domains[0].train, std::string("\0aaa\nbbb\nccc\n\0", 14));
  EXPECT_EQ(corpus->domains[0].validation, std::string("\0ddd\neee\n\0", 10));
  EXPECT_THAT(corpus->notes, IsEmpty());
}

TEST(MakeCorpusTest, ByteZeroIsTheBoundaryAndNothingElse) {
  const absl::StatusOr<Corpus> corpus = MakeCorpus(
      {{"one",
        {{"a", std::string("x\0y\0", 4)}, {"b", std::string(1, '\0')}}}});

  ASSERT_THAT(corpus, IsOk());
  EXPECT_EQ(corpus->domains[0].train, std::string("\0x\0", 3));
  EXPECT_EQ(corpus->domains[0].validation, std::string("\0y\0", 3));
}

TEST(MakeCorpusTest, ATenthIsForValidationAndNothingIsOnBothSides) {
  for (const int num_documents : {1, 2, 7, 300}) {
    SCOPED_TRACE(absl::StrFormat("%d documents", num_documents));
    std::vector<Document> documents;
    size_t num_bytes = 0;
    std::multiset<std::string> lines;
    for (int i = 0; i < num_documents; ++i) {
      const std::string path = absl::StrCat("file", i);
      documents.push_back({path, Lines(path, 9000 / num_documents + i % 13)});
      num_bytes += documents.back().text.size();
      for (std::string& line : Split(documents.back().text, '\n')) {
        lines.insert(std::move(line));
      }
    }

    const absl::StatusOr<Corpus> corpus = MakeCorpus({{"d", documents}});

    ASSERT_THAT(corpus, IsOk());
    const Domain& domain = corpus->domains[0];
    EXPECT_NEAR(domain.validation.size(), num_bytes / 10.0,
                num_documents / 10 + 40);
    std::multiset<std::string> found;
    for (const std::string* side : {&domain.train, &domain.validation}) {
      EXPECT_EQ(side->front(), '\0');
      EXPECT_EQ(side->back(), '\0');
      for (const std::string& document : Split(*side, '\0')) {
        for (std::string& line : Split(document, '\n')) {
          found.insert(std::move(line));
        }
      }
    }
    EXPECT_EQ(found, lines);  // Each line once, whole.
  }
}

TEST(MakeCorpusTest, AnAddedDocumentMovesFewOthers) {
  std::vector<Document> documents;
  for (int i = 0; i < 200; ++i) {
    const std::string path = absl::StrCat("file", i);
    documents.push_back({path, Lines(path, 40)});
  }

  const absl::StatusOr<Corpus> before = MakeCorpus({{"d", documents}});
  documents.push_back({"more", Lines("more", 40)});
  const absl::StatusOr<Corpus> after = MakeCorpus({{"d", documents}});

  ASSERT_THAT(before, IsOk());
  ASSERT_THAT(after, IsOk());
  const std::vector<std::string> was = Split(before->domains[0].validation, 0);
  const std::vector<std::string> is = Split(after->domains[0].validation, 0);
  const std::set<std::string> known(was.begin(), was.end());
  int num_moved = 0;
  for (const std::string& document : is)
    num_moved += known.count(document) == 0;
  EXPECT_GT(was.size(), 15);
  EXPECT_LE(num_moved, 2);
}

TEST(MakeCorpusTest, CopiesAreLeftOutAndSaidOnce) {
  const std::string text = Lines("x", 3000);
  const absl::StatusOr<Corpus> corpus =
      MakeCorpus({{"a", {{"1", text}, {"2", text}}},
                  {"b", {{"1", text}, {"2", "another text"}}}});

  ASSERT_THAT(corpus, IsOk());
  EXPECT_EQ(
      corpus->domains[0].train.size() + corpus->domains[0].validation.size(),
      text.size() + 4);
  EXPECT_THAT(corpus->notes,
              ElementsAre(HasSubstr("2 files were left out that repeat")));
}

TEST(MakeCorpusTest, TheHashIsOfNamesBytesAndSides) {
  const auto hash = [](const std::string& name, const std::string& text) {
    return MakeCorpus({{name, {{"a", text}}}})->sha256;
  };

  EXPECT_EQ(hash("d", "some text").size(), 64);
  EXPECT_EQ(hash("d", "some text"), hash("d", "some text"));
  EXPECT_NE(hash("d", "some text"), hash("e", "some text"));
  EXPECT_NE(hash("d", "some text"), hash("d", "some texu"));
}

TEST(LoadFolderCorpusTest, SubfoldersAreDomainsAndFilesDocuments) {
  const std::string folder = FreshFolder();
  WriteFile(folder + "/b/2.txt", "second of b ");
  WriteFile(folder + "/b/1/deep/1.txt", "first of b ");
  WriteFile(folder + "/b/.hidden", "not this");
  WriteFile(folder + "/b/.git/config", "nor this");
  WriteFile(folder + "/a/x", "all of a");
  WriteFile(folder + "/.cache/x", "nor that");

  const absl::StatusOr<Corpus> corpus = LoadFolderCorpus(folder);

  ASSERT_THAT(corpus, IsOk());
  EXPECT_THAT(corpus->domains, ElementsAre(Field(&Domain::name, "a"),
                                           Field(&Domain::name, "b")));
  const std::string b =
      corpus->domains[1].train + corpus->domains[1].validation;
  EXPECT_EQ(b.find("this"), std::string::npos);
  EXPECT_THAT(corpus->sources, ElementsAre("folder " + folder));
  EXPECT_THAT(corpus->notes, IsEmpty());
}

TEST(LoadFolderCorpusTest, IsTheSameWhereverTheFolderLies) {
  const std::string folder = FreshFolder();
  for (const char* copy : {"/one", "/two"}) {
    for (int i = 0; i < 30; ++i) {
      const std::string name = absl::StrCat("file", i);
      WriteFile(absl::StrCat(folder, copy, "/d/", name), Lines(name, 50));
    }
  }

  const absl::StatusOr<Corpus> one = LoadFolderCorpus(folder + "/one");
  const absl::StatusOr<Corpus> two = LoadFolderCorpus(folder + "/two/");

  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(two, IsOk());
  EXPECT_EQ(one->sha256, two->sha256);
}

TEST(LoadFolderCorpusTest, WhatIsNotUtf8IsUsedAsBytesAndSaidOnce) {
  const std::string folder = FreshFolder();
  WriteFile(folder + "/a/1", "caf\xC3\xA9");
  WriteFile(folder + "/a/2", "caf\xE9 and\xE9");
  WriteFile(folder + "/b/3", "\xFF\xFE more");
  WriteFile(folder + "/stray.txt", "x");

  const absl::StatusOr<Corpus> corpus = LoadFolderCorpus(folder);

  ASSERT_THAT(corpus, IsOk());
  const std::string a =
      corpus->domains[0].train + corpus->domains[0].validation;
  EXPECT_THAT(a, HasSubstr("\xE9"));
  EXPECT_THAT(
      corpus->notes,
      ElementsAre(
          AllOf(HasSubstr("2 files are not UTF-8"), HasSubstr("\"a/2\"")),
          AllOf(HasSubstr("1 file is in"), HasSubstr("\"stray.txt\""))));
}

TEST(LoadFolderCorpusTest, NamesWhatIsWrongWithAFolder) {
  const std::string folder = FreshFolder();

  EXPECT_THAT(LoadFolderCorpus(folder + "/none"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("/none\""), HasSubstr("not exist"))));
  EXPECT_THAT(LoadFolderCorpus(folder),
              StatusIs(kInvalid, HasSubstr("is empty; want a subfolder")));

  WriteFile(folder + "/file.txt", "text");
  EXPECT_THAT(LoadFolderCorpus(folder),
              StatusIs(kInvalid, HasSubstr("has files but no subfolder")));
  EXPECT_THAT(LoadFolderCorpus(folder + "/file.txt"),
              StatusIs(kInvalid, HasSubstr("is not a folder")));

  WriteFile(folder + "/full/1", "text");
  WriteFile(folder + "/void/1", "");
  EXPECT_THAT(LoadFolderCorpus(folder),
              StatusIs(kInvalid, HasSubstr("domain \"void\" has no text")));
}

TEST(LoadFolderCorpusTest, NamesAFileThatCannotBeRead) {
  const std::string folder = FreshFolder();
  WriteFile(folder + "/a/good", "text");
  // A regular file whose first byte no process can read, be it root's.
  std::filesystem::create_symlink("/proc/self/mem", folder + "/a/bad");

  const absl::StatusOr<Corpus> corpus = LoadFolderCorpus(folder);

  EXPECT_FALSE(corpus.ok());
  EXPECT_THAT(std::string(corpus.status().message()), HasSubstr("a/bad"));
}

TEST(CheckLongEnoughTest, WantsASequenceAndTheTokenAfterIt) {
  Corpus corpus;
  corpus.domains = {{"big", std::string(500, 'x'), std::string(450, 'x')},
                    {"small", std::string(300, 'x'), std::string(100, 'x')}};

  EXPECT_THAT(CheckLongEnough(corpus, 99), IsOk());
  EXPECT_THAT(CheckLongEnough(corpus, 100),
              StatusIs(kInvalid,
                       AllOf(HasSubstr("\"small\""),
                             HasSubstr("100 bytes for validation"),
                             HasSubstr("sequences of 100 want at least 101"))));
  EXPECT_THAT(CheckLongEnough(corpus, 400),
              StatusIs(kInvalid, HasSubstr("300 bytes for training")));
}

TEST(NumValidationBytesTest, IsATenthButAFewKilobytesOfASmallDomain) {
  EXPECT_EQ(NumValidationBytes(1000000), 100000);
  EXPECT_EQ(NumValidationBytes(40960), 4096);
  EXPECT_EQ(NumValidationBytes(10000), 4096);
  EXPECT_EQ(NumValidationBytes(8191), 4095);
  EXPECT_EQ(NumValidationBytes(1), 0);
}

TEST(IsUtf8Test, KnowsEachFormAndItsEdges) {
  for (const char* good :
       {"", "a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsUtf8(good));
  }
  for (const char* bad :
       {"\x80", "\xC1\xBF", "\xC2",
        "\xC2"
        "a",
        "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "a\xFF"}) {
    EXPECT_FALSE(IsUtf8(bad)) << absl::CHexEscape(bad);
  }
}

}  // namespace
}  // namespace strata
