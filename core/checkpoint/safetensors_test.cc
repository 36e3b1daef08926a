#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Pair;

std::string TempPath() {
  return absl::StrCat(
      testing::TempDir(), "/",
      testing::UnitTest::GetInstance()->current_test_info()->name(),
      ".safetensors");
}

// A few tensors with their memory: empty, scalar, of every element size.
struct Example {
  std::vector<float> matrix = {1, 2, 3, 4, 5, 6};  // [2, 3]
  std::vector<uint16_t> half = {0x3c00};           // []
  std::vector<uint8_t> flags = {1, 0, 1};          // [3]
  std::vector<int64_t> steps = {-7};               // [1]

  std::vector<NamedTensor> Tensors() {
    return {{"matrix", {DType::kF32, {2, 3}, matrix.data()}},
            {"half", {DType::kF16, {}, half.data()}},
            {"flags", {DType::kBool, {3}, flags.data()}},
            {"steps", {DType::kI64, {1}, steps.data()}},
            {"empty", {DType::kF32, {4, 0}, nullptr}}};
  }
};

absl::string_view Bytes(const TensorView& tensor) {
  return absl::string_view(static_cast<const char*>(tensor.data),
                           tensor.num_bytes());
}

TEST(SafetensorsTest, ReadsBackWhatWasWritten) {
  Example example;
  ASSERT_THAT(WriteSafetensors(TempPath(), example.Tensors(), {{"step", "12"}}),
              IsOk());

  auto opened = SafetensorsFile::Open(TempPath());
  ASSERT_THAT(opened, IsOk());
  const SafetensorsFile file = std::move(*opened);  // Views stay.

  EXPECT_THAT(file.metadata(), ElementsAre(Pair("step", "12")));
  EXPECT_THAT(file.tensors(),
              ElementsAre(Key("empty"), Key("flags"), Key("half"),
                          Key("matrix"), Key("steps")));
  for (const auto& [name, tensor] : example.Tensors()) {
    const auto got = file.Find(name);
    ASSERT_THAT(got, IsOk());
    EXPECT_EQ(got->dtype, tensor.dtype) << name;
    EXPECT_EQ(got->shape, tensor.shape) << name;
    EXPECT_EQ(Bytes(*got), Bytes(tensor)) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got->data) % SizeOf(got->dtype), 0)
        << name;
  }
}

TEST(SafetensorsTest, WritesTheSameBytesInAnyOrder) {
  Example example;
  std::vector<NamedTensor> tensors = example.Tensors();
  ASSERT_THAT(WriteSafetensors(TempPath(), tensors), IsOk());
  const std::string want = *ReadFile(TempPath());

  std::reverse(tensors.begin(), tensors.end());
  ASSERT_THAT(WriteSafetensors(TempPath(), tensors), IsOk());

  EXPECT_EQ(*ReadFile(TempPath()), want);
  // The whole file, byte for byte: the step, the matrix, the half, the flags.
  const std::string json =
      R"({"steps":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("empty":{"dtype":"F32","shape":[4,0],"data_offsets":[8,8]},)"
      R"("matrix":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},)"
      R"("half":{"dtype":"F16","shape":[],"data_offsets":[32,34]},)"
      R"("flags":{"dtype":"BOOL","shape":[3],"data_offsets":[34,37]}})";
  ASSERT_EQ(want.size(), 8 + (json.size() + 7) / 8 * 8 + 37);
  EXPECT_EQ(want.substr(8, json.size()), json);
  EXPECT_EQ(want.substr(want.size() - 5),
            std::string("\x00\x3c\x01\x00\x01", 5));
}

TEST(SafetensorsTest, CopiesTensorsThatAreNotAligned) {
  const std::string json =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  std::string bytes(1, static_cast<char>(json.size()));
  bytes.resize(8);
  const float value = 2.5f;
  absl::StrAppend(&bytes, json, "x");
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  ASSERT_THAT(WriteFileAtomically(TempPath(), bytes), IsOk());

  const auto file = SafetensorsFile::Open(TempPath());

  ASSERT_THAT(file, IsOk());
  const auto b = file->Find("b");
  ASSERT_THAT(b, IsOk());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b->data) % sizeof(float), 0);
  EXPECT_THAT(b->span<float>(), ElementsAre(2.5f));
}

TEST(SafetensorsTest, NamesWhatIsNotThere) {
  ASSERT_THAT(WriteSafetensors(TempPath(), {}), IsOk());
  const auto file = SafetensorsFile::Open(TempPath());
  ASSERT_THAT(file, IsOk());

  EXPECT_THAT(file->Find("w"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr(TempPath()), HasSubstr("\"w\""))));
  EXPECT_THAT(SafetensorsFile::Open(testing::TempDir() + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none")));
}

TEST(SafetensorsTest, RefusesToWriteANameTwice) {
  Example example;
  std::vector<NamedTensor> tensors = example.Tensors();
  tensors[1].name = "matrix";
  EXPECT_THAT(WriteSafetensors(TempPath(), tensors),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("two tensors are named \"matrix\"")));
  EXPECT_FALSE(std::filesystem::exists(TempPath()));
}

