#include "core/checkpoint/safetensors_header.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using ::testing::ValuesIn;

// `n` as the length of a file's header.
std::string Length(uint64_t n) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) {
    bytes.push_back(static_cast<char>(n >> shift));
  }
  return bytes;
}

std::string File(absl::string_view json, int num_data_bytes) {
  return absl::StrCat(Length(json.size()), json,
                      std::string(num_data_bytes, '\0'));
}

TEST(ParseSafetensorsHeaderTest, ReadsTensorsInAnyOrderAndMetadata) {
  const auto header = ParseSafetensorsHeader("f", File(R"({
    "b": {"data_offsets": [24, 26], "shape": [], "dtype": "BF16"},
    "__metadata__": {"format": "pt", "a": ""},
    "empty": {"dtype": "I64", "shape": [3, 0], "data_offsets": [24, 24]},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
  }   )",
                                                       26));
  ASSERT_THAT(header, IsOk());

  EXPECT_THAT(header->metadata,
              ElementsAre(Pair("a", ""), Pair("format", "pt")));
  ASSERT_EQ(header->tensors.size(), 3);
  const SafetensorsEntry& a = header->tensors.at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.begin, 0);
  EXPECT_EQ(a.end, 24);
  EXPECT_EQ(header->tensors.at("b").dtype, DType::kBF16);
  EXPECT_THAT(header->tensors.at("b").shape, IsEmpty());
  EXPECT_THAT(header->tensors.at("empty").shape, ElementsAre(3, 0));
}

TEST(ParseSafetensorsHeaderTest, ReadsAFileWithoutTensors) {
  const auto header = ParseSafetensorsHeader("f", File("{}", 0));
  ASSERT_THAT(header, IsOk());
  EXPECT_EQ(header->num_bytes, 10);
  EXPECT_THAT(header->tensors, IsEmpty());
}

TEST(ParseSafetensorsHeaderTest, KnowsEveryDTypeOfTheFormat) {
  for (const absl::string_view dtype :
       {"BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32",
        "F64", "I64", "U64", "F8_E4M3", "F8_E5M2"}) {
    const auto header = ParseSafetensorsHeader(
        "f", File(absl::StrCat(R"({"x":{"dtype":")", dtype,
                               R"(","shape":[0],"data_offsets":[0,0]}})"),
                  0));
    ASSERT_THAT(header, IsOk());
    EXPECT_EQ(Name(header->tensors.at("x").dtype), dtype);
  }
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* message;
};

std::string Repeated(absl::string_view text, int num_times) {
  std::string all;
  for (int i = 0; i < num_times; ++i) absl::StrAppend(&all, text);
  return all;
}

// One tensor named x with these fields, and 8 bytes of data.
std::string One(absl::string_view fields) {
  return File(absl::StrCat(R"({"x":{)", fields, "}}"), 8);
}

class BadFileTest : public TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsInvalid) {
  EXPECT_THAT(
      ParseSafetensorsHeader("dir/the_file", GetParam().bytes),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("dir/the_file: not a valid safetensors file: "),
                     HasSubstr(GetParam().message))));
}

