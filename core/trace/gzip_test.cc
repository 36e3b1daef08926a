#include "core/trace/gzip.h"

#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

std::string Path() { return absl::StrCat(testing::TempDir(), "/frames.gz"); }

// Compressible or not.
std::string Text(size_t num_bytes, uint64_t num_letters) {
  Random random(1, num_letters);
  std::string text;
  while (text.size() < num_bytes) {
    text.push_back(static_cast<char>(random.UniformInt(num_letters)));
  }
  return text;
}

// All of the file, up to an error.
std::pair<std::string, absl::Status> ReadAll(const std::string& path) {
  std::string out;
  auto reader = GzipReader::Open(path);
  if (!reader.ok()) return {out, reader.status()};
  while (true) {
    const absl::StatusOr<int64_t> got = reader->Read(&out);
    if (!got.ok() || *got == 0) return {out, got.status()};
  }
}

TEST(GzipTest, ReadsFramesBackAsOneText) {
  // Around the 64 KiB that the reader takes and gives at a time.
  GzipCompressor gzip;
  std::string file;
  std::string text;
  for (const size_t size : {0, 1, 65535, 65536, 65537, 300000}) {
    for (const int letters : {2, 256}) {
      const std::string frame = Text(size, letters);
      text += frame;
      file += std::string(gzip.Compress(frame));
    }
  }
  ASSERT_THAT(WriteFileAtomically(Path(), file), IsOk());

  const auto [got, status] = ReadAll(Path());

  EXPECT_THAT(status, IsOk());
  EXPECT_TRUE(got == text);
}

TEST(GzipTest, GivesWhatComesBeforeTheCutAndThenTheError) {
  GzipCompressor gzip;
  const std::string first = Text(1000, 4);
  const std::string second = Text(100000, 4);
  const std::string head = std::string(gzip.Compress(first));
  const std::string file = head + std::string(gzip.Compress(second));
  ASSERT_THAT(WriteFileAtomically(Path(), file.substr(0, file.size() - 20000)),
              IsOk());

  auto reader = GzipReader::Open(Path());
  ASSERT_THAT(reader, IsOk());
  std::string out;
  absl::StatusOr<int64_t> got = 1;
  while (got.ok() && *got > 0) got = reader->Read(&out);

  EXPECT_THAT(got, StatusIs(absl::StatusCode::kDataLoss,
                            HasSubstr("the file ends within a frame")));
  EXPECT_THAT(reader->Read(&out), StatusIs(absl::StatusCode::kDataLoss,
                                           HasSubstr("within a frame")));
  EXPECT_GT(out.size(), first.size());
  EXPECT_TRUE(out == (first + second).substr(0, out.size()));
  EXPECT_EQ(reader->frame_offset(), static_cast<int64_t>(head.size()));
}

TEST(GzipTest, SaysWhatIsNoGzip) {
  ASSERT_THAT(WriteFileAtomically(Path(), "no gzip at all"), IsOk());
  EXPECT_THAT(ReadAll(Path()).second,
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("header")));
  EXPECT_THAT(ReadAll(testing::TempDir()).second.message(),
              HasSubstr("Is a directory"));
  EXPECT_THAT(ReadAll("no/such.gz").second,
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/such.gz")));
}

TEST(GzipTest, ReadsAFrameThatSwellsInFixedSteps) {
  // 64 MiB of zeros are 64 KiB of gzip.
  GzipCompressor gzip;
  const std::string zeros(size_t{64} << 20, '\0');
  ASSERT_THAT(WriteFileAtomically(Path(), std::string(gzip.Compress(zeros))),
              IsOk());
  auto reader = GzipReader::Open(Path());
  ASSERT_THAT(reader, IsOk());
  std::string out;

  const auto got = reader->Read(&out);

  ASSERT_THAT(got, IsOk());
  EXPECT_EQ(*got, 64 << 10);
}

}  // namespace
}  // namespace strata
