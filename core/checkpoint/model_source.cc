#include "core/checkpoint/model_source.h"

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/llama2c.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"

namespace strata {
namespace {

absl::StatusOr<ModelSource> OpenFolder(const std::string& folder) {
  ModelSource source;
  source.folder = folder;
  ASSIGN_OR_RETURN(source.config, LoadModelConfig(folder));
  source.layout.own = !IsHfFolder(folder);
  ASSIGN_OR_RETURN(source.files, WeightFiles::Open(folder));
  source.tensors = source.files->tensors();
  std::error_code ignored;
  if (source.layout.own) {
    ASSIGN_OR_RETURN(source.layout.map, OwnWeightMap(source.config));
    SplitExperts(source.tensors, source.layout);
    const std::string kept = absl::StrCat(folder, "/", kUnusedWeightsFile);
    if (std::filesystem::exists(kept, ignored)) {
      ASSIGN_OR_RETURN(source.kept_files, WeightFiles::OpenFile(kept));
      source.kept = source.kept_files->tensors();
    }
    const std::string original = absl::StrCat(folder, "/", kOriginalConfigFile);
    if (std::filesystem::exists(original, ignored)) {
      ASSIGN_OR_RETURN(source.hf_config, ReadFile(original));
    }
  } else {
    ASSIGN_OR_RETURN(source.layout.map, HfWeightMap(source.config));
    ASSIGN_OR_RETURN(source.hf_config,
                     ReadFile(absl::StrCat(folder, "/", kConfigFile)));
  }
  return source;
}

}  // namespace

absl::StatusOr<ModelSource> OpenModelSource(const std::string& path) {
  std::error_code ignored;
  absl::StatusOr<ModelSource> source;
  if (std::filesystem::is_directory(path, ignored)) {
    source = OpenFolder(path);
  } else if (absl::EndsWith(path, ".gguf")) {
    source = OpenGgufModel(path);
  } else if (absl::EndsWith(path, ".bin")) {
    source = OpenLlama2c(path);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no model: want a folder with ", kConfigFile,
                     ", a GGUF file (.gguf) or a llama2.c file (.bin)"));
  }
  RETURN_IF_ERROR(source.status());
  source->unused = FindUnused(source->config, source->layout, source->tensors);
  if (source->layout.own && !source->unused.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor \"", source->unused[0].name,
                     "\" belongs to another model"));
  }
  return source;
}

}  // namespace strata
