// The way back of hf_config.cc: which architecture a config is, and its text.

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_config.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

// What DeepSeek's code gives the norms of latents, whatever rms_norm_eps is.
constexpr double kLatentNormEps = 1e-6;

nlohmann::ordered_json RopeParameters(const AttentionConfig& attention) {
  const RopeScaling& s = attention.rope_scaling();
  nlohmann::ordered_json rope;
  rope["rope_theta"] = attention.rope_theta();
  rope["rope_type"] = "default";
  if (s.type() == RopeScaling::NONE) return rope;
  rope["factor"] = s.factor();
  if (s.mscale_all_dim() != 0) rope["mscale_all_dim"] = s.mscale_all_dim();
  if (s.type() == RopeScaling::LINEAR) rope["rope_type"] = "linear";
  if (s.type() == RopeScaling::DYNAMIC) rope["rope_type"] = "dynamic";
  if (s.type() == RopeScaling::YARN) {
    rope["rope_type"] = "yarn";
    rope["original_max_position_embeddings"] = s.original_max_seq_len();
    rope["beta_fast"] = s.beta_fast();
    rope["beta_slow"] = s.beta_slow();
    if (s.exact_ramp()) rope["truncate"] = false;
    if (s.mscale() != 0) rope["mscale"] = s.mscale();
    if (s.attention_factor() != 0) {
      rope["attention_factor"] = s.attention_factor();
    }
  }
  if (s.type() == RopeScaling::LLAMA3) {
    rope["rope_type"] = "llama3";
    rope["original_max_position_embeddings"] = s.original_max_seq_len();
    rope["low_freq_factor"] = s.low_freq_factor();
    rope["high_freq_factor"] = s.high_freq_factor();
  }
  return rope;
}

void WriteGroupedQuery(const ModelConfig& config,
                       nlohmann::ordered_json& json) {
  const AttentionConfig& attention = config.attention();
  json["num_key_value_heads"] = attention.num_kv_heads();
  json["head_dim"] = attention.head_dim();
}

void WriteQwen3Moe(const ModelConfig& config, nlohmann::ordered_json& json) {
  WriteGroupedQuery(config, json);
  json["attention_bias"] = config.attention().bias();
  json["intermediate_size"] = config.dense_width();
  json["use_sliding_window"] = config.attention().window() > 0;
  if (config.attention().window() > 0) {
    json["sliding_window"] = config.attention().window();
  }
  json["moe_intermediate_size"] = config.moe().expert_width();
  json["num_experts"] = config.moe().flat().num_experts();
  json["num_experts_per_tok"] = config.moe().flat().k();
  json["norm_topk_prob"] = config.moe().flat().normalize();
  json["decoder_sparse_step"] = 1;
  nlohmann::ordered_json dense = nlohmann::ordered_json::array();
  for (int64_t layer = 0; layer < config.num_layers(); ++layer) {
    if (IsDenseLayer(config, layer)) dense.push_back(layer);
  }
  json["mlp_only_layers"] = dense;
}

