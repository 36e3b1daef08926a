#include "core/model/config.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/model/field_checks.h"
#include "core/model/field_value.h"
#include "core/model/preset.h"
#include "core/model/preset_texts.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr char kArchitecture[] = "StrataForCausalLM";
constexpr char kModelType[] = "strata";

// Far beyond any model, and such that all sizes of one layer fit 64 bits: the
// largest is kMaxExperts * 3 * kMaxWidth^2 < 2^58.
constexpr int64_t kMaxLayers = 1 << 12;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxSeqLen = 1 << 24;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxHeads = 1 << 15;
constexpr int64_t kMaxHeadDim = 1 << 15;
constexpr int64_t kMaxExperts = 1 << 16;
constexpr int64_t kMaxTiers = 64;
constexpr double kMaxParameters = 1e15;

void CheckRopeScaling(const RopeScaling& s, FieldChecks& checks) {
  const auto path = [](absl::string_view name) {
    return absl::StrCat("attention.rope_scaling.", name);
  };
  checks.Want(path("type"), static_cast<int>(s.type()),
              RopeScaling::Type_IsValid(s.type()),
              "NONE, LINEAR, DYNAMIC, YARN or LLAMA3");
  if (s.type() == RopeScaling::NONE) return;
  checks.Want(path("factor"), s.factor(), s.factor() > 0 && s.factor() <= 1e6,
              "more than 0, at most 1e6");
  checks.NotNegative(path("mscale"), s.mscale());
  checks.NotNegative(path("mscale_all_dim"), s.mscale_all_dim());
  if (s.type() == RopeScaling::LINEAR) return;
  checks.Between(path("original_max_seq_len"), s.original_max_seq_len(), 1,
                 kMaxSeqLen);
  const auto rising = [&](absl::string_view low_name, double low,
                          absl::string_view high_name, double high) {
    checks.Want(
        path(low_name), low, low > 0 && low < high && high <= 1e9,
        absl::StrCat("more than 0 and less than ", high_name, ", ", high));
  };
  if (s.type() == RopeScaling::YARN) {
    rising("beta_slow", s.beta_slow(), "beta_fast", s.beta_fast());
    checks.NotNegative(path("attention_factor"), s.attention_factor());
  }
  if (s.type() == RopeScaling::LLAMA3) {
    rising("low_freq_factor", s.low_freq_factor(), "high_freq_factor",
           s.high_freq_factor());
  }
}

void CheckAttention(const AttentionConfig& a, FieldChecks& checks) {
  checks.Between("attention.num_heads", a.num_heads(), 1, kMaxHeads);
  checks.Want("attention.rope_theta", a.rope_theta(),
              a.rope_theta() > 1 && a.rope_theta() <= 1e12,
              "more than 1, at most 1e12");
  CheckRopeScaling(a.rope_scaling(), checks);
  if (a.rope_scaling().type() == RopeScaling::DYNAMIC) {
    const int64_t rotary =
        a.has_latent() ? a.latent().rope_dim() : a.head_dim();
    checks.Want("the rotary columns of a head", rotary, rotary >= 4,
                "at least 4 with dynamic rope_scaling");
  }
  checks.Between("attention.window", a.window(), 0, kMaxSeqLen);
  if (a.has_latent()) {
    const LatentAttentionConfig& l = a.latent();
    checks.Between("attention.latent.q_rank", l.q_rank(), 0, kMaxWidth);
    checks.Between("attention.latent.kv_rank", l.kv_rank(), 1, kMaxWidth);
    checks.Between("attention.latent.nope_dim", l.nope_dim(), 1, kMaxHeadDim);
    checks.Between("attention.latent.rope_dim", l.rope_dim(), 2, kMaxHeadDim);
    checks.Want("attention.latent.rope_dim", l.rope_dim(),
                l.rope_dim() % 2 == 0, "an even number");
    checks.Between("attention.latent.value_dim", l.value_dim(), 1, kMaxHeadDim);
    checks.ShareBelowOne("attention.latent.norm_eps", l.norm_eps());
    checks.Want("attention.qk_norm", "set", !a.qk_norm(),
                "none with latent attention");
    return;
  }
  checks.Between("attention.num_kv_heads", a.num_kv_heads(), 1, kMaxHeads);
  checks.MultipleOf("attention.num_heads", a.num_heads(),
                    "attention.num_kv_heads", a.num_kv_heads());
  checks.Between("attention.head_dim", a.head_dim(), 2, kMaxHeadDim);
  checks.Want("attention.head_dim", a.head_dim(), a.head_dim() % 2 == 0,
              "an even number");
}

