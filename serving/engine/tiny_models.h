// Models small enough to generate within a test, one of each kind that the
// engine serves: dense, flat, grouped by sigmoid, hierarchical, latent; and
// with the variations of public checkpoints.

#ifndef SERVING_ENGINE_TINY_MODELS_H_
#define SERVING_ENGINE_TINY_MODELS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "serving/engine/generator.h"

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

std::vector<int32_t> RandomIds(int64_t n, int seed);

// Parameters as before training, and biases that a load controller may have
// left.
template <typename T>
void FillState(const ModelConfig& config, StateStore& state) {
  InitializeParameters(config, /*seed=*/7, state);
  for (const std::string& name : state.names()) {
    if (state.role(name) == Role::kParameter) continue;
    const bool is_bias = name.find("bias") != std::string::npos;
    // A stream for each, so that biases are the same for caches of any size.
    Random random(/*seed=*/8, HashName(name));
    for (T& x : state.Get(name).span<T>()) {
      // Caches are full of what another text left.
      x = static_cast<T>((is_bias ? 0.1 : 1.0) * random.Normal());
    }
  }
}

// A model ready to generate.
class Model {
 public:
  explicit Model(const ModelConfig& config, int num_threads = 2);

  Generator* operator->() { return generator_.get(); }
  StateStore& state() { return state_; }
  CpuBackend& backend() { return backend_; }

 private:
  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Generator> generator_;
};

struct Generated {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
};

// What `model` makes of `prompt`, with the logits that each token was drawn
// from.
Generated Continue(Model& model, absl::Span<const int32_t> prompt,
                   int64_t max_new_tokens, uint64_t seed = 0);

}  // namespace strata

#endif  // SERVING_ENGINE_TINY_MODELS_H_
