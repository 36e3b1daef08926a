#include "training/config.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/model/set_field.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "training/config.pb.h"

namespace strata {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(TrainPresetTest, AreValidForTheModelsTheyAreNamedAfter) {
  for (const std::string& name : TrainPresetNames()) {
    const absl::StatusOr<TrainConfig> config = TrainPreset(name);
    const absl::StatusOr<ModelConfig> model = ModelPreset(name);

    ASSERT_THAT(config, IsOk());
    ASSERT_THAT(model, IsOk());
    EXPECT_THAT(Validate(*config, *model), IsOk()) << name;
  }
}

TEST(TrainPresetTest, ListsTheKnownOnesIfItKnowsNoSuch) {
  EXPECT_THAT(TrainPreset("huge"),
              StatusIs(absl::StatusCode::kNotFound,
                       "no training preset \"huge\"; there are demo, small, "
                       "strata-1b"));
}

TEST(ValidateTrainConfigTest, NamesFieldAndValueAndWhatIsWanted) {
  const std::pair<const char*, const char*> cases[] = {
      {"steps=0", "steps is 0; want 1 to"},
      {"seq_len=0", "seq_len is 0; want 1 to"},
      {"batch_size=0", "batch_size is 0; want 1 to"},
      {"batch_size=1048577", "batch_size is 1048577; want 1 to 1048576"},
      {"accumulation=0", "accumulation is 0; want 1 to"},
      {"learning_rate=0", "learning_rate is 0; want more than 0"},
      {"min_learning_rate_ratio=2", "min_learning_rate_ratio is 2; want 0 to"},
      {"warmup_steps=-1", "warmup_steps is -1; want 0 to"},
      {"beta1=1", "beta1 is 1; want at least 0, less than 1"},
      {"beta2=-0.5", "beta2 is -0.5; want at least 0, less than 1"},
      {"adam_eps=0", "adam_eps is 0; want more than 0"},
      {"weight_decay=-1", "weight_decay is -1; want at least 0"},
      {"max_grad_norm=0", "max_grad_norm is 0; want more than 0"},
      {"validation_interval=-1", "validation_interval is -1; want 0 to"},
      {"validation_tokens=0", "validation_tokens is 0; want 1 to"},
      {"checkpoint_interval=-1", "checkpoint_interval is -1; want 0 to"},
      {"checkpoints_to_keep=-1", "checkpoints_to_keep is -1; want 0 to"},
  };
  for (const auto& [set, message] : cases) {
    absl::StatusOr<TrainConfig> config = TrainPreset("demo");
    ASSERT_THAT(config, IsOk());
    ASSERT_THAT(SetField(*config, set), IsOk());
    EXPECT_THAT(Validate(*config), StatusIs(kInvalid, StartsWith(message)));
  }
}

TEST(ValidateTrainConfigTest, BoundsTheTokensOfAMicroBatch) {
  absl::StatusOr<TrainConfig> config = TrainPreset("demo");
  ASSERT_THAT(config, IsOk());
  config->set_batch_size(1 << 20);
  config->set_seq_len(1 << 8);
  EXPECT_THAT(Validate(*config), IsOk());

  config->set_seq_len((1 << 8) + 1);
  EXPECT_THAT(Validate(*config),
              StatusIs(kInvalid, HasSubstr("seq_len * batch_size is 2694")));
}

TEST(ValidateTrainConfigTest, WantsSequencesThatTheModelCanTake) {
  absl::StatusOr<TrainConfig> config = TrainPreset("demo");
  const absl::StatusOr<ModelConfig> model = ModelPreset("demo");
  ASSERT_THAT(config, IsOk());
  ASSERT_THAT(model, IsOk());
  config->set_seq_len(model->max_seq_len());
  EXPECT_THAT(Validate(*config, *model), IsOk());

  config->set_seq_len(model->max_seq_len() + 1);
  EXPECT_THAT(Validate(*config, *model),
              StatusIs(kInvalid,
                       "seq_len is 1025; want at most the model's "
                       "max_seq_len, 1024"));
}

TEST(TrainConfigJsonTest, ReadsWhatItWrites) {
  absl::StatusOr<TrainConfig> config = TrainPreset("demo");
  ASSERT_THAT(config, IsOk());
  config->set_seed(std::numeric_limits<uint64_t>::max());

  const absl::StatusOr<TrainConfig> read = TrainConfigFromJson(ToJson(*config));

  ASSERT_THAT(read, IsOk());
  EXPECT_TRUE(MessageDifferencer::Equals(*read, *config));
}

TEST(TrainConfigJsonTest, StateIsFp32UnlessBf16IsWanted) {
  absl::StatusOr<TrainConfig> config = TrainPreset("demo");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->state_precision(), TrainConfig::FP32);
  ASSERT_THAT(SetField(*config, "state_precision=BF16"), IsOk());
  EXPECT_EQ(config->state_precision(), TrainConfig::BF16);
  EXPECT_THAT(ToJson(*config), HasSubstr(R"("state_precision": "BF16")"));
  ASSERT_THAT(SetField(*config, "state_precision=FP32_HALVES"), IsOk());
  EXPECT_EQ(config->state_precision(), TrainConfig::FP32_HALVES);
  EXPECT_THAT(SetField(*config, "state_precision=FP8"),
              StatusIs(kInvalid, HasSubstr("state_precision")));
}

TEST(TrainConfigJsonTest, RefusesWhatDoesNotFit) {
  EXPECT_THAT(TrainConfigFromJson("{"),
              StatusIs(kInvalid, HasSubstr("not JSON")));
  EXPECT_THAT(TrainConfigFromJson(R"({"seed": -1})"),
              StatusIs(kInvalid, "seed is -1; want an integer of at least 0"));
  EXPECT_THAT(TrainConfigFromJson("{}"),
              StatusIs(kInvalid, HasSubstr("steps is 0")));
}

}  // namespace
}  // namespace strata
