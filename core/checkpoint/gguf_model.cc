#include "core/checkpoint/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/mapped_file.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/gguf/gguf.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_map.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

constexpr int64_t kMaxSize = 1 << 24;

// The metadata of one architecture; the first error sticks.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix)
      : file_(file), prefix_(std::move(prefix)) {}

  const GgufFile::Value* Find(absl::string_view key) const {
    const auto it = file_.metadata.find(absl::StrCat(prefix_, key));
    return it == file_.metadata.end() ? nullptr : &it->second;
  }
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  int64_t Int(absl::string_view key, int64_t absent) {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return absent;
    if (const auto* number = std::get_if<int64_t>(value)) {
      if (*number >= 0 && *number <= kMaxSize) return *number;
    }
    Fail(key, absl::StrCat("an integer from 0 to ", kMaxSize));
    return absent;
  }
  int64_t Required(absl::string_view key) {
    if (!Has(key)) Fail(key, "it to be there");
    return Int(key, 0);
  }
  double Number(absl::string_view key, double absent) {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return absent;
    if (const auto* number = std::get_if<double>(value)) return *number;
    if (const auto* number = std::get_if<int64_t>(value)) {
      return static_cast<double>(*number);
    }
    Fail(key, "a number");
    return absent;
  }
  std::string String(absl::string_view key, absl::string_view absent) {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return std::string(absent);
    if (const auto* text = std::get_if<std::string>(value)) return *text;
    Fail(key, "a string");
    return std::string(absent);
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::string_view key, absl::string_view wanted) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat(
        "the key ", prefix_, key, " is ",
        Has(key) ? "something else" : "absent", "; want ", wanted));
  }

  const GgufFile& file_;
  const std::string prefix_;
  absl::Status status_;
};

absl::Status ReadRopeScaling(Keys& keys, AttentionConfig& attention,
                             int64_t max_len) {
  const std::string type = keys.String("rope.scaling.type", "none");
  if (type == "none") return absl::OkStatus();
  RopeScaling& scaling = *attention.mutable_rope_scaling();
  scaling.set_factor(keys.Number("rope.scaling.factor", 0));
  if (type == "linear") {
    scaling.set_type(RopeScaling::LINEAR);
    return absl::OkStatus();
  }
  if (type != "yarn") {
    return absl::UnimplementedError(
        absl::StrCat("the rotary scaling ", Shown(type),
                     " is not supported; want none, linear or yarn"));
  }
  scaling.set_type(RopeScaling::YARN);
  scaling.set_original_max_seq_len(
      keys.Int("rope.scaling.original_context_length", max_len));
  scaling.set_beta_fast(32);
  scaling.set_beta_slow(1);
  // 0.1 mscale_all_dim, and mscale is the same in the models that have one.
  const double multiplier = keys.Number("rope.scaling.yarn_log_multiplier", 0);
  if (attention.has_latent() && multiplier != 0) {
    scaling.set_mscale(multiplier * 10);
    scaling.set_mscale_all_dim(multiplier * 10);
  }
  return absl::OkStatus();
}

void ReadRouter(Keys& keys, bool normalize, MoeConfig& moe) {
  FlatRouterConfig& flat = *moe.mutable_flat();
  flat.set_num_experts(keys.Required("expert_count"));
  flat.set_k(keys.Required("expert_used_count"));
  flat.set_normalize(normalize);
}

absl::Status ReadGroupedQuery(Keys& keys, ModelConfig& config) {
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_kv_heads(
      keys.Int("attention.head_count_kv", attention.num_heads()));
  if (attention.num_heads() < 1) {
    return absl::InvalidArgumentError("attention.head_count is 0");
  }
  attention.set_head_dim(keys.Int("attention.key_length",
                                  config.d_model() / attention.num_heads()));
  const int64_t rotary = keys.Int("rope.dimension_count", attention.head_dim());
  const int64_t value =
      keys.Int("attention.value_length", attention.head_dim());
  if (rotary != attention.head_dim() || value != attention.head_dim()) {
    return absl::UnimplementedError(absl::StrCat(
        "rope.dimension_count ", rotary, " and attention.value_length ", value,
        " are not supported; want both ", attention.head_dim(),
        ", attention.key_length"));
  }
  return keys.status();
}