void WriteDeepseek(const ModelConfig& config, bool v3,
                   nlohmann::ordered_json& json) {
  const AttentionConfig& attention = config.attention();
  const LatentAttentionConfig& latent = attention.latent();
  const FlatRouterConfig& flat = config.moe().flat();
  const int64_t width = config.moe().expert_width();
  json["num_key_value_heads"] = attention.num_heads();
  json["attention_bias"] = attention.bias();
  if (latent.q_rank() > 0) {
    json["q_lora_rank"] = latent.q_rank();
  } else {
    json["q_lora_rank"] = nullptr;
  }
  json["kv_lora_rank"] = latent.kv_rank();
  json["qk_nope_head_dim"] = latent.nope_dim();
  json["qk_rope_head_dim"] = latent.rope_dim();
  json["head_dim"] = latent.rope_dim();
  json["qk_head_dim"] = latent.nope_dim() + latent.rope_dim();
  json["v_head_dim"] = latent.value_dim();
  if (v3) json["rope_interleave"] = attention.rope_interleaved();
  json["intermediate_size"] = config.dense_width();
  json["first_k_dense_replace"] = config.num_dense_layers();
  json["moe_layer_freq"] = 1;
  json["moe_intermediate_size"] = width;
  json["n_routed_experts"] = flat.num_experts();
  json["num_experts_per_tok"] = flat.k();
  if (config.moe().shared_width() > 0) {
    json["n_shared_experts"] = config.moe().shared_width() / width;
  } else {
    json["n_shared_experts"] = nullptr;
  }
  json["n_group"] = std::max<int64_t>(1, flat.num_groups());
  json["topk_group"] = std::max<int64_t>(1, flat.top_groups());
  json["topk_method"] = v3                      ? "noaux_tc"
                        : flat.num_groups() > 1 ? "group_limited_greedy"
                                                : "greedy";
  json["scoring_func"] = v3 ? "sigmoid" : "softmax";
  json["norm_topk_prob"] = flat.normalize();
  json["routed_scaling_factor"] = flat.scale() == 0 ? 1.0 : flat.scale();
  json["num_nextn_predict_layers"] = config.mtp().num_layers();
}

// What a mixture's config needs to be written as one of the public ones;
// "" if nothing stands in the way.
std::string WhyNoFlatMixture(const ModelConfig& config) {
  const MoeConfig& moe = config.moe();
  if (moe.has_hierarchical()) return "a hierarchical router";
  const FlatRouterConfig& flat = moe.flat();
  if (flat.choice() != FlatRouterConfig::TOP_K) return "a choice but TOP_K";
  if (config.mlp_bias()) return "mlp_bias beside experts";
  return "";
}

std::string WhyNotDeepseek(const ModelConfig& config) {
  const AttentionConfig& attention = config.attention();
  const MoeConfig& moe = config.moe();
  const FlatRouterConfig& flat = moe.flat();
  const bool v3 = flat.score() == FlatRouterConfig::SIGMOID;
  const double eps = attention.latent().norm_eps() > 0
                         ? attention.latent().norm_eps()
                         : config.norm_eps();
  if (eps != kLatentNormEps) return "a norm_eps of latents other than 1e-6";
  if (attention.window() > 0) return "a window on latent attention";
  if (config.dense_layer_size() > 0) return "dense layers after the first";
  if (NumDenseLayers(config) == config.num_layers()) return "";
  if (moe.expert_width() == 0 || moe.shared_width() % moe.expert_width() != 0) {
    return "a shared_width that is no multiple of expert_width";
  }
  if (v3) {
    if (!flat.correction_bias()) return "sigmoid scores without a bias";
    if (flat.group_max()) return "group_max with sigmoid scores";
    return "";
  }
  if (flat.correction_bias()) return "a bias on softmax scores";
  if (flat.normalize()) return "normalised weights with latent attention";
  if (!attention.rope_interleaved()) {
    return "rotary halves with latent attention and softmax scores";
  }
  if (flat.num_groups() > 1 && !flat.group_max()) {
    return "groups by their two best with softmax scores";
  }
  return "";
}

}  // namespace

