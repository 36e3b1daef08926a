#include "sim/compute/tuning_files.h"

#include <cstdint>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "sim/compute/kernel_shape.h"

namespace strata {
namespace {

constexpr absl::string_view kEven = "balanced";

// GLM-5's layer: 2048 wide, top 8 of 256 experts.
MoeLayer Glm(int64_t tensor_parallel, int64_t expert_parallel) {
  MoeLayer layer;
  layer.tokens = 16;
  layer.hidden = 6144;
  layer.inner = 2048;
  layer.experts = 256;
  layer.top_k = 8;
  layer.tensor_parallel = tensor_parallel;
  layer.expert_parallel = expert_parallel;
  return layer;
}

// Mixtral 8x22B's: 16384 wide, top 2 of 8.
MoeLayer Mixtral(int64_t tensor_parallel, int64_t expert_parallel) {
  MoeLayer layer = Glm(tensor_parallel, expert_parallel);
  layer.inner = 16384;
  layer.experts = 8;
  layer.top_k = 2;
  return layer;
}

MoeLayer WithTokens(MoeLayer layer, int64_t tokens) {
  layer.tokens = tokens;
  return layer;
}

TEST(TuningFilesTest, SecondLayerOfANameIsUntuned) {
  // Both have 8 experts a rank, 512 wide.
  TuningFiles files;
  EXPECT_TRUE(files.IsTuned(Mixtral(32, 1), kEven));
  EXPECT_FALSE(files.IsTuned(Glm(4, 32), kEven));
  EXPECT_FALSE(files.IsTuned(Glm(4, 32), "power_law_1.2"));
  EXPECT_TRUE(files.IsTuned(Mixtral(32, 1), "power_law_1.2"));
}

TEST(TuningFilesTest, OtherWeightsHaveOtherFiles) {
  TuningFiles files;
  EXPECT_TRUE(files.IsTuned(Mixtral(32, 1), kEven));
  EXPECT_TRUE(files.IsTuned(Glm(2, 32), kEven));  // 1024 wide
  EXPECT_TRUE(files.IsTuned(Glm(4, 16), kEven));  // 16 experts
}

TEST(TuningFilesTest, NameThatOthersBeginWithFindsTheirs) {
  // "2" finds "256"; "256" does not find "2".
  TuningFiles late, early;
  EXPECT_TRUE(late.IsTuned(Glm(1, 1), kEven));
  EXPECT_FALSE(late.IsTuned(Glm(1, 128), kEven));
  EXPECT_TRUE(early.IsTuned(Glm(1, 128), kEven));
  EXPECT_TRUE(early.IsTuned(Glm(1, 1), kEven));
}

TEST(TuningFilesTest, OwnFileBesideAnotherCountsAsUntuned) {
  TuningFiles files;
  EXPECT_TRUE(files.IsTuned(Glm(1, 128), kEven));
  EXPECT_TRUE(files.IsTuned(Glm(1, 1), kEven));
  EXPECT_FALSE(files.IsTuned(Glm(1, 128), "power_law_1.2"));
}

TEST(TuningFilesTest, RunKeepsWhatItBeganWith) {
  // The layer's rows go on after another one has written a file that fits; when
  // tokens start again, the layer looks again.
  TuningFiles files;
  EXPECT_TRUE(files.IsTuned(WithTokens(Glm(1, 128), 1), kEven));
  EXPECT_TRUE(files.IsTuned(Glm(1, 1), kEven));
  EXPECT_TRUE(files.IsTuned(WithTokens(Glm(1, 128), 2), kEven));
  EXPECT_FALSE(files.IsTuned(WithTokens(Glm(1, 128), 1), kEven));
  EXPECT_FALSE(files.IsTuned(WithTokens(Glm(1, 128), 2), kEven));
}

TEST(TuningFilesTest, AnotherMachineHasNoFiles) {
  TuningFiles files;
  EXPECT_TRUE(files.IsTuned(Mixtral(32, 1), kEven));
  files.NextMachine();
  EXPECT_TRUE(files.IsTuned(Glm(4, 32), kEven));
  EXPECT_FALSE(files.IsTuned(Mixtral(32, 1), kEven));
}

}  // namespace
}  // namespace strata