TEST(SafetensorsTest, LeavesNothingWhereItCannotWrite) {
  EXPECT_THAT(WriteSafetensors(TempPath() + "/none/f", {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/f")));
}

// Damages `file` in one to four ways.
std::string Damaged(std::string file, Random& random) {
  const std::vector<std::string> words = {"0",
                                          "-1",
                                          "1",
                                          "8",
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
                                          "\"F64\"",
                                          "\"shape\"",
                                          "null",
                                          "\"__metadata__\"",
                                          "\\u0000",
                                          "\xff"};
  const int num_changes = 1 + random.UniformInt(4);
  for (int change = 0; change < num_changes && !file.empty(); ++change) {
    const size_t at = random.UniformInt(file.size());
    // Half of the damage goes to the header, or it would be the data's.
    const size_t near = random.UniformInt(std::min<size_t>(file.size(), 400));
    const std::string word = words[random.UniformInt(words.size())];
    switch (random.UniformInt(8)) {
      case 0:
        file[near] ^= static_cast<char>(1 << random.UniformInt(8));
        break;
      case 1:
        file[near] = static_cast<char>(random.Bits());
        break;
      case 2:
        file.insert(near, word);
        break;
      case 3:
        file.replace(near, word.size(), word);
        break;
      case 4:
        file.erase(near, 1 + random.UniformInt(9));
        break;
      case 5:
        file.resize(at);
        break;
      case 6:
        file.append(random.UniformInt(9), 'x');
        break;
      case 7: {  // Another number in place of one.
        const size_t digit = file.find_first_of("0123456789", near);
        if (digit != std::string::npos) file.replace(digit, 1, word);
        break;
      }
    }
  }
  // Half of the time the length is right again, so that the JSON is looked at.
  const size_t brace = file.rfind("}}");
  if (random.UniformInt(2) == 0 && brace != std::string::npos && brace > 8) {
    const uint64_t length = brace + 2 - 8;
    std::memcpy(&file[0], &length, sizeof(length));
  }
  return file;
}

// What a damaged file holds is read to its last byte, or the file is refused.
TEST(SafetensorsFuzzTest, NeverReadsBeyondADamagedFile) {
  Example example;
  ASSERT_THAT(WriteSafetensors(TempPath(), example.Tensors(),
                               {{"format", "pt"}, {"step", "12"}}),
              IsOk());
  const std::string large = *ReadFile(TempPath());
  ASSERT_THAT(WriteSafetensors(TempPath(), {}), IsOk());
  const std::string small = *ReadFile(TempPath());
  Random random(/*seed=*/1, /*stream=*/0);

  int num_valid = 0;
  std::map<std::string, int> num_refused;  // By the kind of message.
  for (int i = 0; i < 20000; ++i) {
    const std::string damaged = Damaged(i % 10 == 0 ? small : large, random);
    // A block of exactly that size shows reads beyond it to the sanitizer.
    const auto bytes = std::make_unique<char[]>(damaged.size());
    std::copy(damaged.begin(), damaged.end(), bytes.get());

    const auto file = SafetensorsFile::Parse(
        "f", absl::string_view(bytes.get(), damaged.size()));

    if (!file.ok()) {
      ASSERT_THAT(file, StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("f: not a valid safetensors file")));
      std::string kind(file.status().message().substr(0, 60));
      kind.erase(std::remove_if(kind.begin(), kind.end(), isdigit), kind.end());
      ++num_refused[kind];
      continue;
    }
    ++num_valid;
    size_t num_bytes = 0;
    std::vector<NamedTensor> tensors;
    uint64_t sum = 0;
    for (const auto& [name, tensor] : file->tensors()) {
      for (const char c : Bytes(tensor)) sum += static_cast<unsigned char>(c);
      num_bytes += tensor.num_bytes();
      tensors.push_back({name, tensor});
    }
    ASSERT_LE(num_bytes, damaged.size());
    ASSERT_LE(sum, 255 * num_bytes);
    if (num_valid % 20 == 0) {  // What it holds can be written and read.
      ASSERT_THAT(WriteSafetensors(TempPath(), tensors, file->metadata()),
                  IsOk());
      const auto again = SafetensorsFile::Open(TempPath());
      ASSERT_THAT(again, IsOk());
      ASSERT_EQ(again->tensors().size(), file->tensors().size());
      ASSERT_EQ(again->metadata(), file->metadata());
    }
  }
  // The damage reaches both sides of the checks, and many of them.
  EXPECT_GT(num_valid, 200);
  EXPECT_GT(num_refused.size(), 20);
}

}  // namespace
}  // namespace strata
