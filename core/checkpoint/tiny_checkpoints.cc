#include "core/checkpoint/tiny_checkpoints.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// A multiple of 1/8 in [-7/8, 7/8]: three bits of mantissa hold it.
template <typename Rng>
float SmallNumber(Rng& rng) {
  return static_cast<float>(static_cast<int>(rng() % 15) - 7) / 8;
}

template <typename T>
void Append(T value, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Of numbers that the dtype holds exactly.
void AppendNumber(DType dtype, float value, std::string& bytes) {
  const uint32_t bits = Bits(value);
  const uint32_t sign = bits >> 31;
  const int exponent = static_cast<int>(bits >> 23 & 255) - 127;
  const bool zero = value == 0;
  switch (dtype) {
    case DType::kF32:
      return Append(value, bytes);
    case DType::kBF16:
      return Append(static_cast<uint16_t>(bits >> 16), bytes);
    case DType::kF16:
      return Append(
          static_cast<uint16_t>(
              sign << 15 |
              (zero ? 0 : (exponent + 15) << 10 | (bits >> 13 & 1023))),
          bytes);
    case DType::kF8E4M3:
      return Append(
          static_cast<uint8_t>(
              sign << 7 | (zero ? 0 : (exponent + 7) << 3 | (bits >> 20 & 7))),
          bytes);
    default:
      ADD_FAILURE() << "no numbers of " << Name(dtype);
  }
}

bool IsQuantised(const std::string& name, const Shape& shape) {
  return shape.size() == 2 && absl::StartsWith(name, "model.layers.") &&
         !absl::EndsWith(name, "gate.weight");
}

}  // namespace

const std::vector<TinyConfig>& TinyConfigs() {
  static const auto* const kConfigs = new std::vector<TinyConfig>{
      {"llama", R"({"architectures": ["LlamaForCausalLM"],
        "model_type": "llama", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "attention_bias": true, "mlp_bias": true,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "llama3",
          "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}})"},
      {"llama_tied", R"({"architectures": ["LlamaForCausalLM"],
        "model_type": "llama", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "tie_word_embeddings": true,
        "max_position_embeddings": 16, "rope_theta": 10000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}})"},
      {"mixtral", R"({"architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": null,
        "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 64, "sliding_window": 5,
        "rope_theta": 1000000.0})"},
      {"qwen3_moe", R"({"architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "moe_intermediate_size": 12,
        "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 10, "num_experts": 6,
        "num_experts_per_tok": 2, "norm_topk_prob": false,
        "decoder_sparse_step": 2, "mlp_only_layers": [3],
        "attention_bias": true, "max_position_embeddings": 64,
        "rope_theta": 10000.0, "sliding_window": 4,
        "use_sliding_window": false,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0}})"},
      {"deepseek_v2", R"({"architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "moe_intermediate_size": 12,
        "num_hidden_layers": 3, "num_attention_heads": 4, "q_lora_rank": null,
        "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
        "v_head_dim": 5, "n_routed_experts": 8, "n_shared_experts": 2,
        "num_experts_per_tok": 2, "topk_method": "group_limited_greedy",
        "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
        "routed_scaling_factor": 16.0, "max_position_embeddings": 64,
        "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 4,
          "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32,
          "beta_slow": 1, "original_max_position_embeddings": 16}})"},
      {"deepseek_v3", R"({"architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "moe_intermediate_size": 12,
        "num_hidden_layers": 3, "num_attention_heads": 4, "q_lora_rank": 12,
        "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
        "v_head_dim": 5, "n_routed_experts": 8, "n_shared_experts": 1,
        "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
        "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
        "norm_topk_prob": true, "max_position_embeddings": 64,
        "attention_bias": true, "num_nextn_predict_layers": 1,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})"},
      // Blocks of 8 x 16, which divide none of the sizes.
      {"deepseek_v3_fp8", R"({"architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 20, "moe_intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "q_lora_rank": 12,
        "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
        "v_head_dim": 5, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "max_position_embeddings": 64,
        "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
          "quant_method": "fp8", "weight_block_size": [8, 16]}})"},
  };
  return *kConfigs;
}

std::string TinyConfigText(const std::string& name) {
  for (const TinyConfig& config : TinyConfigs()) {
    if (config.name == name) return config.json;
  }
  ADD_FAILURE() << "no tiny config " << name;
  return "";
}

TinyTensors RandomWeights(const std::string& config_text, DType dtype) {
  std::mt19937 rng(7);
  TinyTensors tensors;
  const auto config = ModelConfigFromHf(config_text);
  EXPECT_THAT(config, IsOk());
  const auto map = HfWeightMap(*config);
  EXPECT_THAT(map, IsOk());
  const bool fp8 = dtype == DType::kF8E4M3;
  for (const WeightParts& entry : *map) {
    for (const std::string& name : entry.parts) {
      TinyTensor tensor;
      tensor.shape = entry.part_shape;
      const bool quantised = fp8 && IsQuantised(name, tensor.shape);
      tensor.dtype = quantised ? dtype : fp8 ? DType::kBF16 : dtype;
      // Gains near 1, so that no layer loses its input.
      const float shift =
          tensor.shape.size() == 1 && absl::EndsWith(name, "norm.weight") ? 1
                                                                          : 0;
      for (int64_t i = 0; i < NumElements(tensor.shape); ++i) {
        AppendNumber(tensor.dtype,
                     shift + SmallNumber(rng) * (shift > 0 ? 0.5f : 1.0f),
                     tensor.bytes);
      }
      if (quantised) {
        const int64_t rows = config->fp8_block_rows();
        const int64_t columns = config->fp8_block_columns();
        std::vector<float> scale;
        const Shape shape = {(tensor.shape[0] + rows - 1) / rows,
                             (tensor.shape[1] + columns - 1) / columns};
        for (int64_t i = 0; i < NumElements(shape); ++i) {
          scale.push_back(0.25f + static_cast<float>(rng() % 100) / 64);
        }
        tensors[absl::StrCat(name, "_scale_inv")] = FloatTensor(shape, scale);
      }
      tensors[name] = std::move(tensor);
    }
  }
  return tensors;
}

void WriteCheckpoint(const std::string& folder, const std::string& config_text,
                     const TinyTensors& tensors, int64_t max_shard_bytes) {
  ASSERT_THAT(MakeFolders(folder), IsOk());
  ASSERT_THAT(
      WriteFileAtomically(absl::StrCat(folder, "/config.json"), config_text),
      IsOk());
  std::vector<TensorToWrite> writes;
  for (const auto& [name, tensor] : tensors) {
    const std::string bytes = tensor.bytes;
    writes.push_back(
        {name, tensor.dtype, tensor.shape,
         [bytes](TensorToWrite::Append append) { return append(bytes); }});
  }
  WriteOptions options;
  options.max_shard_bytes = max_shard_bytes;
  ASSERT_THAT(WriteWeights(folder, writes, options), IsOk());
}

TinyTensor FloatTensor(const Shape& shape, const std::vector<float>& numbers) {
  TinyTensor tensor;
  tensor.shape = shape;
  for (const float number : numbers) Append(number, tensor.bytes);
  return tensor;
}

}  // namespace strata