void CheckFlat(const FlatRouterConfig& flat, FieldChecks& checks) {
  checks.Between("moe.flat.num_experts", flat.num_experts(), 1, kMaxExperts);
  checks.Want("moe.flat.score", static_cast<int>(flat.score()),
              FlatRouterConfig::Score_IsValid(flat.score()),
              "SOFTMAX or SIGMOID");
  checks.NotNegative("moe.flat.scale", flat.scale());
  checks.Between("moe.flat.num_groups", flat.num_groups(), 0,
                 flat.num_experts());
  int64_t within_reach = flat.num_experts();
  if (checks.ok() && flat.num_groups() > 1) {
    checks.MultipleOf("moe.flat.num_experts", flat.num_experts(),
                      "moe.flat.num_groups", flat.num_groups());
    const int64_t group = flat.num_experts() / flat.num_groups();
    checks.Want("moe.flat.num_groups", flat.num_groups(),
                group >= 2 || flat.group_max(), "groups of at least 2 experts");
    checks.Between("moe.flat.top_groups", flat.top_groups(), 1,
                   flat.num_groups());
    if (checks.ok()) within_reach = flat.top_groups() * group;
  } else {
    checks.Between("moe.flat.top_groups", flat.top_groups(), 0, 1);
  }
  checks.Between("moe.flat.k", flat.k(), 1, within_reach);
  checks.Want("moe.flat.choice", static_cast<int>(flat.choice()),
              FlatRouterConfig::Choice_IsValid(flat.choice()),
              "TOP_K, TOP_P or EXPERT_CHOICE");
  if (flat.choice() == FlatRouterConfig::TOP_P) {
    checks.Want("moe.flat.top_p", flat.top_p(),
                flat.top_p() > 0 && flat.top_p() <= 1,
                "more than 0, at most 1");
  }
  if (flat.choice() != FlatRouterConfig::TOP_K) {
    checks.Between("moe.flat.num_groups", flat.num_groups(), 0, 1);
  }
  checks.Want("moe.flat.correction_bias", "set",
              !flat.correction_bias() ||
                  flat.choice() != FlatRouterConfig::EXPERT_CHOICE,
              "none with choice EXPERT_CHOICE, which fills every expert alike");
  checks.NotNegative("moe.flat.balance_weight", flat.balance_weight());
  checks.NotNegative("moe.flat.z_weight", flat.z_weight());
  checks.NotNegative("moe.flat.bias_update_rate", flat.bias_update_rate());
  checks.Want("moe.flat.bias_update_rate", flat.bias_update_rate(),
              flat.bias_update_rate() == 0 || flat.correction_bias(),
              "0 without correction_bias");
}

