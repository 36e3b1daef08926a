#include "core/model/sibling.h"

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

class FlatSiblingTest : public testing::TestWithParam<std::string> {};

TEST_P(FlatSiblingTest, HasAsManyParametersAndUpToOnePercentMore) {
  const absl::StatusOr<ModelConfig> config = ModelPreset(GetParam());
  ASSERT_THAT(config, IsOk());

  const ModelConfig flat = FlatSibling(*config, MaxActiveExperts(*config));

  EXPECT_THAT(Validate(flat), IsOk());
  EXPECT_EQ(flat.name(), GetParam() + "-flat");
  EXPECT_EQ(NumRoutedExperts(flat), NumRoutedExperts(*config));
  EXPECT_EQ(flat.moe().flat().k(), MaxActiveExperts(*config));
  const int64_t size = CountParameters(*config);
  EXPECT_GE(CountParameters(flat), size);
  EXPECT_LE(CountParameters(flat), size + size / 100);
}

TEST_P(FlatSiblingTest, HasTheLeastWidthThatDoes) {
  const absl::StatusOr<ModelConfig> config = ModelPreset(GetParam());
  ASSERT_THAT(config, IsOk());

  ModelConfig flat = FlatSibling(*config, 1);
  flat.mutable_moe()->set_expert_width(flat.moe().expert_width() - 1);

  EXPECT_LT(CountParameters(flat), CountParameters(*config));
}

INSTANTIATE_TEST_SUITE_P(Presets, FlatSiblingTest,
                         testing::Values("demo", "small", "strata-1b"),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace strata
