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
#include "core/checkpoint/safetensors.h"
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

}  // namespace

std::vector<std::string> ModelTensorNames(const Graph& graph) {
  std::vector<std::string> names;
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter ||
        (value.role == Role::kState && absl::EndsWith(value.name, "bias"))) {
      names.push_back(value.name);
    }
  }
  return names;
}

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
  absl::StatusOr<ModelConfig> config = ModelConfigFromJson(*text);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  return config;
}

absl::StatusOr<std::string> HashWeights(const std::string& dir) {
  ASSIGN_OR_RETURN(const MappedFile file,
                   MappedFile::Open(Path(dir, kWeightsFile)));
  return Sha256Hex(absl::string_view(file.data(), file.num_bytes()));
}

}  // namespace strata
