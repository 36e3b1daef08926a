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
#include "core/model/count.h"
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
  scaling.set_mscale(rope.Number("mscale", 0));
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
  const std::string format = quantization.String("fmt", "e4m3");
  if (method != "fp8" || format != "e4m3") {
    return Unsupported(
        absl::StrCat("the quantisation ", Shown(method), " ", Shown(format)),
        "quant_method fp8, fmt e4m3");
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
    if (groups != 1) {
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

// --- The way back ---

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
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(ReadQuantization(fields, config));
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(Validate(config));
  return config;
}

std::string ArchitectureName(absl::string_view text) {
  const absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok() || !json->is_object()) return "";
  const absl::StatusOr<std::string> name =
      HfFields(*json, "").OneName("architectures");
  return name.ok() ? *name : "";
}

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
