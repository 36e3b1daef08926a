#include "core/base/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A fresh folder for a test.
class FilesTest : public testing::Test {
 protected:
  FilesTest()
      : folder_(absl::StrCat(
            testing::TempDir(), "/files_",
            testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) { return folder_ + "/" + name; }

  const std::string folder_;
};

TEST_F(FilesTest, ReadsBackWhatWasWritten) {
  // Both sides of the first read of 4096 bytes, and binary bytes.
  for (const size_t size : {0, 1, 4095, 4096, 4097, 100000}) {
    std::string contents(size, '\0');
    for (size_t i = 0; i < size; ++i) contents[i] = static_cast<char>(i * 7);

    ASSERT_THAT(WriteFileAtomically(Path("f"), contents), IsOk());

    const auto got = ReadFile(Path("f"));
    ASSERT_THAT(got, IsOk());
    EXPECT_TRUE(*got == contents) << size;
  }
  EXPECT_THAT(*ListFiles(folder_), ElementsAre("f"));  // No temporary file.
}

TEST_F(FilesTest, ReadsFilesThatDoNotSayTheirSize) {
  const auto status = ReadFile("/proc/self/status");
  ASSERT_THAT(status, IsOk());
  EXPECT_THAT(*status, HasSubstr("Name:"));
}

TEST_F(FilesTest, NamesThePathAndTheCause) {
  EXPECT_THAT(ReadFile(Path("none")),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("cannot open "), HasSubstr("none"),
                             HasSubstr("No such file or directory"))));
  EXPECT_THAT(ReadFile(folder_).status().message(),
              AllOf(HasSubstr("cannot read "), HasSubstr("Is a directory")));
  EXPECT_THAT(WriteFileAtomically(Path("none/f"), "x"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("cannot create "), HasSubstr("none"))));
  EXPECT_THAT(ListFiles(Path("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(FilesTest, KeepsTheOldFileIfTheNewOneCannotReplaceIt) {
  fs::create_directories(Path("f/inside"));

  EXPECT_THAT(WriteFileAtomically(Path("f"), "new"),
              Not(IsOk()));  // A folder is in the way.

  EXPECT_TRUE(fs::is_directory(Path("f/inside")));
  EXPECT_THAT(*ListFiles(folder_), IsEmpty());
}

TEST_F(FilesTest, KeepsTheOldFileIfTheNewOneCannotBeWritten) {
  ASSERT_THAT(WriteFileAtomically(Path("f"), "old"), IsOk());

  EXPECT_THAT(WriteFileAtomically(Path("f"),
                                  [](OutputFile& file) {
                                    EXPECT_THAT(file.Append("n"), IsOk());
                                    return absl::DataLossError("no more");
                                  }),
              StatusIs(absl::StatusCode::kDataLoss, "no more"));

  EXPECT_EQ(*ReadFile(Path("f")), "old");
  EXPECT_THAT(*ListFiles(folder_), ElementsAre("f"));
}

TEST_F(FilesTest, SaysThatTheDiskIsFull) {
  auto file = OutputFile::Create("/dev/full");
  ASSERT_THAT(file, IsOk());

  EXPECT_THAT(file->Append(std::string(1234, 'x')),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("/dev/full"), HasSubstr("disk full"),
                             HasSubstr("1234 more bytes wanted"))));
  EXPECT_THAT(FileError(ENOSPC, "make the folder", "x"),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "cannot make the folder x: disk full"));
}

TEST_F(FilesTest, AppendsInOrder) {
  auto file = OutputFile::Create(Path("f"));
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->Append("one "), IsOk());
  ASSERT_THAT(file->Append(""), IsOk());
  ASSERT_THAT(file->Append("two"), IsOk());
  EXPECT_EQ(file->num_bytes(), 7);
  ASSERT_THAT(file->Close(), IsOk());

  EXPECT_EQ(*ReadFile(Path("f")), "one two");
}

TEST_F(FilesTest, MakesANewFileOnlyWhereThereIsNone) {
  auto file = OutputFile::CreateNew(Path("f"));
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->Append("old"), IsOk());
  ASSERT_THAT(file->Close(), IsOk());

  EXPECT_THAT(OutputFile::CreateNew(Path("f")).status(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(Path("f"))));

  EXPECT_EQ(*ReadFile(Path("f")), "old");
}

TEST_F(FilesTest, MakesFoldersOnce) {
  EXPECT_THAT(MakeFolders(Path("a/b/c")), IsOk());
  EXPECT_THAT(MakeFolders(Path("a/b/c")), IsOk());
  EXPECT_TRUE(fs::is_directory(Path("a/b/c")));

  ASSERT_THAT(WriteFileAtomically(Path("f"), ""), IsOk());
  EXPECT_THAT(MakeFolders(Path("f/g")).message(), HasSubstr("Not a directory"));
  EXPECT_THAT(MakeFolders(Path("f")).message(), HasSubstr("Not a directory"));
}

TEST_F(FilesTest, ListsRegularFilesSortedByBytes) {
  for (const std::string name : {"b/2", "b/10", "a", "B", "b.txt", "c/d/e"}) {
    ASSERT_THAT(MakeFolders(fs::path(Path(name)).parent_path()), IsOk());
    ASSERT_THAT(WriteFileAtomically(Path(name), name), IsOk());
  }
  fs::create_directories(Path("empty"));
  fs::create_symlink("a", Path("link"));
  fs::create_symlink("nowhere", Path("dangling"));
  fs::create_directory_symlink("..", Path("c/up"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);

  EXPECT_THAT(*ListFiles(folder_),
              ElementsAre("B", "a", "b.txt", "b/10", "b/2", "c/d/e", "link"));
  EXPECT_THAT(*ListFiles(folder_ + "/"),
              ElementsAre("B", "a", "b.txt", "b/10", "b/2", "c/d/e", "link"));
}

}  // namespace
}  // namespace strata