absl::Status ReadDeepseek2(Keys& keys, ModelConfig& config) {
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_rope_interleaved(true);
  LatentAttentionConfig& latent = *attention.mutable_latent();
  latent.set_q_rank(keys.Int("attention.q_lora_rank", 0));
  latent.set_kv_rank(keys.Required("attention.kv_lora_rank"));
  latent.set_rope_dim(keys.Required("rope.dimension_count"));
  // Files from before the absorbed form have the expanded sizes here.
  const int64_t key =
      keys.Int("attention.key_length_mla", keys.Int("attention.key_length", 0));
  latent.set_nope_dim(key - latent.rope_dim());
  latent.set_value_dim(keys.Int("attention.value_length_mla",
                                keys.Int("attention.value_length", 0)));
  latent.set_norm_eps(config.norm_eps());
  config.set_num_dense_layers(
      std::min(keys.Int("leading_dense_block_count", 0), config.num_layers()));
  config.set_dense_width(keys.Int("feed_forward_length", 0));
  if (config.num_dense_layers() == config.num_layers()) return keys.status();
  MoeConfig& moe = *config.mutable_moe();
  ReadRouter(keys, keys.Int("expert_weights_norm", 0) != 0, moe);
  moe.set_expert_width(keys.Required("expert_feed_forward_length"));
  moe.set_shared_width(moe.expert_width() * keys.Int("expert_shared_count", 0));
  FlatRouterConfig& flat = *moe.mutable_flat();
  flat.set_scale(keys.Number("expert_weights_scale", 1));
  const int64_t gating = keys.Int("expert_gating_func", 1);
  if (gating != 1 && gating != 2) {
    return absl::UnimplementedError(
        absl::StrCat("expert_gating_func ", gating,
                     " is not supported; want 1 (softmax) or 2 (sigmoid)"));
  }
  if (gating == 2) {
    flat.set_score(FlatRouterConfig::SIGMOID);
    flat.set_correction_bias(true);
  }
  const int64_t groups = keys.Int("expert_group_count", 1);
  if (groups > 1) {
    flat.set_num_groups(groups);
    flat.set_top_groups(keys.Int("expert_group_used_count", 1));
    flat.set_group_max(gating == 1);
  }
  return keys.status();
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file) {
  Keys general(file, "general.");
  const std::string architecture = general.String("architecture", "");
  const bool llama = architecture == "llama";
  const bool deepseek = architecture == "deepseek2";
  if (!llama && !deepseek && architecture != "qwen3moe") {
    return absl::UnimplementedError(
        absl::StrCat("the architecture ", Shown(architecture),
                     " is not supported; want llama, qwen3moe or deepseek2"));
  }
  Keys keys(file, absl::StrCat(architecture, "."));
  ModelConfig config;
  config.set_name(architecture);
  const auto table = file.tensors.find("token_embd.weight");
  if (table == file.tensors.end() || table->second.view.rank() != 2) {
    return absl::InvalidArgumentError(
        "there is no matrix \"token_embd.weight\"");
  }
  config.set_vocab_size(table->second.view.dim(0));
  config.set_d_model(keys.Required("embedding_length"));
  config.set_num_layers(keys.Required("block_count"));
  config.set_max_seq_len(keys.Required("context_length"));
  // Single precision in the file; the decimal that was meant.
  config.set_norm_eps(std::stod(absl::StrCat(static_cast<float>(
      keys.Number("attention.layer_norm_rms_epsilon", 1e-5)))));
  config.set_tie_embeddings(file.tensors.count("output.weight") == 0);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(keys.Required("attention.head_count"));
  attention.set_rope_theta(keys.Number("rope.freq_base", 10000));
  RETURN_IF_ERROR(keys.status());
  if (deepseek) {
    RETURN_IF_ERROR(ReadDeepseek2(keys, config));
  } else {
    RETURN_IF_ERROR(ReadGroupedQuery(keys, config));
    attention.set_qk_norm(!llama);
    attention.set_bias(file.tensors.count("blk.0.attn_output.bias") > 0);
    MoeConfig& moe = *config.mutable_moe();
    if (llama && keys.Int("expert_count", 0) == 0) {
      config.clear_moe();
      config.set_num_dense_layers(config.num_layers());
      config.set_dense_width(keys.Required("feed_forward_length"));
      config.set_mlp_bias(file.tensors.count("blk.0.ffn_down.bias") > 0);
    } else {
      // llama.cpp normalises the weights of both.
      ReadRouter(keys, /*normalize=*/true, moe);
      moe.set_expert_width(llama ? keys.Required("feed_forward_length")
                                 : keys.Required("expert_feed_forward_length"));
    }
  }
  RETURN_IF_ERROR(ReadRopeScaling(keys, attention, config.max_seq_len()));
  RETURN_IF_ERROR(keys.status());
  RETURN_IF_ERROR(Validate(config));
  return config;
}

