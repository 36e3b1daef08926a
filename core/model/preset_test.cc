#include "core/model/preset.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;

constexpr std::pair<absl::string_view, absl::string_view> kTexts[] = {
    {"one", "num_layers: 1"}, {"two", "num_layers: 2"}};

TEST(ReadPresetTest, ReadsTheOneOfThatName) {
  ModelConfig config;

  ASSERT_THAT(ReadPreset(kTexts, "model", "two", config), IsOk());

  EXPECT_EQ(config.num_layers(), 2);
}

TEST(ReadPresetTest, ListsTheKnownOnes) {
  ModelConfig config;

  EXPECT_THAT(ReadPreset(kTexts, "model", "tw", config),
              StatusIs(absl::StatusCode::kNotFound,
                       Eq("no model preset \"tw\"; there are one, two")));
  EXPECT_THAT(NamesOf(kTexts), ElementsAre("one", "two"));
}

}  // namespace
}  // namespace strata
