#include "core/checkpoint/weight_files.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/files.h"
#include "core/checkpoint/compare_weights.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TensorToWrite Bytes(const std::string& name, DType dtype, Shape shape,
                    const std::string& bytes) {
  return {name, dtype, std::move(shape),
          [bytes](TensorToWrite::Append append) { return append(bytes); }};
}

class WeightFilesTest : public ::testing::Test {
 protected:
  WeightFilesTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = absl::StrCat(::testing::TempDir(), "/", test->name());
    std::filesystem::remove_all(dir_);
    EXPECT_THAT(MakeFolders(dir_), IsOk());
  }

  // Tensors of 4, 2, 8 and 1 bytes.
  static std::vector<TensorToWrite> Four() {
    return {Bytes("a", DType::kF32, {1}, "aaaa"),
            Bytes("b", DType::kBF16, {1}, "bb"),
            Bytes("c", DType::kI64, {1}, "cccccccc"),
            Bytes("d", DType::kU8, {1}, "d")};
  }
  void Write(int64_t max_shard_bytes) {
    WriteOptions options;
    options.max_shard_bytes = max_shard_bytes;
    ASSERT_THAT(WriteWeights(dir_, Four(), options), IsOk());
  }
  std::string Path(const std::string& name) const {
    return absl::StrCat(dir_, "/", name);
  }
  // Replaces text in the index.
  void Edit(const std::string& from, const std::string& to) {
    const auto text = ReadFile(Path(kWeightsIndexFile));
    ASSERT_THAT(text, IsOk());
    const std::string edited = absl::StrReplaceAll(*text, {{from, to}});
    ASSERT_NE(edited, *text);
    ASSERT_THAT(WriteFileAtomically(Path(kWeightsIndexFile), edited), IsOk());
  }

  std::string dir_;
};

TEST_F(WeightFilesTest, OneFileIfAllFits) {
  Write(15);
  EXPECT_THAT(*ListFiles(dir_), ElementsAre(kWeightsFile));
  const auto files = WeightFiles::Open(dir_);
  ASSERT_THAT(files, IsOk());
  EXPECT_EQ(files->tensors().size(), 4);
  EXPECT_EQ(
      std::string(static_cast<const char*>(files->tensors().at("c").view.data),
                  8),
      "cccccccc");
}

TEST_F(WeightFilesTest, ShardsKeepTheOrderAndHoldTheSameTensors) {
  Write(15);
  const std::string one = absl::StrCat(dir_, ".one");
  std::filesystem::remove_all(one);
  std::filesystem::rename(dir_, one);
  ASSERT_THAT(MakeFolders(dir_), IsOk());
  Write(6);  // a and b; c, too large for any; d.
  EXPECT_THAT(*ListFiles(dir_), ElementsAre("model-00001-of-00003.safetensors",
                                            "model-00002-of-00003.safetensors",
                                            "model-00003-of-00003.safetensors",
                                            kWeightsIndexFile));
  const auto same = CompareWeights(one, dir_);
  ASSERT_THAT(same, IsOk());
  EXPECT_EQ(same->num_equal, 4);
  EXPECT_EQ(same->num_bytes, 15);
  EXPECT_THAT(same->differences, IsEmpty());
}

TEST_F(WeightFilesTest, ComparisonNamesEveryDifference) {
  const std::string a = Path("a.safetensors"), b = Path("b.safetensors");
  ASSERT_THAT(WriteWeightsFile(a, Four(), {}), IsOk());
  ASSERT_THAT(WriteWeightsFile(b,
                               {Bytes("a", DType::kF32, {1}, "aaab"),
                                Bytes("b", DType::kF16, {1}, "bb"),
                                Bytes("c", DType::kI64, {1, 1}, "cccccccc"),
                                Bytes("e", DType::kU8, {1}, "e")},
                               {}),
              IsOk());
  const auto result = CompareWeights(a, b);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->num_equal, 0);
  EXPECT_THAT(
      result->differences,
      ElementsAre(
          "tensor \"a\" differs in 1 of 1 elements, first in element 0",
          "tensor \"b\" is BF16[1] in the first, F16[1] in the second",
          "tensor \"c\" is I64[1] in the first, I64[1, 1] in the second",
          "tensor \"d\" is only in the first",
          "tensor \"e\" is only in the second"));
}

TEST_F(WeightFilesTest, MissingShardIsNamed) {
  Write(6);
  std::filesystem::remove(Path("model-00002-of-00003.safetensors"));
  EXPECT_THAT(WeightFiles::Open(dir_),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("model-00002-of-00003.safetensors is missing; "
                                 "model.safetensors.index.json lists it")));
}

