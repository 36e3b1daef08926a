#include "core/model/attention.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/rope.h"

namespace strata {
namespace {

struct QueryKeyValue {
  ValueId q = kNone;
  ValueId k = kNone;
  ValueId v = kNone;
  AttentionOptions options;
  int64_t key_width = 0;     // Of k, all heads.
  int64_t value_width = 0;   // Of v, all heads.
  int64_t output_width = 0;  // Of the heads' outputs together.
};

ValueId Project(GraphBuilder& b, absl::string_view name, ValueId x, int64_t in,
                int64_t out) {
  return Linear(b, x,
                b.Parameter(b.Scoped(absl::StrCat(name, ".weight")),
                            {Static(out), Static(in)}));
}

ValueId Norm(GraphBuilder& b, const ModelConfig& config, absl::string_view name,
             ValueId x, int64_t width) {
  return RmsNorm(
      b, x,
      b.Parameter(b.Scoped(absl::StrCat(name, ".weight")), {Static(width)}),
      config.norm_eps());
}

QueryKeyValue GroupedQuery(GraphBuilder& b, const ModelConfig& config,
                           ValueId position, ValueId x) {
  const AttentionConfig& a = config.attention();
  QueryKeyValue r;
  r.options = {a.num_heads(), a.num_kv_heads(),
               1 / std::sqrt(static_cast<double>(a.head_dim()))};
  r.output_width = a.num_heads() * a.head_dim();
  r.key_width = r.value_width = a.num_kv_heads() * a.head_dim();
  r.q = Project(b, "q_proj", x, config.d_model(), r.output_width);
  r.k = Project(b, "k_proj", x, config.d_model(), r.key_width);
  r.v = Project(b, "v_proj", x, config.d_model(), r.value_width);
  r.q = Rope(b, r.q, position, {a.num_heads(), a.head_dim(), a.rope_theta()});
  r.k =
      Rope(b, r.k, position, {a.num_kv_heads(), a.head_dim(), a.rope_theta()});
  return r;
}

// DeepSeek-V2's attention (arXiv:2405.04434, 2.1) in expanded form.
QueryKeyValue Latent(GraphBuilder& b, const ModelConfig& config,
                     ValueId position, ValueId x) {
  const AttentionConfig& a = config.attention();
  const LatentAttentionConfig& l = a.latent();
  const int64_t d = config.d_model();
  const int64_t qk = l.nope_dim() + l.rope_dim();
  QueryKeyValue r;
  r.options = {a.num_heads(), a.num_heads(),
               1 / std::sqrt(static_cast<double>(qk))};
  r.key_width = a.num_heads() * qk;
  r.output_width = r.value_width = a.num_heads() * l.value_dim();

  if (l.q_rank() > 0) {
    const ValueId q_latent = Project(b, "q_a_proj", x, d, l.q_rank());
    r.q = Project(b, "q_b_proj",
                  Norm(b, config, "q_a_layernorm", q_latent, l.q_rank()),
                  l.q_rank(), r.key_width);
  } else {
    r.q = Project(b, "q_proj", x, d, r.key_width);
  }
  r.q = Rope(b, r.q, position, {a.num_heads(), l.rope_dim(), a.rope_theta()});

  const ValueId kv_latent =
      Project(b, "kv_a_proj_with_mqa", x, d, l.kv_rank() + l.rope_dim());
  const ValueId k_rope =
      Rope(b, SliceColumns(b, kv_latent, l.kv_rank(), l.rope_dim()), position,
           {/*num_heads=*/1, l.rope_dim(), a.rope_theta()});
  const ValueId compressed =
      Norm(b, config, "kv_a_layernorm",
           SliceColumns(b, kv_latent, 0, l.kv_rank()), l.kv_rank());
  const ValueId kv = Project(b, "kv_b_proj", compressed, l.kv_rank(),
                             a.num_heads() * (l.nope_dim() + l.value_dim()));
  const LatentKv expanded =
      LatentKeyValue(b, kv, k_rope, a.num_heads(), l.nope_dim(), l.value_dim());
  r.k = expanded.k;
  r.v = expanded.v;
  return r;
}

}  // namespace

ValueId AttentionBlock(GraphBuilder& b, const ModelConfig& config,
                       const AttentionInputs& inputs, int64_t layer,
                       ValueId h) {
  const ValueId x = Norm(b, config, "input_layernorm", h, config.d_model());
  GraphBuilder::Scope scope(b, "self_attn");
  const QueryKeyValue qkv = config.attention().has_latent()
                                ? Latent(b, config, inputs.position, x)
                                : GroupedQuery(b, config, inputs.position, x);
  ValueId o;
  if (inputs.seq_start != kNone) {
    o = Attention(b, qkv.q, qkv.k, qkv.v, inputs.seq_start, qkv.options);
  } else {
    const ValueId k_cache =
        b.State(absl::StrCat("cache.", layer, ".k"), b.compute(),
                {Static(inputs.cache_slots), Static(qkv.key_width)});
    const ValueId v_cache =
        b.State(absl::StrCat("cache.", layer, ".v"), b.compute(),
                {Static(inputs.cache_slots), Static(qkv.value_width)});
    CacheWrite(b, k_cache, qkv.k, inputs.cache_row);
    CacheWrite(b, v_cache, qkv.v, inputs.cache_row);
    o = CachedAttention(b, qkv.q, k_cache, v_cache, inputs.first_row,
                        inputs.position, qkv.options);
  }
  return Project(b, "o_proj", o, qkv.output_width, config.d_model());
}

}  // namespace strata
