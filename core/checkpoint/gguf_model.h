// A model from a GGUF file of one of the architectures that we know: "llama"
// (Mixtral too), "qwen3moe", "deepseek2".
//
// Tensors get the public checkpoints' names. In "llama" files the rows of
// queries and keys lie as rotary pairs and are read as halves; experts are
// views into the stacks; attn_k_b and attn_v_b become one kv_b_proj.

#ifndef CORE_CHECKPOINT_GGUF_MODEL_H_
#define CORE_CHECKPOINT_GGUF_MODEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/model_source.h"

namespace strata {

// Returns the errors of ParseGguf; INVALID_ARGUMENT if a key is missing or
// wrong; UNIMPLEMENTED for another architecture or rotary scaling.
absl::StatusOr<ModelSource> OpenGgufModel(const std::string& path);

// The same of a file whose content is `bytes`, which must outlive it.
absl::StatusOr<ModelSource> ParseGgufModel(const std::string& path,
                                           absl::string_view bytes);

}  // namespace strata

#endif  // CORE_CHECKPOINT_GGUF_MODEL_H_
