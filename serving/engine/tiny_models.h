// Models small enough to generate within a test, of core/model/tiny_configs.h.

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
#include "core/model/tiny_configs.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "serving/engine/generator.h"

namespace strata {

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
    if (state.Get(name).dtype == DType::kU8) {  // A cache in fewer bits.
      for (uint8_t& x : state.Get(name).template span<uint8_t>()) {
        x = static_cast<uint8_t>(256 * random.Uniform());
      }
      continue;
    }
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
