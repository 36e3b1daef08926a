// config.json of the public architectures, as transformers writes it, to and
// from our ModelConfig (docs/checkpoints.md).
//
//   LlamaForCausalLM  MixtralForCausalLM  Qwen3MoeForCausalLM
//   DeepseekV2ForCausalLM  DeepseekV3ForCausalLM
//
// A key that is absent or null has transformers' default. Keys that change
// nothing of what the model computes are ignored; a value that asks for what we
// do not compute is an error.

#ifndef CORE_CHECKPOINT_HF_CONFIG_H_
#define CORE_CHECKPOINT_HF_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"

namespace strata {

enum class HfArchitecture {
  kLlama,
  kMixtral,
  kQwen3Moe,
  kDeepseekV2,
  kDeepseekV3
};

// "LlamaForCausalLM", ...
absl::string_view Name(HfArchitecture architecture);

// A valid config from config.json's text, which may be any bytes.
//
// Returns INVALID_ARGUMENT if it is no JSON object, if a key has the wrong type
// or value, if what it describes cannot be; and UNIMPLEMENTED, with what is
// supported, for another architecture, activation, rotary scaling, routing or
// quantisation.
absl::StatusOr<ModelConfig> ModelConfigFromHf(absl::string_view text);

// The one of config.json's "architectures"; empty if there is not exactly one.
std::string ArchitectureName(absl::string_view text);

// The architecture that computes what `config`, which must be valid, says.
//
// Returns UNIMPLEMENTED, with what stands in the way, if there is none.
absl::StatusOr<HfArchitecture> HfArchitectureOf(const ModelConfig& config);

// config.json's text for it. `dtype` is what most weights are stored in:
// "float32", "bfloat16", "float16".
//
// Returns the errors of HfArchitectureOf.
absl::StatusOr<std::string> HfConfigText(const ModelConfig& config,
                                         absl::string_view dtype);

}  // namespace strata

#endif  // CORE_CHECKPOINT_HF_CONFIG_H_
