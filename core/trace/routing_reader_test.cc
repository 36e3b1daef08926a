// The recorder and the reader together: what is written is read back, and of a
// damaged file all that stands before the damage, and nothing wrong.

#include "core/trace/routing_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/trace/gzip.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"
#include "core/trace/trace_example.h"
#include "gmock/gmock.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Path() { return absl::StrCat(testing::TempDir(), "/trace.gz"); }

// A trace, and what is in it.
struct Written {
  RoutingTraceHeader header;
  std::vector<std::string> records;  // Serialized.
  // How many records the file holds up to a byte where a frame ends.
  std::vector<std::pair<int64_t, int64_t>> frame_ends;
  std::string file;
};

Written Write(const ExampleTrace& trace, int num_records, int64_t num_tokens,
              bool close = true) {
  Written written;
  written.header = ExampleHeader(trace);
  const auto layout = RoutingLayout::Create(written.header);
  EXPECT_THAT(layout, IsOk());
  {
    auto recorder = RoutingRecorder::Create(Path(), written.header,
                                            /*overwrite=*/true);
    EXPECT_THAT(recorder, IsOk());
    Random random(7, num_records);
    for (int i = 0; i < num_records; ++i) {
      const RoutingRecord record =
          ExampleRecord(*layout, i + 1, num_tokens, random);
      written.records.push_back(record.SerializeAsString());
      const int64_t before = recorder->num_bytes();
      EXPECT_THAT(recorder->Append(record), IsOk());
      if (recorder->num_bytes() > before) {
        written.frame_ends.emplace_back(recorder->num_bytes(), i + 1);
      }
    }
    EXPECT_EQ(recorder->num_records(), num_records);
    if (close) {
      EXPECT_THAT(recorder->Close(), IsOk());
    }
  }
  written.file = *ReadFile(Path());
  return written;
}

struct Got {
  std::vector<std::string> records;
  absl::Status status;
};

Got ReadAll(const std::string& file) {
  // Not synced: there are thousands.
  std::ofstream(Path(), std::ios::binary) << file;
  Got got;
  auto reader = RoutingReader::Open(Path());
  if (!reader.ok()) return {{}, reader.status()};
  RoutingRecord record;
  while (true) {
    const absl::StatusOr<bool> more = reader->Next(record);
    if (!more.ok() || !*more) {
      got.status = more.status();
      EXPECT_EQ(reader->num_records(),
                static_cast<int64_t>(got.records.size()));
      // The same answer from then on.
      EXPECT_EQ(reader->Next(record).status(), got.status);
      return got;
    }
    got.records.push_back(record.SerializeAsString());
  }
}

// Whether `got` are the first of `written`.
bool IsPrefix(const std::vector<std::string>& got,
              const std::vector<std::string>& written) {
  return got.size() <= written.size() &&
         std::equal(got.begin(), got.end(), written.begin());
}

TEST(RoutingTraceTest, ReadsBackWhatWasRecorded) {
  // Around the 64 records of a frame, and frames full by their bytes.
  for (const auto& [num_records, num_tokens] : {std::pair(0, 8),
                                                {1, 8},
                                                {63, 8},
                                                {64, 8},
                                                {65, 8},
                                                {200, 0},
                                                {40, 3000}}) {
    for (const bool has_tokens : {false, true}) {
      ExampleTrace trace;
      trace.has_tokens = has_tokens;
      const Written written = Write(trace, num_records, num_tokens);
      const Got got = ReadAll(written.file);
      EXPECT_THAT(got.status, IsOk());
      EXPECT_TRUE(got.records == written.records);
    }
  }
}

TEST(RoutingTraceTest, GivesTheHeader) {
  const Written written = Write(ExampleTrace(), 1, 5);
  const auto reader = RoutingReader::Open(Path());
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ(reader->header().SerializeAsString(),
            written.header.SerializeAsString());
  EXPECT_EQ(reader->layout().num_ranks, 2);
}

