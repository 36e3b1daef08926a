#include "core/checkpoint/model_files.h"

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/mapped_file.h"
#include "core/base/sha256.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

std::string Path(const std::string& dir, const std::string& file) {
  return absl::StrCat(dir, "/", file);
}

std::string TypeOf(const TensorView& tensor) {
  return absl::StrCat(Name(tensor.dtype), ToString(tensor.shape));
}

// Whether `file` holds `names` as `state` wants them, and nothing else.
absl::Status CheckTensors(const SafetensorsFile& file,
                          const std::vector<std::string>& names,
                          const StateStore& state) {
  for (const std::string& name : names) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": tensor \"", name, "\" is missing; want ",
                       TypeOf(state.Get(name))));
    }
    const TensorView& got = found->second;
    const TensorView& want = state.Get(name);
    if (got.dtype != want.dtype || got.shape != want.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": tensor \"", name, "\" is ", TypeOf(got),
                       "; want ", TypeOf(want)));
    }
  }
  const std::set<std::string> wanted(names.begin(), names.end());
  for (const auto& [name, tensor] : file.tensors()) {
    if (wanted.count(name) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": tensor \"", name, "\" (", TypeOf(tensor),
        ") belongs to another model; this one has no tensor of that name"));
  }
  return absl::OkStatus();
}

// Whether the weights of a public checkpoint hold a whole module for
// multi-token prediction, which its config says nothing certain about.
bool HasPredictionModule(const std::string& dir, ModelConfig config) {
  if (!config.attention().has_latent() || config.mtp().num_layers() > 0) {
    return false;
  }
  const absl::StatusOr<WeightFiles> files = WeightFiles::Open(dir);
  const std::string prefix =
      absl::StrCat("model.layers.", config.num_layers(), ".");
  if (!files.ok() ||
      files->tensors().count(absl::StrCat(prefix, "eh_proj.weight")) == 0) {
    return false;
  }
  config.mutable_mtp()->set_num_layers(1);
  const absl::StatusOr<std::vector<WeightParts>> map = HfWeightMap(config);
  if (!map.ok()) return false;
  for (const WeightParts& entry : *map) {
    if (!absl::StartsWith(entry.name, prefix)) continue;
    for (const std::string& part : entry.parts) {
      const auto found = files->tensors().find(part);
      if (found == files->tensors().end() ||
          found->second.view.shape != entry.part_shape) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

absl::Status SaveTensors(const StateStore& state,
                         const std::vector<std::string>& names,
                         const std::string& file, StagedDirectory& staged) {
  std::vector<NamedTensor> tensors;
  for (const std::string& name : names) {
    tensors.push_back({name, state.Get(name)});
  }
  // Hugging Face's loaders refuse a file that does not say so.
  return WriteSafetensors(Path(staged.path(), file), tensors,
                          {{"format", "pt"}});
}

absl::Status LoadTensors(const std::string& path,
                         const std::vector<std::string>& names,
                         StateStore& state) {
  ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  RETURN_IF_ERROR(CheckTensors(file, names, state));
  for (const std::string& name : names) {
    const TensorView& to = state.Get(name);
    if (to.num_bytes() == 0) continue;
    std::memcpy(to.data, file.tensors().at(name).data, to.num_bytes());
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  const std::string path = Path(dir, kConfigFile);
  const absl::StatusOr<std::string> text = ReadFile(path);
  // A part of the path that is a file is a FAILED_PRECONDITION.
  if (absl::IsNotFound(text.status()) ||
      absl::IsFailedPrecondition(text.status())) {
    return absl::NotFoundError(absl::StrCat(
        dir, " is no checkpoint: there is no ", path,
        "; want a folder that holds ", kConfigFile, " and ", kWeightsFile));
  }
  RETURN_IF_ERROR(text.status());
  const std::string architecture = ArchitectureName(*text);
  absl::StatusOr<ModelConfig> config =
      architecture.empty() || architecture == "StrataForCausalLM"
          ? ModelConfigFromJson(*text)
          : ModelConfigFromHf(*text);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  if (HasPredictionModule(dir, *config)) {
    config->mutable_mtp()->set_num_layers(1);
  }
  return config;
}

absl::StatusOr<std::string> HashWeights(const std::string& dir) {
  ASSIGN_OR_RETURN(const WeightFiles weights, WeightFiles::Open(dir));
  std::string sums;
  for (const std::string& path : weights.paths()) {
    ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
    absl::StrAppend(&sums, Sha256Hex(file.bytes()));
  }
  return weights.paths().size() == 1 ? sums : Sha256Hex(sums);
}

}  // namespace strata
