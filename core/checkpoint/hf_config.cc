#include "core/checkpoint/hf_config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr HfArchitecture kArchitectures[] = {
    HfArchitecture::kLlama, HfArchitecture::kMixtral, HfArchitecture::kQwen3Moe,
    HfArchitecture::kDeepseekV2, HfArchitecture::kDeepseekV3};

// What DeepSeek's code gives the norms of latents, whatever rms_norm_eps is.
constexpr double kLatentNormEps = 1e-6;

// Far beyond any model; keeps products of two sizes within 64 bits.
constexpr int64_t kMaxSize = int64_t{1} << 24;

// What Validate takes.
constexpr int64_t kMaxListedLayers = 4096;

absl::Status Unsupported(absl::string_view what, absl::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(what, " is not supported; want ", supported));
}

absl::StatusOr<HfArchitecture> FindArchitecture(const HfFields& fields) {
  ASSIGN_OR_RETURN(const std::string name, fields.OneName("architectures"));
  std::string supported = "StrataForCausalLM";
  for (const HfArchitecture architecture : kArchitectures) {
    if (Name(architecture) == name) return architecture;
    absl::StrAppend(&supported, ", ", Name(architecture));
  }
  return Unsupported(absl::StrCat("the architecture ", Shown(name)),
                     absl::StrCat("one of ", supported));
}

// --- Rotary embedding ---

absl::Status ReadRope(HfFields& fields, double default_theta,
                      AttentionConfig& attention) {
  // transformers 5 has one object, before there were two keys.
  HfFields rope = fields.Object("rope_parameters");
  if (rope.empty()) rope = fields.Object("rope_scaling");
  RETURN_IF_ERROR(fields.status());
  const double theta = fields.Number("rope_theta", default_theta);
  attention.set_rope_theta(rope.Number("rope_theta", theta));
  const double part = fields.Number("partial_rotary_factor", 1);
  if (rope.Number("partial_rotary_factor", part) != 1) {
    return Unsupported("a partial_rotary_factor other than 1", "1");
  }
  const std::string type =
      rope.String("rope_type", rope.String("type", "default"));
  if (type == "default") return rope.status();

  RopeScaling& scaling = *attention.mutable_rope_scaling();
  const int64_t max_len = fields.Int("max_position_embeddings", 0);
  scaling.set_factor(rope.Number("factor", 0));
  scaling.set_mscale_all_dim(rope.Number("mscale_all_dim", 0));
  const int64_t original =
      rope.Int("original_max_position_embeddings", max_len);
  if (type == "linear") {
    scaling.set_type(RopeScaling::LINEAR);
  } else if (type == "dynamic") {
    scaling.set_type(RopeScaling::DYNAMIC);
    scaling.set_original_max_seq_len(max_len);
  } else if (type == "yarn") {
    scaling.set_type(RopeScaling::YARN);
    scaling.set_original_max_seq_len(original);
    if (scaling.factor() == 0 && original > 0) {
      scaling.set_factor(static_cast<double>(max_len) / original);
    }
    scaling.set_beta_fast(rope.Number("beta_fast", 32));
    scaling.set_beta_slow(rope.Number("beta_slow", 1));
    scaling.set_exact_ramp(!rope.Bool("truncate", true));
    scaling.set_attention_factor(rope.Number("attention_factor", 0));
    scaling.set_mscale(rope.Number("mscale", 0));
  } else if (type == "llama3") {
    scaling.set_type(RopeScaling::LLAMA3);
    scaling.set_original_max_seq_len(original);
    scaling.set_low_freq_factor(rope.Number("low_freq_factor", 0));
    scaling.set_high_freq_factor(rope.Number("high_freq_factor", 0));
  } else {
    return Unsupported(absl::StrCat("the rope type ", Shown(type)),
                       "default, linear, dynamic, yarn or llama3");
  }
  return rope.status();
}

// --- Parts that several architectures share ---

