// Whether a model computes what another implementation wrote down.
//
// The file is safetensors:
//   input_ids  [sequences, tokens]         I32 or I64
//   logits     [sequences, tokens, vocab]  of every token
// and, if greedy decoding is to be compared,
//   prompt     [prompts, tokens]           I32 or I64
//   greedy     [prompts, more tokens]      the prompt and what follows

#ifndef SERVING_ENGINE_EXPECTED_LOGITS_H_
#define SERVING_ENGINE_EXPECTED_LOGITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"

namespace strata {

struct ExpectedResult {
  int64_t num_logits = 0;        // Tokens whose logits were compared.
  double max_difference = 0;     // Largest absolute; NaN if one is.
  double cosine_difference = 0;  // 1 - cosine of all logits as one vector.
  // Greedy tokens after the prompts: how many there are, and how many agree
  // before the first that does not.
  int64_t num_greedy = 0;
  int64_t num_greedy_equal = 0;
};

// Logits of whole sequences without a cache (expanded latent attention), and
// greedy tokens as serving makes them (a cache, absorbed latent attention), of
// the weights in `state`.
//
// Returns INVALID_ARGUMENT, naming file and tensor, if the file does not hold
// what is above or does not fit the model.
absl::StatusOr<ExpectedResult> CompareWithExpected(const ModelConfig& config,
                                                   const std::string& path,
                                                   Backend& backend,
                                                   StateStore& state);

}  // namespace strata

#endif  // SERVING_ENGINE_EXPECTED_LOGITS_H_
