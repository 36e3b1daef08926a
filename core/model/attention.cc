#include "core/model/attention.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/rope_scaling.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/paged_attention.h"
#include "core/ops/rope.h"

namespace strata {
namespace {

ValueId Turned(GraphBuilder& b, const AttentionConfig& a,
               const AttentionInputs& inputs, ValueId x, int64_t num_heads,
               int64_t rotary_dim) {
  return Rope(b, x, inputs.position, RopeOf(a, num_heads, rotary_dim),
              /*inverse=*/false, inputs.seq_len);
}

// A projection of the attention block; with a bias if `bias`.
ValueId Project(GraphBuilder& b, absl::string_view name, ValueId x, int64_t in,
                int64_t out, bool bias) {
  const ValueId y = Linear(b, x,
                           b.Parameter(b.Scoped(absl::StrCat(name, ".weight")),
                                       {Static(out), Static(in)}));
  if (!bias) return y;
  return AddBias(
      b, y, b.Parameter(b.Scoped(absl::StrCat(name, ".bias")), {Static(out)}));
}

ValueId Norm(GraphBuilder& b, absl::string_view name, ValueId x, int64_t width,
             double eps) {
  return RmsNorm(
      b, x,
      b.Parameter(b.Scoped(absl::StrCat(name, ".weight")), {Static(width)}),
      eps);
}

// Stores `rows` in a cache of the layer and returns it.
ValueId Cached(GraphBuilder& b, const AttentionInputs& inputs, int64_t layer,
               absl::string_view name, ValueId rows) {
  const ValueId cache =
      b.State(absl::StrCat("cache.", layer, ".", name), b.compute(),
              {Static(inputs.cache_slots), b.type(rows).dims[1]});
  CacheWrite(b, cache, rows, inputs.cache_row);
  return cache;
}

ValueId Attend(GraphBuilder& b, const AttentionInputs& inputs, int64_t layer,
               ValueId q, ValueId k, ValueId v,
               const AttentionOptions& options) {
  if (inputs.seq_start != kNone) {
    return Attention(b, q, k, v, inputs.seq_start, options);
  }
  if (!b.ok()) return kNone;
  const ValueId k_cache = Cached(b, inputs, layer, "k", k);
  const ValueId v_cache = Cached(b, inputs, layer, "v", v);
  if (inputs.pages.block_table != kNone) {
    return PagedAttention(b, q, k_cache, v_cache, inputs.pages, inputs.position,
                          options);
  }
  return CachedAttention(b, q, k_cache, v_cache, inputs.first_row,
                         inputs.position, options);
}

ValueId GroupedQuery(GraphBuilder& b, const ModelConfig& config,
                     const AttentionInputs& inputs, int64_t layer, ValueId x) {
  const AttentionConfig& a = config.attention();
  const int64_t d = config.d_model(), head_dim = a.head_dim();
  const int64_t q_width = a.num_heads() * head_dim;
  const int64_t kv_width = a.num_kv_heads() * head_dim;
  ValueId q = Project(b, "q_proj", x, d, q_width, a.bias());
  ValueId k = Project(b, "k_proj", x, d, kv_width, a.bias());
  const ValueId v = Project(b, "v_proj", x, d, kv_width, a.bias());
  if (a.qk_norm()) {
    q = Norm(b, "q_norm", q, head_dim, config.norm_eps());
    k = Norm(b, "k_norm", k, head_dim, config.norm_eps());
  }
  q = Turned(b, a, inputs, q, a.num_heads(), head_dim);
  k = Turned(b, a, inputs, k, a.num_kv_heads(), head_dim);
  const ValueId o =
      Attend(b, inputs, layer, q, k, v,
             {a.num_heads(), a.num_kv_heads(),
              1 / std::sqrt(static_cast<double>(head_dim)), a.window()});
  return Project(b, "o_proj", o, q_width, d, a.bias());
}

// DeepSeek-V2's attention (arXiv:2405.04434, 2.1): in expanded form, or, over a
// cache of latents, in absorbed form.
ValueId Latent(GraphBuilder& b, const ModelConfig& config,
               const AttentionInputs& inputs, int64_t layer, ValueId x) {
  const AttentionConfig& a = config.attention();
  const LatentAttentionConfig& l = a.latent();
  const int64_t d = config.d_model();
  const int64_t qk = l.nope_dim() + l.rope_dim();
  const int64_t q_width = a.num_heads() * qk;
  const double eps = l.norm_eps() > 0 ? l.norm_eps() : config.norm_eps();
  const double scale =
      LatentScoreFactor(a.rope_scaling()) / std::sqrt(static_cast<double>(qk));

  ValueId q;
  if (l.q_rank() > 0) {
    q = Project(b, "q_a_proj", x, d, l.q_rank(), a.bias());
    q = Norm(b, "q_a_layernorm", q, l.q_rank(), eps);
    q = Project(b, "q_b_proj", q, l.q_rank(), q_width, /*bias=*/false);
  } else {
    q = Project(b, "q_proj", x, d, q_width, /*bias=*/false);
  }
  q = Turned(b, a, inputs, q, a.num_heads(), l.rope_dim());

  const ValueId kv_latent = Project(b, "kv_a_proj_with_mqa", x, d,
                                    l.kv_rank() + l.rope_dim(), a.bias());
  const ValueId k_rope = Turned(
      b, a, inputs, SliceColumns(b, kv_latent, l.kv_rank(), l.rope_dim()),
      /*num_heads=*/1, l.rope_dim());
  const ValueId compressed =
      Norm(b, "kv_a_layernorm", SliceColumns(b, kv_latent, 0, l.kv_rank()),
           l.kv_rank(), eps);
  const ValueId kv_b =
      b.Parameter(b.Scoped("kv_b_proj.weight"),
                  {Static(a.num_heads() * (l.nope_dim() + l.value_dim())),
                   Static(l.kv_rank())});

  ValueId o;
  if (inputs.seq_start != kNone || inputs.expand_latents) {
    const LatentKv expanded =
        LatentKeyValue(b, Linear(b, compressed, kv_b), k_rope, a.num_heads(),
                       l.nope_dim(), l.value_dim());
    o = Attend(b, inputs, layer, q, expanded.k, expanded.v,
               {a.num_heads(), a.num_heads(), scale, a.window()});
  } else {
    if (!b.ok()) return kNone;
    const LatentHeads heads = {a.num_heads(), l.nope_dim(), l.rope_dim(),
                               l.value_dim()};
    const int64_t width = l.kv_rank() + l.rope_dim();
    const ValueId cache =
        Cached(b, inputs, layer, "latent",
               Add(b, PlaceColumns(b, compressed, 0, width),
                   PlaceColumns(b, k_rope, l.kv_rank(), width)));
    const CachedLatentOptions options = {a.num_heads(), l.kv_rank(), scale,
                                         a.window()};
    q = LatentQuery(b, q, kv_b, heads);
    o = inputs.pages.block_table != kNone
            ? PagedLatentAttention(b, q, cache, inputs.pages, inputs.position,
                                   options)
            : CachedLatentAttention(b, q, cache, inputs.first_row,
                                    inputs.position, options);
    o = LatentOutput(b, o, kv_b, heads);
  }
  return Project(b, "o_proj", o, a.num_heads() * l.value_dim(), d, a.bias());
}

}  // namespace

ValueId AttentionBlock(GraphBuilder& b, const ModelConfig& config,
                       const AttentionInputs& inputs, int64_t layer,
                       ValueId h) {
  const ValueId x =
      Norm(b, "input_layernorm", h, config.d_model(), config.norm_eps());
  GraphBuilder::Scope scope(b, "self_attn");
  return config.attention().has_latent()
             ? Latent(b, config, inputs, layer, x)
             : GroupedQuery(b, config, inputs, layer, x);
}

}  // namespace strata
