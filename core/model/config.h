// Model configs: presets, checks, and their JSON form (config.json).

#ifndef CORE_MODEL_CONFIG_H_
#define CORE_MODEL_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"

namespace strata {

// A preset of core/model/presets.
//
// Returns NOT_FOUND, with the names there are, if `name` is none of them.
absl::StatusOr<ModelConfig> ModelPreset(absl::string_view name);
std::vector<std::string> ModelPresetNames();

// Whether a model can be built: every dimension fits the others, and none is
// so large that a size could overflow 64 bits.
//
// Returns INVALID_ARGUMENT with the field's path, its value and what is wanted.
absl::Status Validate(const ModelConfig& config);

// config.json as Hugging Face lays it out, with our fields:
//
//   { "architectures": ["StrataForCausalLM"], "model_type": "strata",
//     "name": "demo", "vocab_size": 256, ... }
std::string ToJson(const ModelConfig& config);

// A valid config from config.json's text, which may be any bytes.
//
// Returns INVALID_ARGUMENT if it is not JSON, if the architecture is another,
// if a field is unknown or of the wrong type, or if the config is not valid.
absl::StatusOr<ModelConfig> ModelConfigFromJson(absl::string_view text);

}  // namespace strata

#endif  // CORE_MODEL_CONFIG_H_
