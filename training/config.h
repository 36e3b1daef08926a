// Training configs: presets, checks, and their JSON form.

#ifndef TRAINING_CONFIG_H_
#define TRAINING_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"
#include "training/config.pb.h"

namespace strata {

// A preset of training/presets, by the name of the model it is for.
//
// Returns NOT_FOUND, with the names there are, if `name` is none of them.
absl::StatusOr<TrainConfig> TrainPreset(absl::string_view name);
std::vector<std::string> TrainPresetNames();

// Whether a training can run. A warm-up longer than the run is no error.
//
// Returns INVALID_ARGUMENT with the field's path, its value and what is wanted.
absl::Status Validate(const TrainConfig& config);

// And whether it can run on this model, which must be valid itself.
absl::Status Validate(const TrainConfig& config, const ModelConfig& model);

// One JSON object of the proto's fields.
std::string ToJson(const TrainConfig& config);

// A valid config from the JSON text, which may be any bytes.
//
// Returns INVALID_ARGUMENT if it is not JSON, if a field is unknown or of the
// wrong type, or if the config is not valid.
absl::StatusOr<TrainConfig> TrainConfigFromJson(absl::string_view text);

}  // namespace strata

#endif  // TRAINING_CONFIG_H_
