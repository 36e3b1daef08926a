// A model on disk: a folder with config.json and model.safetensors, in the
// layout that Hugging Face's loaders know.

#ifndef CORE_CHECKPOINT_MODEL_FILES_H_
#define CORE_CHECKPOINT_MODEL_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/model_tensors.h"
#include "core/checkpoint/weight_files.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"

namespace strata {

inline constexpr char kConfigFile[] = "config.json";

// Writes `names` of `state` to <staged>/<file> as safetensors.
absl::Status SaveTensors(const StateStore& state,
                         const std::vector<std::string>& names,
                         const std::string& file, StagedDirectory& staged);

// Fills `names` of `state` from a safetensors file.
//
// Returns INVALID_ARGUMENT that names file and tensor if one is missing, has
// another dtype or shape, or if the file holds one that is not in `names`.
absl::Status LoadTensors(const std::string& path,
                         const std::vector<std::string>& names,
                         StateStore& state);

// Reads and validates <dir>/config.json, ours or a public one
// (core/checkpoint/hf_config.h). Of a public checkpoint, mtp is set if its
// weights hold the whole module.
//
// Returns NOT_FOUND if `dir` holds no checkpoint, saying what was expected.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// SHA-256 of <dir>/model.safetensors, in hexadecimal; of shards, that of their
// sums one after another.
absl::StatusOr<std::string> HashWeights(const std::string& dir);

}  // namespace strata

#endif  // CORE_CHECKPOINT_MODEL_FILES_H_
