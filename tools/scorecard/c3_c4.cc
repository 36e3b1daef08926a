#include "tools/scorecard/c3_c4.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/passes/fuse/block_summary.h"
#include "core/passes/fuse/fuse.h"
#include "core/passes/plan_memory.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/serving_step.h"
#include "training/demo/report.h"

namespace strata {
namespace {

constexpr int64_t kStepTokens = 256;  // The engine's budget.

// Grouped queries and a flat mixture of 64 experts, a token to six of them:
// the shape of public mixtures of a billion parameters.
ModelConfig FlatMixture() {
  ModelConfig config;
  config.set_name("flat mixture");
  config.set_vocab_size(32000);
  config.set_d_model(1024);
  config.set_num_layers(12);
  config.set_max_seq_len(4096);
  config.set_norm_eps(1e-6);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(16);
  attention.set_num_kv_heads(4);
  attention.set_head_dim(64);
  attention.set_rope_theta(10000);
  config.mutable_moe()->set_expert_width(384);
  FlatRouterConfig& router = *config.mutable_moe()->mutable_flat();
  router.set_num_experts(64);
  router.set_k(6);
  router.set_normalize(true);
  return config;
}

ModelConfig Dense() {
  ModelConfig config = FlatMixture();
  config.set_name("dense");
  config.clear_moe();
  config.set_num_dense_layers(config.num_layers());
  config.set_dense_width(2816);
  return config;
}

absl::StatusOr<std::vector<ModelConfig>> Models() {
  std::vector<ModelConfig> models = {FlatMixture(), Dense()};
  for (const char* preset : {"demo", "small", "strata-1b", "deepseek-v3"}) {
    ASSIGN_OR_RETURN(models.emplace_back(), ModelPreset(preset));
  }
  return models;
}

Measure MeasureOf(const std::string& what, const std::string& baseline_name,
                  double baseline, const std::string& ours_name, double ours) {
  Measure measure;
  measure.what = what;
  measure.baseline_name = baseline_name;
  measure.ours_name = ours_name;
  measure.baseline.mean = baseline;
  measure.ours.mean = ours;
  measure.ratio.mean = ours / baseline;
  return measure;
}

Measure Promise(Measure measure, double at_most) {
  measure.want = Measure::Want::kAtMost;
  measure.promised = at_most;
  return measure;
}

}  // namespace

absl::StatusOr<ClaimResult> FusedOperators() {
  ClaimResult result;
  result.id = "C3";
  result.title = "operator fusion";
  ASSIGN_OR_RETURN(const std::vector<ModelConfig> models, Models());
  for (const ModelConfig& config : models) {
    ASSIGN_OR_RETURN(const Graph before, ServingStep(config, kStepTokens));
    const Graph after = Fuse(before);
    const std::string scope =
        absl::StrCat("model.layers.", config.num_layers() - 1);
    const BlockSummary plain = SummariseBlock(before, scope);
    const BlockSummary fused = SummariseBlock(after, scope);
    if (config.name() == FlatMixture().name()) {
      result.measures.push_back(Promise(
          MeasureOf("basic operators of a block, " + config.name(), "unfused",
                    plain.num_basic, "fused", fused.num_basic),
          3.0 / 12));
    }
    result.measures.push_back(MeasureOf("nodes of a block, " + config.name(),
                                        "unfused", plain.nodes.size(), "fused",
                                        fused.nodes.size()));
    const auto bytes = [](const Cost& cost) {
      return (cost.bytes_read + cost.bytes_written) / 1e6;
    };
    result.notes.push_back(absl::StrFormat(
        "%s: %s; between operators %.1f -> %.1f MB of %d tokens; %.0f -> %.0f "
        "MB moved by the cost functions; same FLOPs: %s",
        config.name(),
        fused.nodes.size() <= 8 ? absl::StrJoin(fused.nodes, ", ")
                                : absl::StrCat(fused.nodes.size(), " nodes"),
        plain.intermediate_bytes / 1e6, fused.intermediate_bytes / 1e6,
        kStepTokens, bytes(plain.cost), bytes(fused.cost),
        plain.cost.flops == fused.cost.flops ? "yes" : "no"));
  }
  result.notes.push_back(
      "promised of a block of grouped queries and a flat mixture, which is "
      "what "
      "twelve operators are; blocks of other kinds beside");
  return result;
}

absl::StatusOr<ClaimResult> MemoryReuse() {
  ClaimResult result;
  result.id = "C4";
  result.title = "memory reuse";
  ASSIGN_OR_RETURN(const std::vector<ModelConfig> models, Models());
  for (const ModelConfig& config : models) {
    ASSIGN_OR_RETURN(const Graph before, ServingStep(config, kStepTokens));
    const MemoryPlan plain = PlanMemory(before);
    const MemoryPlan fused = PlanMemory(Fuse(before));
    const double one_each = plain.unshared_bytes / 1e6;
    result.measures.push_back(
        Promise(MeasureOf("MB of a serving step, " + config.name(),
                          "unfused, one buffer a value", one_each,
                          "fused, one arena", fused.arena_bytes / 1e6),
                0.65));
    result.measures.push_back(MeasureOf("  planning alone",
                                        "one buffer a value", one_each,
                                        "one arena", plain.arena_bytes / 1e6));
    result.measures.push_back(MeasureOf(
        "  fusion and planning", "unfused, one arena", plain.arena_bytes / 1e6,
        "fused, one arena", fused.arena_bytes / 1e6));
    result.notes.push_back(absl::StrFormat(
        "%s: %d -> %d values; at least %.2f MB live at one time", config.name(),
        plain.num_values, fused.num_values, fused.lower_bound_bytes / 1e6));
  }
  result.notes.push_back(absl::StrFormat(
      "the whole program of a step of %d tokens of 64 sequences at its bounds, "
      "in F32; weights, caches and inputs are the same on all sides and not "
      "counted, nor are the tiles that each thread has while a kernel runs",
      kStepTokens));
  return result;
}

}  // namespace strata