TEST(RoutingTraceTest, IsPlainGzipOfDelimitedMessages) {
  const Written written = Write(ExampleTrace(), 70, 5);
  auto gzip = GzipReader::Open(Path());
  ASSERT_THAT(gzip, IsOk());
  std::string text;
  while (*gzip->Read(&text) > 0) continue;

  google::protobuf::io::ArrayInputStream in(text.data(), text.size());
  std::vector<std::string> records;
  RoutingTraceEntry entry;
  bool clean_eof = false;
  uLong crc = 0;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&entry, &in,
                                                                  &clean_eof)) {
    crc = crc32(crc, reinterpret_cast<const Bytef*>(entry.body().data()),
                entry.body().size());
    EXPECT_EQ(entry.crc32(), crc);
    RoutingTraceBody body;
    ASSERT_TRUE(body.ParseFromString(entry.body()));
    if (body.has_record()) {
      records.push_back(body.record().SerializeAsString());
    }
    entry.Clear();
  }
  EXPECT_TRUE(clean_eof);
  EXPECT_TRUE(records == written.records);
}

TEST(RoutingTraceTest, KeepsAllRecordsOfARecordingThatWasCutShort) {
  const Written written = Write(ExampleTrace(), 70, 5, /*close=*/false);
  const Got got = ReadAll(written.file);
  EXPECT_TRUE(got.records == written.records);
  EXPECT_THAT(got.status,
              StatusIs(absl::StatusCode::kDataLoss,
                       AllOf(HasSubstr("damaged after record 70"),
                             HasSubstr("ends without its end mark"))));
}

// Damage of many kinds, by seed: bits flipped, the end cut off, a piece taken
// out, a piece doubled. Returns the first byte that changed.
size_t Damage(Random& random, std::string& file) {
  const size_t at = random.UniformInt(file.size());
  const size_t length =
      1 + random.UniformInt(std::min<size_t>(file.size() - at, 2000));
  switch (random.UniformInt(6)) {
    case 0:
      file.resize(at);
      break;
    case 1:
      file.erase(at, length);
      break;
    case 2:
      file.insert(at, file.substr(at, length));
      break;
    case 3:  // A burst.
      for (size_t i = 0; i < std::min<size_t>(length, 16); ++i) {
        file[at + i] = static_cast<char>(random.Bits());
      }
      break;
    default:
      file[at] = static_cast<char>(file[at] ^ (1 << random.UniformInt(8)));
  }
  return at;
}

TEST(RoutingTraceTest, DamageNeverCrashesNorGivesAWrongRecord) {
  for (const bool has_tokens : {false, true}) {
    ExampleTrace trace;
    trace.has_tokens = has_tokens;
    const Written written = Write(trace, 150, has_tokens ? 40 : 200);
    ASSERT_GE(written.frame_ends.size(), 2u);
    int num_reported = 0;
    for (int seed = 0; seed < 1500; ++seed) {
      Random random(seed, 1);
      std::string file = written.file;
      const size_t first_changed = Damage(random, file);

      const Got got = ReadAll(file);

      EXPECT_TRUE(IsPrefix(got.records, written.records)) << seed;
      size_t num_before = 0;
      for (const auto& [end, num_records] : written.frame_ends) {
        if (end <= static_cast<int64_t>(first_changed)) {
          num_before = num_records;
        }
      }
      EXPECT_GE(got.records.size(), num_before) << seed;
      // What goes unnoticed, as a flip in a gzip header's time, has cost
      // nothing.
      if (got.status.ok()) {
        EXPECT_EQ(got.records.size(), written.records.size()) << seed;
      }
      num_reported += !got.status.ok();
    }
    EXPECT_GT(num_reported, 1400);
  }
}

