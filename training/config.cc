#include "training/config.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/model/field_checks.h"
#include "core/model/preset.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"
#include "training/config.pb.h"
#include "training/preset_texts.h"

namespace strata {
namespace {

// Rows of a micro-batch are counted in 32 bits; the other bounds keep products
// within 64.
constexpr int64_t kMaxTokens = 1 << 28;  // Of a micro-batch.
constexpr int64_t kMaxSteps = 1 << 30;
constexpr int64_t kMaxSeqLen = 1 << 24;
constexpr int64_t kMaxBatch = 1 << 20;
constexpr int64_t kMaxValidationTokens = int64_t{1} << 40;

}  // namespace

absl::StatusOr<TrainConfig> TrainPreset(absl::string_view name) {
  TrainConfig config;
  RETURN_IF_ERROR(ReadPreset(TrainPresetTexts(), "training", name, config));
  return config;
}

std::vector<std::string> TrainPresetNames() {
  return NamesOf(TrainPresetTexts());
}

absl::Status Validate(const TrainConfig& config) {
  FieldChecks checks;
  checks.Between("steps", config.steps(), 1, kMaxSteps);
  checks.Between("seq_len", config.seq_len(), 1, kMaxSeqLen);
  checks.Between("batch_size", config.batch_size(), 1, kMaxBatch);
  if (checks.ok()) {  // Else the product may overflow.
    const int64_t tokens = config.seq_len() * config.batch_size();
    checks.Want("seq_len * batch_size", tokens, tokens <= kMaxTokens,
                absl::StrCat("at most ", kMaxTokens));
  }
  checks.Between("accumulation", config.accumulation(), 1, kMaxBatch);
  checks.Want("learning_rate", config.learning_rate(),
              config.learning_rate() > 0 && config.learning_rate() <= 1e3,
              "more than 0, at most 1000");
  checks.Want("min_learning_rate_ratio", config.min_learning_rate_ratio(),
              config.min_learning_rate_ratio() >= 0 &&
                  config.min_learning_rate_ratio() <= 1,
              "0 to 1");
  checks.Between("warmup_steps", config.warmup_steps(), 0, kMaxSteps);
  checks.ShareBelowOne("beta1", config.beta1());
  checks.ShareBelowOne("beta2", config.beta2());
  checks.Want("adam_eps", config.adam_eps(),
              config.adam_eps() > 0 && config.adam_eps() < 1,
              "more than 0, less than 1");
  checks.NotNegative("weight_decay", config.weight_decay());
  checks.Want("max_grad_norm", config.max_grad_norm(),
              config.max_grad_norm() > 0 && config.max_grad_norm() <= 1e9,
              "more than 0, at most 1e9");
  checks.Between("validation_interval", config.validation_interval(), 0,
                 kMaxSteps);
  checks.Between("validation_tokens", config.validation_tokens(), 1,
                 kMaxValidationTokens);
  checks.Between("checkpoint_interval", config.checkpoint_interval(), 0,
                 kMaxSteps);
  checks.Between("checkpoints_to_keep", config.checkpoints_to_keep(), 0,
                 kMaxSteps);
  return checks.status();
}

absl::Status Validate(const TrainConfig& config, const ModelConfig& model) {
  RETURN_IF_ERROR(Validate(config));
  FieldChecks checks;
  checks.Want(
      "seq_len", config.seq_len(), config.seq_len() <= model.max_seq_len(),
      absl::StrCat("at most the model's max_seq_len, ", model.max_seq_len()));
  return checks.status();
}

std::string ToJson(const TrainConfig& config) {
  return JsonText(MessageToJson(config));
}

absl::StatusOr<TrainConfig> TrainConfigFromJson(absl::string_view text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  TrainConfig config;
  RETURN_IF_ERROR(MessageFromJson(json, config));
  RETURN_IF_ERROR(Validate(config));
  return config;
}

}  // namespace strata
