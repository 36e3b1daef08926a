// A model to be converted or loaded, whatever it lies in: our folder, a public
// checkpoint's, a GGUF file, a llama2.c file.

#ifndef CORE_CHECKPOINT_MODEL_SOURCE_H_
#define CORE_CHECKPOINT_MODEL_SOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/mapped_file.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.pb.h"

namespace strata {

// The config.json that a converted public checkpoint came with, and the tensors
// of its files that the model does not use: what is needed for the way back.
inline constexpr char kOriginalConfigFile[] = "hf_config.json";
inline constexpr char kUnusedWeightsFile[] = "unused.safetensors";

struct ModelSource {
  ModelConfig config;
  WeightLayout layout;    // Where our tensors lie in `tensors`.
  StoredTensors tensors;  // Those of `unused` too.
  std::vector<UnusedTensor> unused;
  StoredTensors kept;     // Of kUnusedWeightsFile.
  std::string hf_config;  // The public config.json, or "".
  std::string folder;     // What else is in it may be copied; "" if a file.

  // What the tensors' memory belongs to.
  std::optional<WeightFiles> files;
  std::optional<WeightFiles> kept_files;
  std::optional<MappedFile> mapping;
  std::vector<std::unique_ptr<float[]>> copies;
};

// Opens a folder with a config.json, or a file that ends in .gguf or .bin.
//
// Returns INVALID_ARGUMENT or UNIMPLEMENTED, naming the file and what is wrong
// or not supported with it.
absl::StatusOr<ModelSource> OpenModelSource(const std::string& path);

}  // namespace strata

#endif  // CORE_CHECKPOINT_MODEL_SOURCE_H_
