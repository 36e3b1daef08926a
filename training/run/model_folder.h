// A model on disk, for whoever evaluates it or generates from it.

#ifndef TRAINING_RUN_MODEL_FOLDER_H_
#define TRAINING_RUN_MODEL_FOLDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/checkpoint/load_model.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {

// The folder with the model: `path` itself if it has a config.json, otherwise
// the newest checkpoint of the run that `path` is.
//
// Returns NOT_FOUND if it is neither, saying what was expected.
absl::StatusOr<std::string> FindModel(const std::string& path);

// Declares the model's tensors in `state` and fills them from the folder.
//
// What a public checkpoint holds beyond goes to `unused`, if not null.
//
// Returns the errors of LoadModelWeights (core/checkpoint/load_model.h).
absl::Status LoadWeights(const std::string& folder, const ModelConfig& config,
                         StateStore& state,
                         std::vector<UnusedTensor>* unused = nullptr);

// How the model was trained, from the checkpoint's trainer.json.
//
// Returns NOT_FOUND if the folder holds a model but no trainer's state.
absl::StatusOr<TrainConfig> LoadTrainConfig(const std::string& folder);

// That or, where there is none, the demo's preset in batches of 8 sequences of
// 256 tokens, or of as many as `model` reads at most.
absl::StatusOr<TrainConfig> TrainConfigOrDefault(const std::string& folder,
                                                 const ModelConfig& model);

// Bits per byte and experts' use over at most `tokens_per_domain` of the
// validation part of `corpus`, which is in the model's tokens. Sequences are as
// long as in training, or 256 tokens where the folder does not say. Records the
// routing if `record` has a path. Experts are chosen as `route` says; a trace
// that is replayed may be one of other weights.
absl::StatusOr<ValidationMetrics> EvaluateModel(
    const std::string& folder, const Corpus& corpus, int64_t tokens_per_domain,
    int num_threads, const RecordOptions& record = {},
    const RouteOptions& route = {});

}  // namespace strata

#endif  // TRAINING_RUN_MODEL_FOLDER_H_
