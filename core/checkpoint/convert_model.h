// Models from one layout on disk to another.
//
//   public checkpoint  <-->  ours (fused tensors, config.json of our own)
//   GGUF, llama2.c      -->  either
//
// Numbers keep their dtype and bytes, fp8 weights their scales, where all parts
// of one of our tensors have one dtype; else, and from GGUF's blocks, they
// become F32. What a public checkpoint holds beyond its model stays beside ours
// (unused.safetensors, hf_config.json, tokenizer files), so that the way back
// gives every tensor and the config as they were.

#ifndef CORE_CHECKPOINT_CONVERT_MODEL_H_
#define CORE_CHECKPOINT_CONVERT_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_source.h"

namespace strata {

enum class ModelFormat { kStrata, kHuggingFace };

struct ConvertOptions {
  ModelFormat to = ModelFormat::kStrata;
  int64_t max_shard_bytes = 5'000'000'000;
  bool replace = false;  // A folder that is there already.
  // Files to be written beside, by name: these go before what the source's
  // folder has of that name.
  std::map<std::string, std::string> files;
  bool copies_tokenizer = true;  // Of the source's folder.
  std::function<void(int64_t done_bytes, int64_t all_bytes)> progress;
};

struct ConvertResult {
  int64_t num_tensors = 0;
  int64_t num_bytes = 0;
  std::vector<UnusedTensor> unused;
};

// Writes `source` as the folder `folder`, which appears whole or not at all.
// Streams: a tensor's bytes are held in pieces.
//
// Returns ALREADY_EXISTS if there is something at `folder`; UNIMPLEMENTED if no
// public architecture is like the model; INVALID_ARGUMENT with the names if
// tensors are missing, of a wrong shape or dtype, or hold a NaN or an infinity.
absl::StatusOr<ConvertResult> ConvertModel(const ModelSource& source,
                                           const std::string& folder,
                                           const ConvertOptions& options);

}  // namespace strata

#endif  // CORE_CHECKPOINT_CONVERT_MODEL_H_