absl::Status ReadCommon(HfFields& fields, double default_eps,
                        double default_theta, ModelConfig& config) {
  config.set_name(fields.String("model_type", ""));
  config.set_vocab_size(fields.Required("vocab_size"));
  config.set_d_model(fields.Required("hidden_size"));
  config.set_num_layers(fields.Required("num_hidden_layers"));
  config.set_max_seq_len(fields.Required("max_position_embeddings"));
  config.set_norm_eps(fields.Number("rms_norm_eps", default_eps));
  config.set_tie_embeddings(fields.Bool("tie_word_embeddings", false));
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(fields.Required("num_attention_heads"));
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    return Unsupported(absl::StrCat("the activation ", Shown(activation)),
                       "hidden_act silu (SwiGLU)");
  }
  return ReadRope(fields, default_theta, attention);
}

// Grouped-query attention. `kv_heads` 0: as many as heads.
absl::Status ReadGroupedQuery(HfFields& fields, int64_t kv_heads,
                              ModelConfig& config) {
  AttentionConfig& attention = *config.mutable_attention();
  const int64_t heads = attention.num_heads();
  if (heads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_attention_heads is ", heads, "; want at least 1"));
  }
  attention.set_num_kv_heads(
      fields.Int("num_key_value_heads", kv_heads == 0 ? heads : kv_heads));
  attention.set_head_dim(fields.Int("head_dim", config.d_model() / heads));
  return fields.status();
}

absl::Status ReadQuantization(HfFields& fields, ModelConfig& config) {
  HfFields quantization = fields.Object("quantization_config");
  if (quantization.empty()) return fields.status();
  const std::string method = quantization.String("quant_method", "");
  // What its tensors hold, they say themselves (core/quant/packed_tensors.h).
  if (method == "compressed-tensors") {
    const std::string layout = quantization.String("format", "");
    return layout == "pack-quantized"
               ? quantization.status()
               : Unsupported(absl::StrCat("the layout ", Shown(layout),
                                          " of compressed-tensors"),
                             "pack-quantized");
  }
  const std::string format = quantization.String("fmt", "e4m3");
  if (method != "fp8" || format != "e4m3") {
    return Unsupported(
        absl::StrCat("the quantisation ", Shown(method), " ", Shown(format)),
        "quant_method fp8 with fmt e4m3, or compressed-tensors "
        "with format pack-quantized");
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> block,
                   quantization.Ints("weight_block_size"));
  if (block.size() != 2 || block[0] < 1 || block[1] < 1 ||
      block[0] > kMaxSize || block[1] > kMaxSize) {
    return Unsupported("fp8 without blocks",
                       "a weight_block_size of two sizes, as [128, 128]");
  }
  config.set_fp8_block_rows(block[0]);
  config.set_fp8_block_columns(block[1]);
  return quantization.status();
}

void SetDenseLayers(const std::set<int64_t>& dense, ModelConfig& config) {
  int64_t leading = 0;
  while (dense.count(leading) > 0) ++leading;
  config.set_num_dense_layers(leading);
  for (const int64_t layer : dense) {
    if (layer > leading) config.add_dense_layer(layer);
  }
}

// --- Architectures ---

absl::Status ReadLlama(HfFields& fields, ModelConfig& config) {
  RETURN_IF_ERROR(ReadCommon(fields, 1e-6, 10000, config));
  RETURN_IF_ERROR(ReadGroupedQuery(fields, 0, config));
  config.mutable_attention()->set_bias(fields.Bool("attention_bias", false));
  config.set_mlp_bias(fields.Bool("mlp_bias", false));
  config.set_num_dense_layers(config.num_layers());
  config.set_dense_width(fields.Required("intermediate_size"));
  return fields.status();
}

absl::Status ReadMixtral(HfFields& fields, ModelConfig& config) {
  RETURN_IF_ERROR(ReadCommon(fields, 1e-5, 1e6, config));
  RETURN_IF_ERROR(ReadGroupedQuery(fields, 8, config));
  config.mutable_attention()->set_window(fields.Int("sliding_window", 0));
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(fields.Required("intermediate_size"));
  FlatRouterConfig& flat = *moe.mutable_flat();
  flat.set_num_experts(
      fields.Int("num_local_experts", fields.Int("num_experts", 8)));
  flat.set_k(fields.Int("num_experts_per_tok", 2));
  flat.set_normalize(true);
  return fields.status();
}

