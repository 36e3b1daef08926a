#include "sim/chakra/trace_reader.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/trace/gzip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

// What ASTRA-sim ships as microbenchmarks/all_reduce/8npus_1MB/all_reduce.0.et,
// from the format's description.
std::string AllReduceFile() {
  return absl::HexStringToBytes(
      "070a05302e302e3448"
      "1214616c6c5f7265647563655f386e7075735f314d42"
      "1807"
      "520e0a0969735f6370755f6f70d80100"
      "520d0a09636f6d6d5f747970654800"
      "520f0a09636f6d6d5f73697a6548808040");
}

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

absl::StatusOr<Nodes> ReadAll(absl::StatusOr<TraceReader> reader) {
  if (!reader.ok()) return reader.status();
  Nodes nodes;
  while (true) {
    ChakraProtoMsg::Node node;
    const absl::StatusOr<bool> more = reader->Next(&node);
    if (!more.ok()) return more.status();
    if (!*more) return nodes;
    nodes.push_back(node);
  }
}

absl::StatusOr<Nodes> ReadBytes(const std::string& bytes) {
  return ReadAll(TraceReader::FromBytes("x.et", bytes));
}

TEST(TraceWriterTest, WritesTheFormatsExampleByteForByte) {
  ChakraProtoMsg::Node node;
  node.set_name("all_reduce_8npus_1MB");
  node.set_type(ChakraProtoMsg::COMM_COLL_NODE);
  AddBool(node, "is_cpu_op", false);
  AddInt64(node, "comm_type", ChakraProtoMsg::ALL_REDUCE);
  AddInt64(node, "comm_size", 1048576);

  const std::string bytes = SerializeTrace({}, {node});

  EXPECT_THAT(bytes, SizeIs(81));
  EXPECT_EQ(absl::BytesToHexString(bytes),
            absl::BytesToHexString(AllReduceFile()));
}

TEST(TraceReaderTest, ReadsMetadataThenNodes) {
  absl::StatusOr<TraceReader> reader =
      TraceReader::FromBytes("x.et", AllReduceFile());
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ(reader->metadata().version(), "0.0.4");

  ChakraProtoMsg::Node node;
  ASSERT_THAT(reader->Next(&node), IsOk());
  EXPECT_EQ(node.id(), 0);
  EXPECT_EQ(node.name(), "all_reduce_8npus_1MB");
  EXPECT_EQ(reader->message_offset(), 8);
  // A value of zero is there all the same.
  ASSERT_NE(FindAttribute(node, "comm_type"), nullptr);
  EXPECT_EQ(*UnsignedAttribute(node, "comm_type"), 0u);

  const absl::StatusOr<bool> more = reader->Next(&node);
  ASSERT_THAT(more, IsOk());
  EXPECT_FALSE(*more);
}

TEST(TraceReaderTest, ReadsGzipAsItReadsPlainFiles) {
  GzipCompressor gzip;
  const std::string path = Path("packed.0.et");
  ASSERT_THAT(WriteFileAtomically(path, gzip.Compress(AllReduceFile())),
              IsOk());

  const absl::StatusOr<Nodes> nodes = ReadAll(TraceReader::Open(path));

  ASSERT_THAT(nodes, IsOk());
  ASSERT_THAT(*nodes, SizeIs(1));
  EXPECT_EQ((*nodes)[0].name(), "all_reduce_8npus_1MB");
}

TEST(TraceReaderTest, KeepsUnknownTypesAndSkipsUnknownFields) {
  // Type 9, and field 11 with a varint, as an open change of the format has.
  std::string bytes = AllReduceFile().substr(0, 8);
  bytes += absl::HexStringToBytes("06080118095801");

  const absl::StatusOr<Nodes> nodes = ReadBytes(bytes);

  ASSERT_THAT(nodes, IsOk());
  ASSERT_THAT(*nodes, SizeIs(1));
  EXPECT_EQ(static_cast<int>((*nodes)[0].type()), 9);
}

