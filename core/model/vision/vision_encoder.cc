#include "core/model/vision/vision_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/moe.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/full_attention.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

ValueId Norm(GraphBuilder& b, const ModelConfig& config, absl::string_view name,
             ValueId x) {
  return RmsNorm(b, x, b.Parameter(b.Scoped(name), {Static(config.d_model())}),
                 config.norm_eps());
}

ValueId Project(GraphBuilder& b, absl::string_view name, ValueId x,
                int64_t out) {
  return Linear(b, x,
                b.Parameter(b.Scoped(name), {Static(out), b.type(x).dims[1]}));
}

// attention(norm(x)), to be added to x [t, d].
ValueId AttentionBlock(GraphBuilder& b, const ModelConfig& config,
                       ValueId seq_start, ValueId h) {
  const AttentionConfig& a = config.attention();
  const ValueId x = Norm(b, config, "input_layernorm.weight", h);
  GraphBuilder::Scope scope(b, "self_attn");
  const int64_t q_width = a.num_heads() * a.head_dim();
  const int64_t kv_width = a.num_kv_heads() * a.head_dim();
  const ValueId q = Project(b, "q_proj.weight", x, q_width);
  const ValueId k = Project(b, "k_proj.weight", x, kv_width);
  const ValueId v = Project(b, "v_proj.weight", x, kv_width);
  if (!b.ok()) return kNone;
  const ValueId o =
      FullAttention(b, q, k, v, seq_start,
                    {a.num_heads(), a.num_kv_heads(),
                     1 / std::sqrt(static_cast<double>(a.head_dim()))});
  if (!b.ok()) return kNone;
  return Project(b, "o_proj.weight", o, config.d_model());
}

}  // namespace

VisionConfig EdgeVisionConfig() {
  VisionConfig config;
  ModelConfig& blocks = config.blocks;
  blocks.set_name("vision-edge");
  blocks.set_vocab_size(1);  // None, which a decoder may not have.
  blocks.set_d_model(192);
  blocks.set_num_layers(12);
  blocks.set_max_seq_len(config.num_tokens());
  blocks.set_norm_eps(1e-6);
  AttentionConfig& attention = *blocks.mutable_attention();
  attention.set_num_heads(3);
  attention.set_num_kv_heads(3);
  attention.set_head_dim(64);
  attention.set_rope_theta(10000);
  MoeConfig& moe = *blocks.mutable_moe();
  // Two tiers, two experts each, three matrices: 12 x 128 x 192 weights a
  // token, as 2 x 768 x 192.
  moe.set_expert_width(128);
  HierarchicalRouterConfig& router = *moe.mutable_hierarchical();
  router.add_tier_experts(16);
  router.add_tier_experts(16);
  router.set_k_min(1);
  router.set_k_max(2);
  router.set_tau(0.69);
  router.set_energy_groups(64);
  router.set_energy_dim(1);
  router.set_add_coarse(true);
  router.set_coarse_keep(0.5);
  router.set_fine_width(32);
  router.set_tier_input(HierarchicalRouterConfig::FED);
  return config;
}

absl::Status Validate(const VisionConfig& config) {
  RETURN_IF_ERROR(Validate(config.blocks));
  if (config.patch_size < 1 || config.image_size < config.patch_size ||
      config.image_size % config.patch_size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("image_size is ", config.image_size,
                     "; want a multiple of patch_size, "
                     "which is ",
                     config.patch_size));
  }
  if (config.channels < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("channels is ", config.channels, "; want at least 1"));
  }
  if (config.blocks.attention().has_latent()) {
    return absl::InvalidArgumentError(
        "the vision encoder has no latent attention");
  }
  return absl::OkStatus();
}

void BuildVisionEncoder(GraphBuilder& b, const VisionConfig& config,
                        int64_t max_images) {
  const ModelConfig& blocks = config.blocks;
  const int64_t d = blocks.d_model();
  const ValueId num_tokens = b.Input("num_tokens", DType::kI32, {});
  const Dim t = Ragged(max_images * config.num_tokens(), num_tokens);
  const ValueId num_images = b.Input("num_images", DType::kI32, {});
  const ValueId patches =
      b.Input("patches", b.compute(), {t, Static(config.patch_width())});
  const ValueId seq_start =
      b.Input("seq_start", DType::kI32, {Static(max_images + 1)});
  // A place of its own in both tables is the summary's.
  const auto position = [&](const char* name, const char* input) {
    return Embedding(b,
                     b.Parameter(name, {Static(config.grid() + 1), Static(d)}),
                     b.Input(input, DType::kI32, {t}));
  };
  b.set_scope("vision");
  ValueId h = Project(b, "patch_embed.weight", patches, d);
  h = Add(b, h, position("vision.row_embedding.weight", "grid_row"));
  h = Add(b, h, position("vision.column_embedding.weight", "grid_column"));
  b.set_scope("");
  std::vector<RouterValues> routers;
  for (int64_t layer = 0; layer < blocks.num_layers() && b.ok(); ++layer) {
    GraphBuilder::Scope scope(b, absl::StrCat("model.layers.", layer));
    h = Add(b, h, AttentionBlock(b, blocks, seq_start, h));
    MoeOptions moe;
    moe.layer = layer;
    moe.num_tokens = num_tokens;
    moe.gate.seq_start = seq_start;
    h = MoeBlock(b, blocks, moe, h, routers);
  }
  const ValueId rows = GatherRows(
      b, h,
      b.Input("summary_row", DType::kI32, {Ragged(max_images, num_images)}));
  b.Output("features", Norm(b, blocks, "model.norm.weight", rows));
}

void CutPatches(const VisionConfig& config, absl::Span<const uint8_t> pixels,
                absl::Span<float> patches) {
  const int64_t size = config.image_size, patch = config.patch_size;
  const int64_t channels = config.channels, grid = config.grid();
  CHECK(static_cast<int64_t>(pixels.size()) == size * size * channels)
      << pixels.size() << " pixels";
  CHECK(static_cast<int64_t>(patches.size()) ==
        config.num_tokens() * config.patch_width())
      << patches.size() << " elements of patches";
  float* out = patches.data();
  out = std::fill_n(out, config.patch_width(), 0.0f);  // The summary.
  for (int64_t i = 0; i < grid * grid; ++i) {
    const int64_t top = i / grid * patch, left = i % grid * patch;
    for (int64_t y = top; y < top + patch; ++y) {
      const uint8_t* const row = pixels.data() + (y * size + left) * channels;
      for (int64_t x = 0; x < patch * channels; ++x) {
        *out++ = static_cast<float>(row[x]) / 127.5f - 1;
      }
    }
  }
}

}  // namespace strata
