#include "core/checkpoint/shards/shard_index.h"

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class ShardIndexTest : public ::testing::Test {
 protected:
  ShardIndexTest() {
    dir_ = absl::StrCat(
        ::testing::TempDir(), "/",
        ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    EXPECT_THAT(MakeFolders(dir_), IsOk());
    index_.file_of = {{"x", "m-1"}, {"y", "m-2"}};
    index_.total_size = 7;
    index_.checkpoint = "step 4 of run 1a";
    index_.files = {{"m-1", {3, Sha256Hex("one")}},
                    {"m-2", {4, Sha256Hex("four")}}};
    EXPECT_THAT(WriteFileAtomically(Path("m-1"), "one"), IsOk());
    EXPECT_THAT(WriteFileAtomically(Path("m-2"), "four"), IsOk());
  }
  std::string Path(const std::string& name) const {
    return absl::StrCat(dir_, "/", name);
  }

  std::string dir_;
  ShardIndex index_;
};

TEST_F(ShardIndexTest, NamesFilesAsHuggingFaceDoes) {
  EXPECT_EQ(ShardOf("model.safetensors", 1, 4),
            "model-00002-of-00004.safetensors");
  EXPECT_EQ(IndexOf("model.safetensors"), "model.safetensors.index.json");
}

TEST_F(ShardIndexTest, IsReadAsItWasWritten) {
  ASSERT_THAT(WriteFileAtomically(Path("i"), ToText(index_)), IsOk());
  const auto read = ReadShardIndex(Path("i"));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->file_of, index_.file_of);
  EXPECT_EQ(read->checkpoint, index_.checkpoint);
  EXPECT_EQ(read->files.at("m-2").num_bytes, 4);
  EXPECT_EQ(read->files.at("m-2").sha256, Sha256Hex("four"));
}

TEST_F(ShardIndexTest, OneOfAnotherWriterSaysLess) {
  ASSERT_THAT(WriteFileAtomically(Path("i"),
                                  R"({"metadata": {"total_size": 7},
                                      "weight_map": {"x": "m-1"}})"),
              IsOk());
  const auto read = ReadShardIndex(Path("i"));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->checkpoint, "");
  EXPECT_THAT(CheckListedFile(Path("i"), *read, "m-1", ""), IsOk());
  EXPECT_THAT(CheckListedSums(Path("i"), *read, 0, 1), IsOk());
  EXPECT_EQ(ListedHash(*read), "");
}

TEST_F(ShardIndexTest, MetadataThatMeansNothingIsAnError) {
  for (const char* const metadata :
       {R"({"checkpoint": 1})", R"({"files": []})", R"({"files": {"m": 1}})",
        R"({"files": {"../m": {"bytes": 1, "sha256": ""}}})"}) {
    SCOPED_TRACE(metadata);
    ASSERT_THAT(WriteFileAtomically(Path("i"),
                                    absl::StrCat(R"({"metadata": )", metadata,
                                                 R"(, "weight_map": {}})")),
                IsOk());
    EXPECT_THAT(ReadShardIndex(Path("i")),
                StatusIs(kInvalid, HasSubstr("metadata: want")));
  }
}

TEST_F(ShardIndexTest, AFileOfAnotherSaveOrLengthIsAnErrorThatNamesIt) {
  EXPECT_THAT(CheckListedFile(Path("i"), index_, "m-1", index_.checkpoint),
              IsOk());
  EXPECT_THAT(CheckListedFile(Path("i"), index_, "m-1", "step 2 of run 1a"),
              StatusIs(kInvalid, AllOf(HasSubstr(Path("m-1")),
                                       HasSubstr("is of step 2 of run 1a; i "
                                                 "is of step 4 of run 1a"))));
  EXPECT_THAT(CheckListedFile(Path("i"), index_, "m-1", ""),
              StatusIs(kInvalid, HasSubstr("is of no checkpoint of a run")));
  ASSERT_THAT(WriteFileAtomically(Path("m-1"), "ones"), IsOk());
  EXPECT_THAT(CheckListedFile(Path("i"), index_, "m-1", index_.checkpoint),
              StatusIs(kInvalid, HasSubstr("has 4 bytes; i lists 3")));
}

TEST_F(ShardIndexTest, SumsAreHeldToPartByPart) {
  EXPECT_THAT(CheckListedSums(Path("i"), index_, 0, 1), IsOk());
  ASSERT_THAT(WriteFileAtomically(Path("m-2"), "fOur"), IsOk());
  EXPECT_THAT(CheckListedSums(Path("i"), index_, 0, 2), IsOk());
  EXPECT_THAT(CheckListedSums(Path("i"), index_, 1, 2),
              StatusIs(kInvalid, AllOf(HasSubstr(Path("m-2")),
                                       HasSubstr(Sha256Hex("four")))));
  EXPECT_EQ(ListedHash(index_),
            Sha256Hex(absl::StrCat(Sha256Hex("one"), Sha256Hex("four"))));
}

}  // namespace
}  // namespace strata