const BadFile kBadFiles[] = {
    // Lengths.
    {"Empty", "", "it has 0 bytes; want at least 8"},
    {"SevenBytes", Length(2).substr(0, 7), "it has 7 bytes"},
    {"NoHeader", Length(0) + "{}", "does not begin with {"},
    {"HeaderBeyondTheFile", Length(3) + "{}",
     "has 3 bytes, but the file ends after 2"},
    {"HeaderBeyondTheBound", Length(100000001) + "{}",
     "would have 100000001 bytes; want at most 100000000"},
    {"HeaderBeyondEverything", Length(UINT64_MAX) + "{}",
     "18446744073709551615"},
    // JSON.
    {"NotJson", File("hello", 0), "does not begin with {"},
    {"SpaceInFront", File(" {}", 0), "does not begin with {"},
    {"CutOff", File(R"({"x":)", 0), "not valid JSON at its byte 6"},
    {"GarbageBehind", File("{}x", 0), "not valid JSON at its byte 3"},
    {"NotUtf8", File("{\"\xff\":{}}", 0), "not valid JSON"},
    {"ManyOpenBrackets",
     File(R"({"x":{"shape":)" + std::string(100000, '[') + "}}", 0),
     R"(tensor "x" has in shape an array)"},
    // The structure.
    {"TensorIsNumber", File(R"({"x":1})", 0),
     R"("x" is the number 1; want an object)"},
    {"TensorIsNull", File(R"({"x":null})", 0), R"("x" is null)"},
    {"TensorIsArray", File(R"({"x":[]})", 0), R"("x" is an array)"},
    {"TensorTwice",
     File(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
              "x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          0),
     R"("x" appears twice)"},
    {"MetadataTwice", File(R"({"__metadata__":{},"__metadata__":{}})", 0),
     R"("__metadata__" appears twice)"},
    {"MetadataKeyTwice", File(R"({"__metadata__":{"k":"","k":""}})", 0),
     R"(in the metadata "k" appears twice)"},
    {"MetadataOfNumbers", File(R"({"__metadata__":{"k":1}})", 0),
     R"("k" is the number 1; want a string)"},
    {"MetadataNested", File(R"({"__metadata__":{"k":{}}})", 0),
     R"("k" is an object; want a string)"},
    {"MetadataIsString", File(R"({"__metadata__":"k"})", 0),
     R"("__metadata__" is the string "k"; want an object)"},
    {"FieldUnknown", One(R"("dtype":"U8","sparse":true)"),
     R"(tensor "x" has the field "sparse")"},
    {"FieldTwice", One(R"("dtype":"U8","dtype":"U8")"),
     R"("dtype" appears twice)"},
    {"NoDType", One(R"("shape":[8],"data_offsets":[0,8])"),
     R"(tensor "x" has no dtype)"},
    {"NoShape", One(R"("dtype":"U8","data_offsets":[0,8])"),
     R"(tensor "x" has no shape)"},
    {"NoOffsets", One(R"("dtype":"U8","shape":[8])"),
     R"(tensor "x" has no data_offsets)"},
    // Fields.
    {"DTypeUnknown", One(R"("dtype":"F33","shape":[8],"data_offsets":[0,8])"),
     R"(tensor "x" has the dtype "F33")"},
    {"DTypeLowerCase", One(R"("dtype":"u8","shape":[8],"data_offsets":[0,8])"),
     R"(tensor "x" has the dtype "u8")"},
    {"DTypeIsNumber", One(R"("dtype":8,"shape":[8],"data_offsets":[0,8])"),
     R"(tensor "x" has as dtype the number 8; want a string)"},
    {"ShapeIsNumber", One(R"("dtype":"U8","shape":8,"data_offsets":[0,8])"),
     R"(has as shape the number 8; want an array)"},
    {"ExtentNegative", One(R"("dtype":"U8","shape":[-8],"data_offsets":[0,8])"),
     R"(tensor "x" has in shape the number -8)"},
    {"ExtentFraction",
     One(R"("dtype":"U8","shape":[8.0],"data_offsets":[0,8])"),
     R"(tensor "x" has in shape the number 8.0)"},
    {"ExtentOf2To63",
     One(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8])"),
     "9223372036854775808 is too large"},
    {"ExtentOf2To64",
     One(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,8])"),
     R"(has in shape the number 18446744073709551616)"},
    {"ExtentIsString",
     One(R"("dtype":"U8","shape":["8"],"data_offsets":[0,8])"),
     R"(has in shape the string "8")"},
    {"OffsetNegative", One(R"("dtype":"U8","shape":[8],"data_offsets":[-1,8])"),
     R"(has in data_offsets the number -1)"},
    {"OffsetsOne", One(R"("dtype":"U8","shape":[8],"data_offsets":[0])"),
     R"(tensor "x" has 1 data_offsets; want 2)"},
    {"OffsetsThree", One(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,8])"),
     R"(tensor "x" has more than 2 data_offsets)"},
    {"TooManyAxes",
     One(absl::StrCat(R"("dtype":"U8","data_offsets":[0,8],"shape":[8)",
                      Repeated(",1", 64), "]")),
     R"(tensor "x" has more than 64 axes)"},
    // The layout.
    {"EndBeforeBegin", One(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])"),
     R"(tensor "x" ends before it begins: [8, 0))"},
    {"BeyondTheData", One(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
     R"(tensor "x" lies at [0, 9), beyond the 8 bytes)"},
    {"ShapeTooSmall", One(R"("dtype":"U8","shape":[7],"data_offsets":[0,8])"),
     R"(tensor "x" is U8 [7], which takes 7 bytes, but lies at [0, 8))"},
    {"DTypeTooLarge", One(R"("dtype":"F64","shape":[8],"data_offsets":[0,8])"),
     R"(tensor "x" is F64 [8], which takes 64 bytes)"},
    {"EmptyButNotInBytes",
     One(R"("dtype":"U8","shape":[0],"data_offsets":[0,8])"),
     "which takes 0 bytes"},
    {"ProductOverflows",
     One(R"("dtype":"F32","shape":[4294967296,2147483648],)"
         R"("data_offsets":[0,8])"),
     R"(tensor "x" is F32 [4294967296, 2147483648], which overflows)"},
    // 3 * 6148914691236517208 is 2^64 + 8.
    {"ProductWrapsToTheSize",
     One(R"("dtype":"U8","shape":[6148914691236517208,3],)"
         R"("data_offsets":[0,8])"),
     "which overflows"},
    {"ProductOverflowsBesideAZero",
     One(R"("dtype":"U8","shape":[4294967296,4294967296,0],)"
         R"("data_offsets":[0,0])"),
     "which overflows"},
    {"Gap", One(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])"),
     R"(tensor "x" begins at 4, but what is before it ends at 0: there is a gap)"},
    {"RestUnused", One(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])"),
     "the tensors end at 4, but the file has 8 bytes of data"},
    {"NoTensorsButData", File("{}", 1),
     "the tensors end at 0, but the file has 1 bytes"},
    {"Overlap",
     File(R"({"x":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},
              "y":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
          8),
     R"(tensor "y" begins at 4, but what is before it ends at 5: they overlap)"},
    {"SameBytes",
     File(R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},
              "y":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
          8),
     "they overlap"},
    {"EscapesWhatItPrints", File("{\"\\u001b[31m\\n\":1}", 0),
     R"("\x1b[31m\n" is the number 1)"},
};

