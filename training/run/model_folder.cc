#include "training/run/model_folder.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/model/proto_json.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr char kTrainerFile[] = "trainer.json";

// For models that did not come out of our trainer.
constexpr int64_t kDefaultSeqLen = 256;
constexpr int64_t kDefaultBatchSize = 8;

}  // namespace

absl::StatusOr<std::string> FindModel(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(
        "model folder \"", path,
        "\" does not exist; want a checkpoint, or the folder of a run"));
  }
  if (fs::exists(fs::path(path) / kConfigFile, ignored)) return path;
  const absl::StatusOr<std::string> checkpoint = FindCheckpoint(path);
  if (checkpoint.ok() || !absl::IsNotFound(checkpoint.status())) {
    return checkpoint;
  }
  return absl::NotFoundError(
      absl::StrCat("\"", path, "\" holds no model; want ", kConfigFile, " and ",
                   kWeightsFile, " in it, or a run with checkpoints"));
}

absl::Status LoadWeights(const std::string& folder, const ModelConfig& config,
                         StateStore& state, std::vector<UnusedTensor>* unused) {
  return LoadModelWeights(folder, config, state, unused);
}

absl::StatusOr<TrainConfig> LoadTrainConfig(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kTrainerFile);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok() || !json->is_object() || !json->contains("train")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     " is no trainer state: want a JSON object with the "
                     "training config under \"train\""));
  }
  absl::StatusOr<TrainConfig> config =
      TrainConfigFromJson(json->at("train").dump());
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  return config;
}

absl::StatusOr<TrainConfig> TrainConfigOrDefault(const std::string& folder,
                                                 const ModelConfig& model) {
  absl::StatusOr<TrainConfig> train = LoadTrainConfig(folder);
  if (!absl::IsNotFound(train.status())) return train;
  ASSIGN_OR_RETURN(train, TrainPreset("demo"));
  train->set_seq_len(std::min(kDefaultSeqLen, model.max_seq_len()));
  train->set_batch_size(kDefaultBatchSize);
  return train;
}

absl::StatusOr<ValidationMetrics> EvaluateModel(
    const std::string& folder, const Corpus& corpus, int64_t tokens_per_domain,
    int num_threads, const RecordOptions& record, const RouteOptions& route) {
  ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(folder));
  ASSIGN_OR_RETURN(TrainConfig train, TrainConfigOrDefault(folder, model));
  train.set_validation_tokens(tokens_per_domain);
  ASSIGN_OR_RETURN(
      std::unique_ptr<Trainer> trainer,
      Trainer::Create(model, train, &corpus, num_threads,
                      {record.tokens, route, RoutingTraceHeader::EVALUATE}));
  RETURN_IF_ERROR(LoadWeights(folder, model, trainer->state()));
  if (record.path.empty()) return trainer->Validate();
  ASSIGN_OR_RETURN(const std::string weights_hash, HashWeights(folder));
  ASSIGN_OR_RETURN(const std::unique_ptr<RoutingRecording> recording,
                   trainer->StartRecording(record, RoutingTraceHeader::EVALUATE,
                                           weights_hash));
  ASSIGN_OR_RETURN(ValidationMetrics metrics,
                   trainer->Validate(recording.get()));
  RETURN_IF_ERROR(recording->Close());
  return metrics;
}

}  // namespace strata