void CheckHierarchical(const HierarchicalRouterConfig& router, int64_t d_model,
                       FieldChecks& checks) {
  const std::string prefix = "moe.hierarchical.";
  const auto path = [&](absl::string_view name) {
    return absl::StrCat(prefix, name);
  };
  checks.Want(path("tier_experts"),
              absl::StrCat("a list of ", router.tier_experts_size()),
              router.tier_experts_size() >= 1 &&
                  router.tier_experts_size() <= kMaxTiers,
              absl::StrCat("1 to ", kMaxTiers, " tiers"));
  checks.Want(path("coarse_keep"), router.coarse_keep(),
              router.coarse_keep() > 0 && router.coarse_keep() <= 1,
              "more than 0, at most 1");
  checks.Between(path("k_max"), router.k_max(), 1, kMaxExperts);
  int64_t sum = 0;
  for (int tier = 0; checks.ok() && tier < router.tier_experts_size(); ++tier) {
    const std::string tier_path =
        absl::StrCat(prefix, "tier_experts[", tier, "]");
    const int64_t experts = router.tier_experts(tier);
    checks.Between(tier_path, experts, 1, kMaxExperts);
    if (!checks.ok()) return;
    sum += experts;
    const int64_t survivors = CoarseSurvivors(router, experts);
    checks.Want(path("k_max"), router.k_max(), router.k_max() <= survivors,
                absl::StrCat("at most ", survivors, ", what coarse_keep ",
                             router.coarse_keep(), " leaves of ", tier_path,
                             ", ", experts));
  }
  checks.Want(path("tier_experts"), absl::StrCat(sum, " in all"),
              sum <= kMaxExperts, absl::StrCat("at most ", kMaxExperts));
  checks.Between(path("k_min"), router.k_min(), 1, router.k_max());
  checks.Want(path("tau"), router.tau(), router.tau() > 0 && router.tau() <= 1,
              "more than 0, at most 1");
  checks.ShareBelowOne(path("exit_threshold"), router.exit_threshold());
  checks.Between(path("energy_groups"), router.energy_groups(), 1, kMaxWidth);
  checks.Between(path("energy_dim"), router.energy_dim(), 0, kMaxWidth);
  if (router.energy_dim() == 0) {
    checks.MultipleOf("d_model", d_model, path("energy_groups"),
                      router.energy_groups());
  }
  checks.Between(path("fine_width"), router.fine_width(), 0, kMaxWidth);
  checks.Want(path("fine_width"), router.fine_width(),
              router.fine_width() > 0 || router.add_coarse(),
              "at least 1 without add_coarse, which leaves no other score");
  checks.NotNegative(path("distill_weight"), router.distill_weight());
  checks.NotNegative(path("cost_weight"), router.cost_weight());
  checks.ShareBelowOne(path("load.ema_decay"), router.load().ema_decay());
  checks.NotNegative(path("load.gain_p"), router.load().gain_p());
  checks.NotNegative(path("load.gain_i"), router.load().gain_i());
  checks.NotNegative(path("load.max_bias"), router.load().max_bias());
  checks.Want(path("combine"), static_cast<int>(router.combine()),
              HierarchicalRouterConfig::Combine_IsValid(router.combine()),
              "SUM or CONCAT");
  checks.Want(path("bias_use"), static_cast<int>(router.bias_use()),
              HierarchicalRouterConfig::BiasUse_IsValid(router.bias_use()),
              "CHOICE or WEIGHT");
  checks.Want(path("weigh_by"), static_cast<int>(router.weigh_by()),
              HierarchicalRouterConfig::WeighBy_IsValid(router.weigh_by()),
              "SIGMOID or SOFTMAX");
  checks.Want(path("weigh_by"), "SOFTMAX",
              router.weigh_by() == HierarchicalRouterConfig::SIGMOID ||
                  router.bias_use() == HierarchicalRouterConfig::CHOICE,
              "SIGMOID with bias_use WEIGHT, which corrects p");
  checks.NotNegative(path("scale"), router.scale());
  checks.NotNegative(path("balance_weight"), router.balance_weight());
  checks.Want(path("tier_input"), static_cast<int>(router.tier_input()),
              HierarchicalRouterConfig::TierInput_IsValid(router.tier_input()),
              "UPDATED or FED");
  checks.Want(
      path("tau_start"), router.tau_start(),
      router.tau_start() == 0 ||
          (router.tau_start() >= router.tau() && router.tau_start() <= 1),
      absl::StrCat("0, or at least tau, ", router.tau(), ", and at most 1"));
  checks.Want(path("tau_anneal"), router.tau_anneal(),
              router.tau_anneal() >= 0 && router.tau_anneal() <= 1, "0 to 1");
  checks.Want(path("tau_anneal"), router.tau_anneal(),
              router.tau_anneal() == 0 || router.tau_start() > 0,
              "0 without tau_start");
}

void CheckMoe(const MoeConfig& moe, int64_t d_model, FieldChecks& checks) {
  checks.Between("moe.expert_width", moe.expert_width(), 1, kMaxWidth);
  checks.Between("moe.shared_width", moe.shared_width(), 0, kMaxWidth);
  switch (moe.router_case()) {
    case MoeConfig::kFlat:
      return CheckFlat(moe.flat(), checks);
    case MoeConfig::kHierarchical:
      return CheckHierarchical(moe.hierarchical(), d_model, checks);
    case MoeConfig::ROUTER_NOT_SET:
      checks.Want("moe", "without a router", false,
                  "moe.flat or moe.hierarchical");
  }
}