// --- Tensors ---

struct Renamed {
  absl::string_view from;
  absl::string_view to;
};
// Of a block, without the ending (.weight, .bias).
constexpr Renamed kBlockNames[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};
// Stacks of experts, which become a tensor each.
constexpr Renamed kExpertNames[] = {
    {"ffn_gate_exps", "gate_proj"},
    {"ffn_up_exps", "up_proj"},
    {"ffn_down_exps", "down_proj"},
};

class Renamer {
 public:
  Renamer(const ModelConfig& config, bool llama, ModelSource& source)
      : config_(config), llama_(llama), source_(source) {}

  absl::Status Add(const std::string& name, const StoredTensor& tensor) {
    if (name == "token_embd.weight")
      return Put("model.embed_tokens.weight", tensor);
    if (name == "output_norm.weight") return Put("model.norm.weight", tensor);
    if (name == "output.weight") return Put("lm_head.weight", tensor);
    if (absl::StartsWith(name, "rope_freqs") ||
        absl::StartsWith(name, "rope_factors")) {
      return absl::UnimplementedError(absl::StrCat(
          "tensor ", Shown(name), " (rotary factors) is not supported"));
    }
    constexpr absl::string_view kBlock = "blk.";
    absl::string_view rest = name;
    const size_t dot = absl::StartsWith(rest, kBlock)
                           ? rest.find('.', kBlock.size())
                           : rest.npos;
    int64_t layer = 0;
    if (dot == rest.npos ||
        !absl::SimpleAtoi(rest.substr(kBlock.size(), dot - kBlock.size()),
                          &layer) ||
        layer < 0 || layer >= config_.num_layers()) {
      return Put(name, tensor);  // To be reported as not used.
    }
    rest.remove_prefix(dot + 1);
    const size_t end = rest.rfind('.');
    const absl::string_view what = rest.substr(0, end);
    const absl::string_view ending =
        end == rest.npos ? "" : rest.substr(end);  // ".weight"
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    if (what == "exp_probs_b") {
      return Put(absl::StrCat(prefix, "mlp.gate.e_score_correction_bias"),
                 tensor);
    }
    if (what == "attn_k_b" || what == "attn_v_b") {
      return AddAbsorbed(prefix, layer, what == "attn_k_b", tensor);
    }
    for (const Renamed& known : kExpertNames) {
      if (what == known.from) return AddExperts(prefix, known.to, tensor);
    }
    for (const Renamed& known : kBlockNames) {
      if (what != known.from) continue;
      StoredTensor renamed = tensor;
      if (llama_ && what == "attn_q") {
        renamed.paired_heads = config_.attention().num_heads();
      }
      if (llama_ && what == "attn_k") {
        renamed.paired_heads = config_.attention().num_kv_heads();
      }
      const std::string target = absl::StrCat(
          prefix,
          mixtral() && what == "ffn_gate_inp" ? "block_sparse_moe.gate"
                                              : known.to,
          ending);
      return Put(target, renamed);
    }
    return Put(name, tensor);
  }

 private:
  bool mixtral() const { return llama_ && config_.has_moe(); }