absl::Status ReadQwen3Moe(HfFields& fields, ModelConfig& config) {
  RETURN_IF_ERROR(ReadCommon(fields, 1e-6, 10000, config));
  RETURN_IF_ERROR(ReadGroupedQuery(fields, 4, config));
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_bias(fields.Bool("attention_bias", false));
  attention.set_qk_norm(true);
  if (fields.Bool("use_sliding_window", false)) {
    attention.set_window(fields.Int("sliding_window", 4096));
  }
  const int64_t experts =
      fields.Int("num_experts", fields.Int("num_local_experts", 128));
  const int64_t step = fields.Int("decoder_sparse_step", 1);
  if (step < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("decoder_sparse_step is ", step, "; want at least 1"));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> dense_only,
                   fields.Ints("mlp_only_layers"));
  // Refused below; no list of them before.
  if (config.num_layers() > kMaxListedLayers) return Validate(config);
  std::set<int64_t> dense;
  for (int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const bool sparse = experts > 0 && (layer + 1) % step == 0 &&
                        std::find(dense_only.begin(), dense_only.end(),
                                  layer) == dense_only.end();
    if (!sparse) dense.insert(layer);
  }
  SetDenseLayers(dense, config);
  if (!dense.empty()) {
    config.set_dense_width(fields.Required("intermediate_size"));
  }
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(fields.Int("moe_intermediate_size", 768));
  FlatRouterConfig& flat = *moe.mutable_flat();
  flat.set_num_experts(experts);
  flat.set_k(fields.Int("num_experts_per_tok", 8));
  flat.set_normalize(fields.Bool("norm_topk_prob", false));
  return fields.status();
}

// How V2 and V3 choose experts.
absl::Status ReadDeepseekRouter(HfFields& fields, bool v3,
                                FlatRouterConfig& flat) {
  flat.set_num_experts(fields.Required("n_routed_experts"));
  flat.set_k(fields.Required("num_experts_per_tok"));
  flat.set_scale(fields.Number("routed_scaling_factor", v3 ? 2.5 : 1));
  const std::string method =
      fields.String("topk_method", v3 ? "noaux_tc" : "greedy");
  const std::string score =
      fields.String("scoring_func", v3 ? "sigmoid" : "softmax");
  if (score != (v3 ? "sigmoid" : "softmax")) {
    return Unsupported(absl::StrCat("scoring_func ", Shown(score)),
                       v3 ? "sigmoid" : "softmax");
  }
  const bool group_limited = method == "group_limited_greedy";
  if (v3 ? method != "noaux_tc" : method != "greedy" && !group_limited) {
    return Unsupported(absl::StrCat("topk_method ", Shown(method)),
                       v3 ? "noaux_tc" : "greedy or group_limited_greedy");
  }
  if (v3 || group_limited) {
    const int64_t groups = fields.Int("n_group", v3 ? 8 : 1);
    if (groups != 0 && groups != 1) {  // Either: no groups.
      flat.set_num_groups(groups);
      flat.set_top_groups(fields.Int("topk_group", v3 ? 4 : 1));
      flat.set_group_max(group_limited);
    }
  }
  if (v3) {
    flat.set_score(FlatRouterConfig::SIGMOID);
    flat.set_correction_bias(true);
    flat.set_normalize(fields.Bool("norm_topk_prob", true));
  }
  // V2's code does not look at norm_topk_prob.
  return fields.status();
}