// Takes the two keys that say whose config.json it is off `json`.
absl::Status TakeArchitecture(nlohmann::json& json) {
  const auto wanted = [](absl::string_view problem) {
    return absl::InvalidArgumentError(absl::StrCat(
        problem, "; want \"architectures\": [\"", kArchitecture, "\"]"));
  };
  const auto architectures = json.find("architectures");
  if (architectures == json.end()) return wanted("no architecture is named");
  if (!architectures->is_array() || architectures->size() != 1 ||
      !architectures->front().is_string()) {
    return wanted("architectures is not a list of one name");
  }
  const std::string& name =
      architectures->front().get_ref<const std::string&>();
  if (name != kArchitecture) {
    return wanted(absl::StrCat("the architecture is ", Quoted(name)));
  }
  if (const auto type = json.find("model_type"); type != json.end()) {
    if (!type->is_string() ||
        type->get_ref<const std::string&>() != kModelType) {
      return absl::InvalidArgumentError(
          absl::StrCat("model_type is not \"", kModelType, "\""));
    }
  }
  json.erase("architectures");
  json.erase("model_type");
  // For other readers: the tensors say themselves how they are quantised.
  json.erase("quantization_config");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ModelPreset(absl::string_view name) {
  ModelConfig config;
  RETURN_IF_ERROR(ReadPreset(ModelPresetTexts(), "model", name, config));
  return config;
}

std::vector<std::string> ModelPresetNames() {
  return NamesOf(ModelPresetTexts());
}

absl::Status Validate(const ModelConfig& config) {
  FieldChecks checks;
  checks.Between("vocab_size", config.vocab_size(), 1, kMaxVocab);
  checks.Between("d_model", config.d_model(), 1, kMaxWidth);
  checks.Between("num_layers", config.num_layers(), 1, kMaxLayers);
  checks.Between("max_seq_len", config.max_seq_len(), 1, kMaxSeqLen);
  checks.Want("norm_eps", config.norm_eps(),
              config.norm_eps() > 0 && config.norm_eps() < 1,
              "more than 0, less than 1");
  CheckAttention(config.attention(), checks);
  checks.Between("num_dense_layers", config.num_dense_layers(), 0,
                 config.num_layers());
  checks.Between("mtp.num_layers", config.mtp().num_layers(), 0, 1);
  checks.NotNegative("mtp.loss_weight", config.mtp().loss_weight());
  checks.Between("fp8_block_rows", config.fp8_block_rows(), 0, kMaxWidth);
  checks.Between("fp8_block_columns", config.fp8_block_columns(),
                 config.fp8_block_rows() > 0 ? 1 : 0, kMaxWidth);
  int64_t previous = config.num_dense_layers() - 1;
  for (int i = 0; i < config.dense_layer_size(); ++i) {
    checks.Between(absl::StrCat("dense_layer[", i, "]"), config.dense_layer(i),
                   previous + 1, config.num_layers() - 1);
    previous = config.dense_layer(i);
  }
  checks.Between("dense_width", config.dense_width(),
                 NumDenseLayers(config) > 0 ? 1 : 0, kMaxWidth);
  if (NumDenseLayers(config) < config.num_layers()) {
    CheckMoe(config.moe(), config.d_model(), checks);
  }
  RETURN_IF_ERROR(checks.status());
  const double parameters = EstimateParameters(config);
  checks.Want("the number of parameters", parameters,
              parameters <= kMaxParameters,
              absl::StrCat("at most ", kMaxParameters));
  return checks.status();
}

std::string ToJson(const ModelConfig& config) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  json["architectures"] = {kArchitecture};
  json["model_type"] = kModelType;
  json.update(MessageToJson(config));
  return JsonText(json);
}

absl::StatusOr<ModelConfig> ModelConfigFromJson(absl::string_view text) {
  ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(text));
  if (json.is_object()) RETURN_IF_ERROR(TakeArchitecture(json));
  ModelConfig config;
  RETURN_IF_ERROR(MessageFromJson(json, config));
  RETURN_IF_ERROR(Validate(config));
  return config;
}

}  // namespace strata