TEST(RoutingTraceTest, KeepsTheRecordsBeforeTheDamageOfItsOwnFrame) {
  // 60 records of tokens are one frame.
  const Written written = Write(ExampleTrace(), 60, 60);
  ASSERT_TRUE(written.frame_ends.empty());
  std::string file = written.file;
  file[file.size() * 3 / 4] ^= 0x10;

  const Got got = ReadAll(file);

  EXPECT_TRUE(IsPrefix(got.records, written.records));
  // The records are of much the same size, and what is compressed later says
  // nothing about what is before.
  EXPECT_GT(got.records.size(), 30u);
  EXPECT_LT(got.records.size(), 60u);
  EXPECT_THAT(
      got.status,
      StatusIs(absl::StatusCode::kDataLoss,
               AllOf(HasSubstr(absl::StrCat("damaged after record ",
                                            got.records.size(), ", at byte")),
                     HasSubstr("(in the frame from byte "))));
}

TEST(RoutingTraceTest, NoticesAFrameThatIsMissingDoubledOrMoved) {
  const Written written = Write(ExampleTrace(), 200, 10);
  ASSERT_GE(written.frame_ends.size(), 3u);
  const int64_t first = written.frame_ends[0].first;
  const int64_t second = written.frame_ends[1].first;
  const int64_t third = written.frame_ends[2].first;
  const std::string& file = written.file;
  const std::string a = file.substr(first, second - first);
  const std::string b = file.substr(second, third - second);
  const std::string before = file.substr(0, first);
  const std::string after = file.substr(third);
  for (const std::string& wrong :
       {absl::StrCat(before, b, after), absl::StrCat(before, a, a, b, after),
        absl::StrCat(before, b, a, after)}) {
    const Got got = ReadAll(wrong);
    EXPECT_TRUE(IsPrefix(got.records, written.records));
    EXPECT_THAT(got.status,
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("checksum")));
  }
  // What is after the end mark is no part of the trace.
  EXPECT_THAT(ReadAll(file + file).status,
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("something follows the end mark")));
}

// A file of hand-made bodies with right checksums.
class Forger {
 public:
  void Add(const RoutingTraceBody& body) {
    RoutingTraceEntry entry;
    entry.set_body(body.SerializeAsString());
    crc_ = crc32(crc_, reinterpret_cast<const Bytef*>(entry.body().data()),
                 entry.body().size());
    entry.set_crc32(crc_);
    google::protobuf::io::StringOutputStream out(&text_);
    google::protobuf::util::SerializeDelimitedToZeroCopyStream(entry, &out);
  }
  void AddHeader(const RoutingTraceHeader& header = ExampleHeader({})) {
    RoutingTraceBody body;
    *body.mutable_header() = header;
    Add(body);
  }
  void AddBytes(absl::string_view bytes) {
    text_.append(bytes.data(), bytes.size());
  }
  absl::Status Read() const {
    GzipCompressor gzip;
    return ReadAll(std::string(gzip.Compress(text_))).status;
  }

 private:
  std::string text_;
  uLong crc_ = 0;
};

TEST(RoutingTraceTest, RefusesSizesBeforeTakingMemory) {
  Forger too_large;
  too_large.AddHeader();
  too_large.AddBytes("\xff\xff\xff\xff\x0f");  // 2^32 - 1.
  EXPECT_THAT(too_large.Read(),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("claims 4294967295 bytes; want at most "
                                 "67108864")));
  Forger endless;
  endless.AddHeader();
  endless.AddBytes("\xff\xff\xff\xff\xff\xff");
  EXPECT_THAT(endless.Read(), StatusIs(absl::StatusCode::kDataLoss,
                                       HasSubstr("length is no number")));
  Forger just_claimed;  // 64 MiB, of which there is nothing.
  just_claimed.AddHeader();
  just_claimed.AddBytes("\x80\x80\x80\x20");
  EXPECT_THAT(just_claimed.Read(), StatusIs(absl::StatusCode::kDataLoss,
                                            HasSubstr("ends within an entry")));
  Forger large_header;
  RoutingTraceHeader header = ExampleHeader({});
  header.set_model_name(std::string(kMaxTraceHeaderBytes, 'x'));
  large_header.AddHeader(header);
  EXPECT_THAT(large_header.Read(), StatusIs(absl::StatusCode::kDataLoss,
                                            HasSubstr("want at most 1048576")));
}

