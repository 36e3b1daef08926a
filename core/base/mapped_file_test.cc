#include "core/base/mapped_file.h"

#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(MappedFileTest, ShowsTheBytesOfTheFile) {
  const std::string path = testing::TempDir() + "/mapped_file";
  for (const size_t size : {0, 1, 4096, 4097}) {
    const std::string contents(size, 'x');
    ASSERT_THAT(WriteFileAtomically(path, contents), IsOk());

    const auto file = MappedFile::Open(path);

    ASSERT_THAT(file, IsOk());
    EXPECT_EQ(file->num_bytes(), size);
    EXPECT_TRUE(file->bytes() == contents);
  }
}

TEST(MappedFileTest, StaysWholeWhenTheFileIsReplaced) {
  const std::string path = testing::TempDir() + "/mapped_file";
  ASSERT_THAT(WriteFileAtomically(path, "old"), IsOk());
  auto file = MappedFile::Open(path);
  ASSERT_THAT(file, IsOk());

  ASSERT_THAT(WriteFileAtomically(path, "n"), IsOk());
  const MappedFile moved = std::move(*file);

  EXPECT_EQ(moved.bytes(), "old");
}

TEST(MappedFileTest, RefusesWhatIsNoFile) {
  EXPECT_THAT(MappedFile::Open(testing::TempDir() + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_THAT(
      MappedFile::Open(testing::TempDir()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("regular file")));
  const std::string pipe = testing::TempDir() + "/mapped_pipe";
  std::remove(pipe.c_str());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(MappedFile::Open(pipe),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(pipe), HasSubstr("regular file"))));
}

}  // namespace
}  // namespace strata
