#include "core/model/count.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/model/config.pb.h"

namespace strata {
namespace {

// Number is int64_t, or double where int64_t could overflow. Each member is
// the sum over all layers.
template <typename Number>
struct Count {
  Number embedding = 0;
  Number attention = 0;
  Number dense = 0;
  Number routed_experts = 0;
  Number shared_experts = 0;
  Number gates = 0;
  Number norms = 0;
  Number output = 0;
  Number mtp = 0;
};

template <typename Number>
Number SwiGluSize(Number d, Number width) {
  return 3 * d * width;  // Gate and up [2 width, d], down [d, width].
}

template <typename Number>
void AddAttention(const ModelConfig& config, Count<Number>& count) {
  const AttentionConfig& a = config.attention();
  const Number d = config.d_model();
  const Number heads = a.num_heads();
  Number size = 0;
  Number norms = d;
  if (a.has_latent()) {
    const LatentAttentionConfig& l = a.latent();
    const Number q_width = heads * (l.nope_dim() + l.rope_dim());
    const Number q_rank = l.q_rank();
    const Number kv_rank = l.kv_rank();
    size += l.q_rank() > 0 ? q_rank * d + q_width * q_rank : q_width * d;
    size += (kv_rank + l.rope_dim()) * d;
    size += heads * (l.nope_dim() + l.value_dim()) * kv_rank;
    size += d * heads * l.value_dim();
    norms += q_rank + kv_rank;
    if (a.bias()) size += q_rank + kv_rank + l.rope_dim() + d;
  } else {
    const Number head_dim = a.head_dim();
    size += 2 * heads * head_dim * d;             // q, o
    size += 2 * a.num_kv_heads() * head_dim * d;  // k, v
    if (a.bias()) size += (heads + 2 * a.num_kv_heads()) * head_dim + d;
    if (a.qk_norm()) norms += 2 * head_dim;
  }
  const Number layers = config.num_layers() + config.mtp().num_layers();
  count.attention += layers * size;
  count.norms += layers * norms;
}

template <typename Number>
void AddMoe(const ModelConfig& config, Count<Number>& count) {
  const MoeConfig& moe = config.moe();
  const Number layers =
      config.num_layers() - NumDenseLayers(config) + config.mtp().num_layers();
  const Number d = config.d_model();
  const Number experts = NumRoutedExperts(config);
  count.routed_experts +=
      layers * experts * SwiGluSize<Number>(d, moe.expert_width());
  count.shared_experts += layers * SwiGluSize<Number>(d, moe.shared_width());
  if (!moe.has_hierarchical()) {
    count.gates += layers * experts * d;
    count.norms += layers * d;
    return;
  }
  const HierarchicalRouterConfig& router = moe.hierarchical();
  const Number tiers = router.tier_experts_size();
  const Number r = router.fine_width();
  const Number groups = router.energy_groups();
  if (router.combine() == HierarchicalRouterConfig::CONCAT) {
    // The projection [d, k_max d] of each tier.
    count.routed_experts += layers * tiers * router.k_max() * d * d;
  }
  // A tier: subspaces [groups * dim, d]; keys [E, groups]; embeddings [E, r];
  // the query [r, d]; self- and cross-attention, four and three of [r, r].
  count.gates +=
      layers * (experts * (groups + r) +
                tiers * (groups * router.energy_dim() * d + r * d + 7 * r * r));
  const bool fed = router.tier_input() == HierarchicalRouterConfig::FED;
  count.norms +=
      layers * d *
      (tiers + (fed ? tiers - 1 : 0) + (moe.shared_width() > 0 ? 1 : 0));
}

template <typename Number>
Count<Number> CountAll(const ModelConfig& config) {
  Count<Number> count;
  const Number d = config.d_model();
  const Number table = config.vocab_size() * d;
  count.embedding = table;
  count.output = config.tie_embeddings() ? 0 : table;
  count.norms = d;  // Before the output.
  AddAttention(config, count);
  // The prediction module's layer is like the last.
  const Number mtp_layers = config.mtp().num_layers();
  const bool all_dense = NumDenseLayers(config) == config.num_layers();
  count.mtp = mtp_layers * 2 * d * d;
  count.norms += mtp_layers * 3 * d;  // enorm, hnorm, before the output.
  const Number dense_layers =
      NumDenseLayers(config) + (all_dense ? mtp_layers : 0);
  Number dense = SwiGluSize<Number>(d, config.dense_width());
  if (config.mlp_bias()) dense += 2 * config.dense_width() + d;
  count.dense = dense_layers * dense;
  count.norms += dense_layers * d;
  if (NumDenseLayers(config) < config.num_layers()) AddMoe(config, count);
  return count;
}

}  // namespace

ParameterCount CountParametersByPart(const ModelConfig& config) {
  const Count<int64_t> c = CountAll<int64_t>(config);
  return {c.embedding,      c.attention,      c.dense,
          c.routed_experts, c.shared_experts, c.gates,
          c.norms,          c.output,         c.mtp};
}

int64_t CountParameters(const ModelConfig& config) {
  return CountParametersByPart(config).total();
}

double EstimateParameters(const ModelConfig& config) {
  const Count<double> c = CountAll<double>(config);
  return c.embedding + c.attention + c.dense + c.routed_experts +
         c.shared_experts + c.gates + c.norms + c.output + c.mtp;
}

bool IsDenseLayer(const ModelConfig& config, int64_t layer) {
  const auto& further = config.dense_layer();
  return layer < config.num_dense_layers() ||
         std::find(further.begin(), further.end(), layer) != further.end();
}

int64_t NumDenseLayers(const ModelConfig& config) {
  return config.num_dense_layers() + config.dense_layer_size();
}

int64_t NumRoutedExperts(const ModelConfig& config) {
  if (!config.moe().has_hierarchical())
    return config.moe().flat().num_experts();
  int64_t sum = 0;
  for (const int64_t experts : config.moe().hierarchical().tier_experts()) {
    sum += experts;
  }
  return sum;
}

int64_t MaxActiveExperts(const ModelConfig& config) {
  if (!config.moe().has_hierarchical()) return config.moe().flat().k();
  const HierarchicalRouterConfig& router = config.moe().hierarchical();
  return router.tier_experts_size() * router.k_max();
}

int64_t CoarseSurvivors(const HierarchicalRouterConfig& router,
                        int64_t num_experts) {
  const double share =
      std::ceil(router.coarse_keep() * static_cast<double>(num_experts));
  return std::clamp<int64_t>(static_cast<int64_t>(share), 1, num_experts);
}

}  // namespace strata
