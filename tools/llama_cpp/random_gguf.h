// A GGUF file of random weights, as llama.cpp and core/checkpoint/gguf_model.h
// load it: a mixture of experts of the architecture qwen3moe.

#ifndef TOOLS_LLAMA_CPP_RANDOM_GGUF_H_
#define TOOLS_LLAMA_CPP_RANDOM_GGUF_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"

namespace strata {

// How matrices are stored. The output projection is Q8_0 beside Q4_0, the
// embedding always F16; gates and norms are F32.
enum class GgufWeights { kF16, kQ8_0, kQ4_0 };

struct RandomGguf {
  int64_t num_weights = 0;
  int64_t file_bytes = 0;
  // Weights that one token reads: of experts k, of the embedding a row.
  double bytes_per_token = 0;
};

// Writes the model to `path`, with a vocabulary of made-up words. Numbers have
// a variance of 1 / columns, gains are 1.
//
// Returns INVALID_ARGUMENT for a model that is no flat mixture of experts with
// grouped-query attention and normalised queries and keys, and the errors of
// writing.
absl::StatusOr<RandomGguf> WriteRandomGguf(const ModelConfig& config,
                                           GgufWeights weights,
                                           const std::string& path);

}  // namespace strata

#endif  // TOOLS_LLAMA_CPP_RANDOM_GGUF_H_