TEST(RoutingTraceTest, RefusesWhatIsNoTrace) {
  EXPECT_THAT(ReadAll("").status,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("is no routing trace (it is empty)")));
  EXPECT_THAT(ReadAll("{\"kind\": \"step\"}").status,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("is no routing trace"),
                             HasSubstr("--record-routing"))));
  Forger text;
  text.AddBytes("just some text");
  EXPECT_THAT(text.Read(), StatusIs(absl::StatusCode::kDataLoss,
                                    HasSubstr("is no routing trace")));
  Forger no_header;
  RoutingTraceBody end;
  end.mutable_end();
  no_header.Add(end);
  EXPECT_THAT(no_header.Read(), StatusIs(absl::StatusCode::kDataLoss,
                                         HasSubstr("begins with no header")));
  Forger version;
  RoutingTraceHeader header = ExampleHeader({});
  header.set_format_version(9);
  version.AddHeader(header);
  EXPECT_THAT(version.Read(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("format version is 9")));
  EXPECT_THAT(RoutingReader::Open("no/such/trace"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/such")));
}

TEST(RoutingTraceTest, RefusesEntriesThatContradictTheHeader) {
  Forger second_header;
  second_header.AddHeader();
  second_header.AddHeader();
  EXPECT_THAT(second_header.Read(),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("neither a record nor the end mark")));
  Forger wrong_record;
  wrong_record.AddHeader();
  RoutingTraceBody body;
  body.mutable_record()->add_tokens(3);
  wrong_record.Add(body);
  EXPECT_THAT(wrong_record.Read(),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("tokens has 1 entries; want 6")));
  Forger wrong_end;
  wrong_end.AddHeader();
  body.mutable_end()->set_num_records(2);
  wrong_end.Add(body);
  EXPECT_THAT(wrong_end.Read(),
              StatusIs(absl::StatusCode::kDataLoss,
                       AllOf(HasSubstr("after record 0"),
                             HasSubstr("the end mark counts 2 records"))));
}

TEST(RoutingRecorderTest, NeverReplacesAFileUnasked) {
  const Written written = Write(ExampleTrace(), 3, 5);
  EXPECT_THAT(
      RoutingRecorder::Create(Path(), written.header, false),
      StatusIs(absl::StatusCode::kAlreadyExists,
               AllOf(HasSubstr(Path()), HasSubstr("--overwrite-routing"))));
  EXPECT_TRUE(*ReadFile(Path()) == written.file);
}

TEST(RoutingRecorderTest, SaysThatTheDiskIsFull) {
  EXPECT_THAT(RoutingRecorder::Create("/dev/full", ExampleHeader({}), true),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("/dev/full"), HasSubstr("disk full"))));
}

TEST(RoutingRecorderTest, WritesNoHeaderThatItCouldNotRead) {
  std::filesystem::remove(Path());
  RoutingTraceHeader header = ExampleHeader({});
  header.clear_gates();
  EXPECT_THAT(RoutingRecorder::Create(Path(), header, false),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no mixture of experts")));
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST(RoutingRecorderTest, RefusesARecordThatNoReaderTakes) {
  auto recorder = RoutingRecorder::Create(Path(), ExampleHeader({}), true);
  ASSERT_THAT(recorder, IsOk());
  RoutingRecord record;
  record.set_chosen(std::string(kMaxTraceEntryBytes, '\1'));
  EXPECT_THAT(
      recorder->Append(record),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("want at most")));
  // Its error stands.
  EXPECT_THAT(
      recorder->Append(RoutingRecord()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("want at most")));
}

}  // namespace
}  // namespace strata
