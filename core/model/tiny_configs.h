// Models small enough to run within a test, one of each kind: dense, flat,
// grouped by sigmoid, hierarchical, latent; and with the variations of public
// checkpoints.

#ifndef CORE_MODEL_TINY_CONFIGS_H_
#define CORE_MODEL_TINY_CONFIGS_H_

#include <cstdint>

#include "core/model/config.pb.h"

namespace strata {

constexpr int64_t kVocab = 50;
constexpr int64_t kMaxSeqLen = 96;

// What all the models share is Dense(); its widths are no multiples of a
// vector's.
ModelConfig Dense();
ModelConfig Flat();
ModelConfig SigmoidGroups();
// About half of the tokens leave after each tier.
ModelConfig Hierarchical();
ModelConfig Latent();
// What public checkpoints have beyond: biases, a window, normalised queries and
// keys, a dense layer after a sparse one, Llama 3's rotary scaling.
ModelConfig Windowed();
// Dense() with dynamic rotary scaling: prompts of more than 32 tokens turn by
// another theta, one for each length.
ModelConfig Dynamic();
// Latent() as in DeepSeek-V2: no rank of queries, pairs that turn,
// YaRN with a temperature, groups by their best.
ModelConfig LatentYarn();
// SigmoidGroups with latent attention and a module for multi-token prediction,
// as DeepSeek-V3.
ModelConfig Predicting();

}  // namespace strata

#endif  // CORE_MODEL_TINY_CONFIGS_H_