absl::Status ReadDeepseek(HfFields& fields, bool v3, ModelConfig& config) {
  RETURN_IF_ERROR(ReadCommon(fields, 1e-6, 10000, config));
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_bias(fields.Bool("attention_bias", false));
  attention.set_rope_interleaved(!v3 || fields.Bool("rope_interleave", true));
  LatentAttentionConfig& latent = *attention.mutable_latent();
  // Here null says that there is none.
  latent.set_q_rank(fields.Has("q_lora_rank") ? fields.Int("q_lora_rank", 0)
                                              : 1536);
  latent.set_kv_rank(fields.Required("kv_lora_rank"));
  latent.set_nope_dim(fields.Required("qk_nope_head_dim"));
  latent.set_rope_dim(fields.Required("qk_rope_head_dim"));
  latent.set_value_dim(fields.Required("v_head_dim"));
  latent.set_norm_eps(kLatentNormEps);

  const int64_t freq = fields.Int("moe_layer_freq", 1);
  if (freq != 1) {
    return Unsupported(absl::StrCat("moe_layer_freq ", freq), "1");
  }
  const int64_t dense = fields.Int("first_k_dense_replace", v3 ? 3 : 0);
  config.set_num_dense_layers(std::min(dense, config.num_layers()));
  config.set_mlp_bias(!v3 && fields.Bool("mlp_bias", false));
  if (config.mlp_bias()) return Unsupported("mlp_bias with experts", "false");
  if (dense > 0) config.set_dense_width(fields.Required("intermediate_size"));
  if (dense >= config.num_layers()) return fields.status();
  MoeConfig& moe = *config.mutable_moe();
  const int64_t width = fields.Required("moe_intermediate_size");
  // transformers has null where there is none, and a default of 1 or 2.
  const int64_t shared = fields.Has("n_shared_experts")
                             ? fields.Int("n_shared_experts", 0)
                             : (v3 ? 1 : 2);
  if (width < 0 || width > kMaxSize || shared < 0 || shared > kMaxSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "moe_intermediate_size is ", width, " and n_shared_experts ", shared,
        "; want 0 to ", kMaxSize));
  }
  moe.set_expert_width(width);
  moe.set_shared_width(width * shared);
  return ReadDeepseekRouter(fields, v3, *moe.mutable_flat());
}

}  // namespace

absl::string_view Name(HfArchitecture architecture) {
  switch (architecture) {
    case HfArchitecture::kLlama:
      return "LlamaForCausalLM";
    case HfArchitecture::kMixtral:
      return "MixtralForCausalLM";
    case HfArchitecture::kQwen3Moe:
      return "Qwen3MoeForCausalLM";
    case HfArchitecture::kDeepseekV2:
      return "DeepseekV2ForCausalLM";
    case HfArchitecture::kDeepseekV3:
      return "DeepseekV3ForCausalLM";
  }
  return "";
}

absl::StatusOr<ModelConfig> ModelConfigFromHf(absl::string_view text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  if (!json.is_object()) {
    return absl::InvalidArgumentError("the config is not a JSON object");
  }
  HfFields fields(json, "");
  ASSIGN_OR_RETURN(const HfArchitecture architecture, FindArchitecture(fields));
  ModelConfig config;
  absl::Status status;
  switch (architecture) {
    case HfArchitecture::kLlama:
      status = ReadLlama(fields, config);
      break;
    case HfArchitecture::kMixtral:
      status = ReadMixtral(fields, config);
      break;
    case HfArchitecture::kQwen3Moe:
      status = ReadQwen3Moe(fields, config);
      break;
    case HfArchitecture::kDeepseekV2:
      status = ReadDeepseek(fields, /*v3=*/false, config);
      break;
    case HfArchitecture::kDeepseekV3:
      status = ReadDeepseek(fields, /*v3=*/true, config);
      break;
  }
  if (status.ok()) status = ReadQuantization(fields, config);
  if (status.ok()) status = fields.status();
  if (status.ok()) status = Validate(config);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(Name(architecture), ": ",
                                                    status.message()));
  }
  return config;
}

std::string ArchitectureName(absl::string_view text) {
  const absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok() || !json->is_object()) return "";
  const absl::StatusOr<std::string> name =
      HfFields(*json, "").OneName("architectures");
  return name.ok() ? *name : "";
}

}  // namespace strata