  absl::Status Put(std::string name, const StoredTensor& tensor) {
    if (source_.tensors.emplace(name, tensor).second) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("two tensors are ", Shown(name)));
  }

  absl::Status AddExperts(const std::string& prefix, absl::string_view which,
                          const StoredTensor& tensor) {
    const TensorView& view = tensor.view;
    if (view.rank() != 3 || view.dim(0) != config_.moe().flat().num_experts()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the experts' ", which, " of ", prefix, " are ", ToString(view.shape),
          "; want ", config_.moe().flat().num_experts(), " matrices"));
    }
    const int64_t elements = view.dim(1) * view.dim(2);
    const int64_t bytes = tensor.packing == StoredTensor::Packing::kNone
                              ? elements * SizeOf(view.dtype)
                              : PackedBytes(tensor.packing, elements);
    const absl::string_view mixtral_name = which == "gate_proj" ? "w1"
                                           : which == "up_proj" ? "w3"
                                                                : "w2";
    for (int64_t e = 0; e < view.dim(0); ++e) {
      StoredTensor expert = tensor;
      expert.view.shape = {view.dim(1), view.dim(2)};
      expert.view.data = static_cast<char*>(view.data) + e * bytes;
      const std::string name =
          mixtral()
              ? absl::StrCat(prefix, "block_sparse_moe.experts.", e, ".",
                             mixtral_name, ".weight")
              : absl::StrCat(prefix, "mlp.experts.", e, ".", which, ".weight");
      RETURN_IF_ERROR(Put(name, expert));
    }
    return absl::OkStatus();
  }

  // Half of a layer's kv_b_proj [heads * (nope + value), rank], from
  //   attn_k_b [heads, rank, nope]   each head's transposed
  //   attn_v_b [heads, value, rank]
  absl::Status AddAbsorbed(const std::string& prefix, int64_t layer, bool keys,
                           const StoredTensor& tensor) {
    const LatentAttentionConfig& l = config_.attention().latent();
    const int64_t heads = config_.attention().num_heads();
    const int64_t rank = l.kv_rank(), nope = l.nope_dim();
    const int64_t value = l.value_dim();
    const Shape want =
        keys ? Shape{heads, rank, nope} : Shape{heads, value, rank};
    if (!config_.attention().has_latent() || tensor.view.shape != want) {
      return absl::InvalidArgumentError(
          absl::StrCat("blk.", layer, keys ? ".attn_k_b" : ".attn_v_b", " is ",
                       ToString(tensor.view.shape), "; want ", ToString(want)));
    }
    const std::string name = absl::StrCat(prefix, "self_attn.kv_b_proj.weight");
    const int64_t rows = heads * (nope + value);
    auto [it, is_first] = source_.tensors.emplace(name, StoredTensor());
    if (is_first) {
      source_.copies.push_back(std::make_unique<float[]>(rows * rank));
      it->second.view = {
          DType::kF32, {rows, rank}, source_.copies.back().get()};
    }
    auto* const out = static_cast<float*>(it->second.view.data);
    std::vector<float> numbers(tensor.view.num_elements());
    RETURN_IF_ERROR(
        ReadNumbers<float>(name, tensor, /*scale=*/nullptr, numbers.data()));
    for (int64_t h = 0; h < heads; ++h) {
      float* const head = out + h * (nope + value) * rank;
      if (!keys) {
        std::copy_n(numbers.data() + h * value * rank, value * rank,
                    head + nope * rank);
        continue;
      }
      const float* const from = numbers.data() + h * rank * nope;
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t j = 0; j < nope; ++j) {
          head[j * rank + r] = from[r * nope + j];
        }
      }
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const bool llama_;
  ModelSource& source_;
};

absl::StatusOr<ModelSource> Parse(const std::string& path,
                                  absl::string_view bytes) {
  ASSIGN_OR_RETURN(const GgufFile file, ParseGguf(path, bytes));
  ModelSource source;
  ASSIGN_OR_RETURN(source.config, ReadConfig(file));
  Renamer renamer(source.config, source.config.name() == "llama", source);
  for (const auto& [name, tensor] : file.tensors) {
    RETURN_IF_ERROR(renamer.Add(name, tensor));
  }
  // Both halves of a kv_b_proj, or one would be zeros in silence.
  for (int64_t layer = 0; layer < source.config.num_layers(); ++layer) {
    const std::string k = absl::StrCat("blk.", layer, ".attn_k_b.weight");
    const std::string v = absl::StrCat("blk.", layer, ".attn_v_b.weight");
    if (file.tensors.count(k) != file.tensors.count(v)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "there is one of ", k, " and ", v, "; want both or none"));
    }
  }
  ASSIGN_OR_RETURN(source.layout.map, HfWeightMap(source.config));
  return source;
}

}  // namespace

absl::StatusOr<ModelSource> ParseGgufModel(const std::string& path,
                                           absl::string_view bytes) {
  absl::StatusOr<ModelSource> source = Parse(path, bytes);
  if (source.ok() || absl::StartsWith(source.status().message(), path)) {
    return source;
  }
  return absl::Status(source.status().code(),
                      absl::StrCat(path, ": ", source.status().message()));
}

absl::StatusOr<ModelSource> OpenGgufModel(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  ASSIGN_OR_RETURN(ModelSource source, ParseGgufModel(path, mapping.bytes()));
  source.mapping = std::move(mapping);
  return source;
}

}  // namespace strata