TEST_F(WeightFilesTest, IndexAndShardsMustAgree) {
  Write(6);
  Edit(R"("d": "model-00003)", R"("e": "model-00003)");
  EXPECT_THAT(WeightFiles::Open(dir_),
              StatusIs(kInvalid, HasSubstr("tensor \"d\" is here, but "
                                           "model.safetensors.index.json has "
                                           "it nowhere")));
  Edit(R"("e": "model-00003)", R"("d": "model-00003)");
  Edit(R"("b": "model-00001)", R"("b": "model-00002)");
  EXPECT_THAT(WeightFiles::Open(dir_),
              StatusIs(kInvalid, HasSubstr("has it in model-00002")));
  Edit(R"("b": "model-00002)",
       R"("f": "model-00001-of-00003.safetensors", "b": "model-00001)");
  EXPECT_THAT(WeightFiles::Open(dir_),
              StatusIs(kInvalid, HasSubstr("tensor \"f\" is missing")));
}

TEST_F(WeightFilesTest, TensorInTwoShardsIsNamed) {
  Write(6);
  ASSERT_THAT(WriteWeightsFile(Path("model-00003-of-00003.safetensors"),
                               {Bytes("c", DType::kU8, {1}, "c")}, {}),
              IsOk());
  EXPECT_THAT(WeightFiles::Open(dir_),
              StatusIs(kInvalid, HasSubstr("tensor \"c\" is in")));
}

TEST_F(WeightFilesTest, IndexLeadsNowhereElse) {
  for (const char* const file : {"../x", "/x", "..", "", "a\\\\b"}) {
    ASSERT_THAT(WriteFileAtomically(
                    Path(kWeightsIndexFile),
                    absl::StrCat(R"({"weight_map": {"a": ")", file, R"("}})")),
                IsOk());
    EXPECT_THAT(WeightFiles::Open(dir_),
                StatusIs(kInvalid, HasSubstr("a file beside the index")));
  }
}

TEST_F(WeightFilesTest, BadIndexIsAnError) {
  for (const char* const text : {"", "[]", "{}", R"({"weight_map": []})",
                                 R"({"weight_map": {"a": 1}})"}) {
    ASSERT_THAT(WriteFileAtomically(Path(kWeightsIndexFile), text), IsOk());
    EXPECT_THAT(WeightFiles::Open(dir_),
                StatusIs(kInvalid, HasSubstr(kWeightsIndexFile)));
  }
}

TEST_F(WeightFilesTest, NoWeightsIsNotFound) {
  EXPECT_THAT(WeightFiles::Open(dir_), StatusIs(absl::StatusCode::kNotFound,
                                                HasSubstr("holds no weights")));
}

TEST_F(WeightFilesTest, TwoTensorsOfOneNameAreRefused) {
  std::vector<TensorToWrite> tensors = Four();
  tensors.push_back(tensors[0]);
  EXPECT_THAT(WriteWeights(dir_, tensors, {}),
              StatusIs(kInvalid, HasSubstr("two tensors are named \"a\"")));
  WriteOptions small;
  small.max_shard_bytes = 4;
  EXPECT_THAT(WriteWeights(dir_, tensors, small),
              StatusIs(kInvalid, HasSubstr("two tensors are named \"a\"")));
}

TEST_F(WeightFilesTest, ExpertsInATensorEachAreThoseOfOneTensor) {
  const auto write = [&](const std::string& file,
                         const std::vector<TensorToWrite>& tensors) {
    ASSERT_THAT(WriteWeightsFile(Path(file), tensors, WriteOptions()), IsOk());
  };
  write("whole", {Bytes("m.experts.w", DType::kU8, {2, 1, 3}, "abcdef")});
  write("each", {Bytes("m.experts.0.w", DType::kU8, {1, 3}, "abc"),
                 Bytes("m.experts.1.w", DType::kU8, {1, 3}, "def")});
  write("other", {Bytes("m.experts.0.w", DType::kU8, {1, 3}, "abc"),
                  Bytes("m.experts.1.w", DType::kU8, {1, 3}, "dEf")});

  for (const auto& [a, b] :
       {std::pair("whole", "each"), std::pair("each", "whole")}) {
    const auto same = CompareWeights(Path(a), Path(b));
    ASSERT_THAT(same, IsOk());
    EXPECT_EQ(same->num_equal, 2);
    EXPECT_THAT(same->differences, IsEmpty());
  }
  const auto differ = CompareWeights(Path("whole"), Path("other"));
  ASSERT_THAT(differ, IsOk());
  EXPECT_THAT(differ->differences, ElementsAre(HasSubstr("m.experts.1.w")));
}

}  // namespace
}  // namespace strata
