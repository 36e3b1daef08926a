#include "core/model/tiny_configs.h"

#include <cstdint>

#include "core/model/config.pb.h"

namespace strata {

ModelConfig Dense() {
  ModelConfig config;
  config.set_name("dense");
  config.set_vocab_size(kVocab);
  config.set_d_model(24);
  config.set_num_layers(2);
  config.set_max_seq_len(kMaxSeqLen);
  config.set_norm_eps(1e-5);
  config.set_tie_embeddings(true);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(4);
  attention.set_num_kv_heads(2);
  attention.set_head_dim(6);
  attention.set_rope_theta(10000);
  config.set_num_dense_layers(2);
  config.set_dense_width(40);
  return config;
}

ModelConfig Flat() {
  ModelConfig config = Dense();
  config.set_name("flat");
  config.set_num_dense_layers(1);
  config.mutable_moe()->set_expert_width(16);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  return config;
}

ModelConfig SigmoidGroups() {
  ModelConfig config = Flat();
  config.set_name("sigmoid_groups");
  config.set_tie_embeddings(false);
  config.mutable_moe()->set_shared_width(12);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_score(FlatRouterConfig::SIGMOID);
  flat.set_correction_bias(true);
  flat.set_scale(2.5);
  flat.set_k(3);
  flat.set_num_groups(4);
  flat.set_top_groups(2);
  return config;
}

ModelConfig Hierarchical() {
  ModelConfig config = Dense();
  config.set_name("hierarchical");
  config.set_num_dense_layers(0);
  config.clear_dense_width();
  config.mutable_moe()->set_expert_width(16);
  config.mutable_moe()->set_shared_width(12);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  for (const int64_t experts : {6, 8, 5}) gate.add_tier_experts(experts);
  gate.set_k_min(1);
  gate.set_k_max(3);
  gate.set_tau(0.6);
  gate.set_exit_threshold(0.65);
  gate.set_energy_groups(4);
  gate.set_energy_dim(2);
  gate.set_add_coarse(true);
  gate.set_coarse_keep(0.5);
  gate.set_fine_width(8);
  gate.set_distill_weight(0.01);
  gate.set_cost_weight(0.01);
  gate.mutable_load()->set_ema_decay(0.9);
  gate.mutable_load()->set_gain_p(0.01);
  gate.mutable_load()->set_gain_i(0.001);
  gate.mutable_load()->set_max_bias(0.5);
  return config;
}

ModelConfig Latent() {
  ModelConfig config = Flat();
  config.set_name("latent");
  AttentionConfig& attention = *config.mutable_attention();
  attention.clear_num_kv_heads();
  attention.clear_head_dim();
  LatentAttentionConfig& latent = *attention.mutable_latent();
  latent.set_q_rank(12);
  latent.set_kv_rank(10);
  latent.set_nope_dim(6);
  latent.set_rope_dim(4);
  latent.set_value_dim(5);
  return config;
}

ModelConfig Windowed() {
  ModelConfig config = Flat();
  config.set_name("windowed");
  config.set_num_layers(3);
  config.set_num_dense_layers(0);
  config.add_dense_layer(1);
  config.mutable_moe()->mutable_flat()->set_normalize(false);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_head_dim(10);  // Not d_model / num_heads.
  attention.set_bias(true);
  attention.set_qk_norm(true);
  attention.set_window(20);
  RopeScaling& scaling = *attention.mutable_rope_scaling();
  scaling.set_type(RopeScaling::LLAMA3);
  scaling.set_factor(8);
  scaling.set_original_max_seq_len(32);
  scaling.set_low_freq_factor(1);
  scaling.set_high_freq_factor(4);
  return config;
}

ModelConfig Dynamic() {
  ModelConfig config = Dense();
  config.set_name("dynamic");
  RopeScaling& scaling = *config.mutable_attention()->mutable_rope_scaling();
  scaling.set_type(RopeScaling::DYNAMIC);
  scaling.set_factor(4);
  scaling.set_original_max_seq_len(32);
  return config;
}

ModelConfig LatentYarn() {
  ModelConfig config = Latent();
  config.set_name("latent_yarn");
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_bias(true);
  attention.set_window(40);
  attention.set_rope_interleaved(true);
  attention.mutable_latent()->clear_q_rank();
  attention.mutable_latent()->set_norm_eps(1e-4);
  RopeScaling& scaling = *attention.mutable_rope_scaling();
  scaling.set_type(RopeScaling::YARN);
  scaling.set_factor(4);
  scaling.set_original_max_seq_len(24);
  scaling.set_beta_fast(32);
  scaling.set_beta_slow(1);
  scaling.set_mscale(1);
  scaling.set_mscale_all_dim(0.7);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_groups(4);
  flat.set_top_groups(2);
  flat.set_group_max(true);
  return config;
}

ModelConfig Predicting() {
  ModelConfig config = SigmoidGroups();
  config.set_name("predicting");
  *config.mutable_attention() = Latent().attention();
  config.mutable_mtp()->set_num_layers(1);
  config.mutable_mtp()->set_loss_weight(0.3);
  return config;
}

}  // namespace strata