absl::StatusOr<HfArchitecture> HfArchitectureOf(const ModelConfig& config) {
  const auto none = [](absl::string_view why) {
    return absl::UnimplementedError(
        absl::StrCat("no public architecture has ", why));
  };
  const AttentionConfig& attention = config.attention();
  const bool all_dense = NumDenseLayers(config) == config.num_layers();
  if (!all_dense) {
    const std::string why = WhyNoFlatMixture(config);
    if (!why.empty()) return none(why);
  }
  if (config.mtp().num_layers() > 0 &&
      (!attention.has_latent() ||
       config.moe().flat().score() != FlatRouterConfig::SIGMOID)) {
    return none(
        "multi-token prediction without latent attention and sigmoid scores");
  }
  if (attention.has_latent()) {
    const std::string why = WhyNotDeepseek(config);
    if (!why.empty()) return none(why);
    return all_dense || config.moe().flat().score() == FlatRouterConfig::SIGMOID
               ? HfArchitecture::kDeepseekV3
               : HfArchitecture::kDeepseekV2;
  }
  if (attention.rope_interleaved()) {
    return none("interleaved rotary pairs without latent attention");
  }
  if (all_dense && !attention.qk_norm()) {
    if (attention.window() > 0) return none("a window without experts");
    return HfArchitecture::kLlama;
  }
  const FlatRouterConfig& flat = config.moe().flat();
  if (config.moe().shared_width() > 0) {
    return none("shared experts without latent attention");
  }
  if (flat.score() != FlatRouterConfig::SOFTMAX || flat.correction_bias() ||
      flat.num_groups() > 1 || (flat.scale() != 0 && flat.scale() != 1)) {
    return none(
        "sigmoid scores, a bias, groups or a scale without latent attention");
  }
  if (attention.qk_norm()) return HfArchitecture::kQwen3Moe;
  if (!flat.normalize() || attention.bias() || NumDenseLayers(config) > 0) {
    return none(
        "experts, no qk_norm, and weights that are not normalised, biases of "
        "attention or dense layers");
  }
  return HfArchitecture::kMixtral;
}

absl::StatusOr<std::string> HfConfigText(const ModelConfig& config,
                                         absl::string_view dtype) {
  ASSIGN_OR_RETURN(const HfArchitecture architecture, HfArchitectureOf(config));
  nlohmann::ordered_json json;
  json["architectures"] = {std::string(Name(architecture))};
  const char* type = "";
  switch (architecture) {
    case HfArchitecture::kLlama:
      type = "llama";
      WriteGroupedQuery(config, json);
      json["attention_bias"] = config.attention().bias();
      json["mlp_bias"] = config.mlp_bias();
      json["intermediate_size"] = config.dense_width();
      break;
    case HfArchitecture::kMixtral:
      type = "mixtral";
      WriteGroupedQuery(config, json);
      if (config.attention().window() > 0) {
        json["sliding_window"] = config.attention().window();
      } else {
        json["sliding_window"] = nullptr;
      }
      json["intermediate_size"] = config.moe().expert_width();
      json["num_local_experts"] = config.moe().flat().num_experts();
      json["num_experts_per_tok"] = config.moe().flat().k();
      break;
    case HfArchitecture::kQwen3Moe:
      type = "qwen3_moe";
      WriteQwen3Moe(config, json);
      break;
    case HfArchitecture::kDeepseekV2:
      type = "deepseek_v2";
      WriteDeepseek(config, /*v3=*/false, json);
      break;
    case HfArchitecture::kDeepseekV3:
      type = "deepseek_v3";
      WriteDeepseek(config, /*v3=*/true, json);
      break;
  }
  json["model_type"] = type;
  json["vocab_size"] = config.vocab_size();
  json["hidden_size"] = config.d_model();
  json["num_hidden_layers"] = config.num_layers();
  json["num_attention_heads"] = config.attention().num_heads();
  json["max_position_embeddings"] = config.max_seq_len();
  json["rms_norm_eps"] = config.norm_eps();
  json["tie_word_embeddings"] = config.tie_embeddings();
  json["hidden_act"] = "silu";
  // Loaders older than transformers 5 read the second and third.
  const nlohmann::ordered_json rope = RopeParameters(config.attention());
  json["rope_parameters"] = rope;
  json["rope_theta"] = config.attention().rope_theta();
  if (config.attention().rope_scaling().type() != RopeScaling::NONE) {
    json["rope_scaling"] = rope;
    json["rope_scaling"].erase("rope_theta");
  } else {
    json["rope_scaling"] = nullptr;
  }
  json["torch_dtype"] = std::string(dtype);
  if (config.fp8_block_rows() > 0) {
    json["quantization_config"] = {
        {"activation_scheme", "dynamic"},
        {"fmt", "e4m3"},
        {"quant_method", "fp8"},
        {"weight_block_size",
         {config.fp8_block_rows(), config.fp8_block_columns()}}};
  }
  return JsonText(json);
}

}  // namespace strata