INSTANTIATE_TEST_SUITE_P(All, BadFileTest, ValuesIn(kBadFiles),
                         [](const TestParamInfo<BadFile>& info) {
                           return info.param.name;
                         });

TEST(SerializeSafetensorsHeaderTest, WritesTheFormat) {
  SafetensorsHeader header;
  header.metadata = {{"format", "pt"}};
  header.tensors["a"] = {DType::kBF16, {2}, 24, 28};
  header.tensors["b"] = {DType::kF32, {2, 3}, 0, 24};
  header.tensors["\"\n"] = {DType::kU8, {1}, 28, 29};

  const auto bytes = SerializeSafetensorsHeader(header);

  ASSERT_THAT(bytes, IsOk());
  const std::string json =
      R"({"__metadata__":{"format":"pt"},)"
      R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},)"
      R"("\"\n":{"dtype":"U8","shape":[1],"data_offsets":[28,29]}})";
  const std::string padding((8 - json.size() % 8) % 8, ' ');
  EXPECT_EQ(*bytes, Length(json.size() + padding.size()) + json + padding);
}

TEST(SerializeSafetensorsHeaderTest, RefusesNamesThatTheFormatCannotHold) {
  SafetensorsHeader reserved;
  reserved.tensors["__metadata__"] = {DType::kU8, {0}, 0, 0};
  EXPECT_THAT(SerializeSafetensorsHeader(reserved),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("cannot be named __metadata__")));
  SafetensorsHeader latin1;
  latin1.tensors["\xfc"] = {DType::kU8, {0}, 0, 0};
  EXPECT_THAT(
      SerializeSafetensorsHeader(latin1),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not UTF-8")));
}

// Whatever a byte is changed to, and wherever the file ends, reading ends; and
// what it gives lies within the file and is as long as its shape says.
TEST(ParseSafetensorsHeaderTest, SurvivesEveryChangedByte) {
  const std::string file =
      File(R"({"__metadata__":{"format":"pt"},)"
           R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
           R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]}})",
           26);
  const size_t end = file.size() - 26;
  int read = 0;
  for (size_t i = 0; i < end; ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = file;
      changed[i] = static_cast<char>(byte);
      const auto header = ParseSafetensorsHeader("f", changed);
      if (!header.ok()) continue;
      ++read;
      const auto data =
          static_cast<int64_t>(changed.size()) - header->num_bytes;
      for (const auto& [name, entry] : header->tensors) {
        ASSERT_GE(entry.begin, 0);
        ASSERT_LE(entry.end, data);
        ASSERT_EQ(entry.end - entry.begin,
                  NumElements(entry.shape) * SizeOf(entry.dtype));
      }
    }
    EXPECT_FALSE(ParseSafetensorsHeader("f", file.substr(0, i)).ok());
  }
  EXPECT_GT(read, static_cast<int>(end));
}

}  // namespace
}  // namespace strata