TEST(TraceReaderTest, ReadsMessagesOnBothSidesOfItsChunks) {
  // Names that make messages end before, at and after 64 KiB of the file.
  for (const int size : {65000, 65490, 65500, 65536, 131072, 200000}) {
    ChakraProtoMsg::Node node;
    node.set_id(7);
    node.set_name(std::string(size, 'n'));
    const std::string path = Path("long.0.et");
    ASSERT_THAT(WriteTrace(path, {}, {node, node, node}), IsOk());

    const absl::StatusOr<Nodes> nodes = ReadAll(TraceReader::Open(path));

    ASSERT_THAT(nodes, IsOk());
    ASSERT_THAT(*nodes, SizeIs(3));
    EXPECT_EQ((*nodes)[2].name().size(), size);
  }
}

TEST(TraceReaderTest, SaysWhereADamagedFileBreaks) {
  const std::string whole = AllReduceFile();
  EXPECT_THAT(
      ReadBytes(""),
      StatusIs(kDataLoss, HasSubstr("x.et, byte 0: the file is empty")));
  EXPECT_THAT(ReadBytes(whole.substr(0, 80)),
              StatusIs(kDataLoss, HasSubstr("x.et, byte 8: a message claims 72 "
                                            "bytes, and the file ends after "
                                            "71")));
  EXPECT_THAT(ReadBytes(whole + "\x80"),
              StatusIs(kDataLoss, HasSubstr("byte 81: the file ends within the "
                                            "length")));
  EXPECT_THAT(ReadBytes(whole + std::string(6, '\xff')),
              StatusIs(kDataLoss, HasSubstr("more than 5 bytes")));
  // 64 MiB and one byte more.
  EXPECT_THAT(ReadBytes(whole + absl::HexStringToBytes("81808020")),
              StatusIs(kDataLoss, HasSubstr("claims 67108865 bytes")));
  EXPECT_THAT(ReadBytes(whole + absl::HexStringToBytes("02ffff")),
              StatusIs(kDataLoss, HasSubstr("byte 81: no valid Node")));
  EXPECT_THAT(ReadBytes("\x02\xff\xff"),
              StatusIs(kDataLoss, HasSubstr("no valid GlobalMetadata")));
  EXPECT_THAT(TraceReader::Open(Path("none.0.et")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.0.et")));
}

TEST(TraceReaderTest, SaysWhereDamagedCompressionBreaks) {
  GzipCompressor gzip;
  std::string packed(gzip.Compress(AllReduceFile()));
  const std::string path = Path("damaged.0.et");
  ASSERT_THAT(WriteFileAtomically(path, packed.substr(0, packed.size() - 4)),
              IsOk());
  EXPECT_THAT(ReadAll(TraceReader::Open(path)),
              StatusIs(kDataLoss, AllOf(HasSubstr("damaged.0.et, byte "),
                                        HasSubstr("ends within"))));
  packed[packed.size() - 6] ^= 1;  // In the checksum.
  ASSERT_THAT(WriteFileAtomically(path, packed), IsOk());
  EXPECT_THAT(ReadAll(TraceReader::Open(path)),
              StatusIs(kDataLoss, HasSubstr("damaged.0.et, byte ")));
}

// Bytes that are changed, cut out or put in, again and again: no crash, and one
// line of error if it does not load.
TEST(TraceReaderTest, SurvivesDamagedCopies) {
  Nodes nodes;
  for (int i = 0; i < 20; ++i) {
    nodes.push_back(ComputeNode(4 * i, 10,
                                i > 0
                                    ? std::vector<uint64_t>{uint64_t(4 * i - 1)}
                                    : std::vector<uint64_t>{}));
    nodes.push_back(
        CollectiveNode(4 * i + 1, ChakraProtoMsg::ALL_GATHER, 1024, {}, "1"));
    nodes.push_back(SendNode(4 * i + 2, 0, 1, i, 8));
    nodes.push_back(RecvNode(4 * i + 3, 1, 0, i, 8));
  }
  const std::string whole = SerializeTrace({}, nodes);
  Random random(/*seed=*/1, /*stream=*/0);
  int num_loaded = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = whole;
    const uint64_t num_changes = 1 + random.UniformInt(4);
    for (uint64_t i = 0; i < num_changes; ++i) {
      const size_t at = random.UniformInt(bytes.size());
      switch (random.UniformInt(4)) {
        case 0:
          bytes[at] ^= static_cast<char>(1 << random.UniformInt(8));
          break;
        case 1:
          bytes[at] = static_cast<char>(random.Bits());
          break;
        case 2:
          bytes.erase(at, 1 + random.UniformInt(8));
          break;
        case 3:
          bytes.insert(at, 1, static_cast<char>(random.Bits()));
          break;
      }
    }
    absl::StatusOr<TraceReader> reader = TraceReader::FromBytes("x.et", bytes);
    if (!reader.ok()) {
      EXPECT_THAT(reader.status().message(), HasSubstr("x.et, byte "));
      continue;
    }
    const absl::StatusOr<RankTrace> trace = LoadRank(*std::move(reader));
    if (trace.ok()) {
      ++num_loaded;
    } else {
      EXPECT_THAT(trace.status().message(), HasSubstr("x.et, byte "));
    }
  }
  // Changes of names and numbers do no harm, others do: both are seen.
  EXPECT_GT(num_loaded, 300);
  EXPECT_LT(num_loaded, 2700);
}

TEST(AttributesTest, ReadsNumbersOfAnyType) {
  ChakraProtoMsg::Node node;
  AddUint64(node, "u", 18446744073709551615u);
  AddInt32(node, "i", 5);
  AddBool(node, "b", true);
  ChakraProtoMsg::AttributeProto* attribute = node.add_attr();
  attribute->set_name("d");
  attribute->set_double_val(1048576);
  attribute = node.add_attr();
  attribute->set_name("s");
  attribute->set_sint64_val(7);
  attribute = node.add_attr();
  attribute->set_name("list");
  for (const bool value : {true, false}) {
    attribute->mutable_bool_list()->add_values(value);
  }

  EXPECT_EQ(*UnsignedAttribute(node, "u"), 18446744073709551615u);
  EXPECT_EQ(*UnsignedAttribute(node, "i"), 5u);
  EXPECT_EQ(*UnsignedAttribute(node, "d"), 1048576u);
  EXPECT_EQ(*UnsignedAttribute(node, "s"), 7u);
  EXPECT_EQ(*BoolAttribute(node, "b"), true);
  EXPECT_EQ(*BoolAttribute(node, "i"), true);
  EXPECT_EQ(*StringAttribute(node, "i"), "5");
  EXPECT_EQ(*UnsignedAttribute(node, "none"), std::nullopt);
  EXPECT_THAT(**BoolListAttribute(node, "list"), ElementsAre(true, false));
}

TEST(AttributesTest, RefusesWhatIsNoSuchNumber) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ChakraProtoMsg::Node node;
  AddInt64(node, "negative", -1);
  AddString(node, "text", "12");
  ChakraProtoMsg::AttributeProto* attribute = node.add_attr();
  attribute->set_name("half");
  attribute->set_double_val(0.5);
  attribute = node.add_attr();
  attribute->set_name("huge");
  attribute->set_float_val(3e30f);

  EXPECT_THAT(UnsignedAttribute(node, "negative"),
              StatusIs(kInvalid, HasSubstr("attribute negative is -1")));
  EXPECT_THAT(UnsignedAttribute(node, "text"),
              StatusIs(kInvalid, HasSubstr("text is not a number")));
  EXPECT_THAT(UnsignedAttribute(node, "half"),
              StatusIs(kInvalid, HasSubstr("half is 0.5")));
  EXPECT_THAT(UnsignedAttribute(node, "huge"),
              StatusIs(kInvalid, HasSubstr("huge is 3e+30")));
  EXPECT_THAT(BoolAttribute(node, "text"),
              StatusIs(kInvalid, HasSubstr("text")));
  EXPECT_THAT(BoolListAttribute(node, "text"),
              StatusIs(kInvalid, HasSubstr("list of bools")));
  EXPECT_THAT(StringAttribute(node, "half"),
              StatusIs(kInvalid, HasSubstr("half is not a string")));
}

}  // namespace
}  // namespace strata::chakra
