#include "serving/engine/benchmark_models.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/weight_storage.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/passes/narrow_weights.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

ModelConfig Moe1b() {
  ModelConfig config;
  config.set_name("moe_1b");
  config.set_vocab_size(32000);
  config.set_d_model(1024);
  config.set_num_layers(12);
  config.set_max_seq_len(512);
  config.set_norm_eps(1e-6);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(16);
  attention.set_num_kv_heads(4);
  attention.set_head_dim(64);
  attention.set_rope_theta(10000);
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(384);
  FlatRouterConfig& router = *moe.mutable_flat();
  router.set_num_experts(64);
  router.set_k(6);
  router.set_normalize(true);
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> BenchmarkModel(const std::string& name) {
  if (name == "moe_1b") return Moe1b();
  return ModelPreset(name);
}

absl::Status FillNarrow(const ModelConfig& config, StateStore& store) {
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   NarrowParameters(config, {}, {}, WeightStorage::kBF16));
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kLogits;  // Without a cache.
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(const Graph graph, builder.Finish());
  RETURN_IF_ERROR(store.Declare(NarrowWeights(graph, names)));
  uint64_t bits = 1;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    const TensorView& view = store.Get(name);
    if (view.dtype == DType::kF32) {
      CHECK(view.rank() == 1) << name;
      std::fill_n(view.as<float>(), view.num_elements(), 1.0f);
      continue;
    }
    const double limit = std::sqrt(3.0 / view.shape.back());
    const auto scale = static_cast<float>(std::ldexp(limit, -31));
    for (BFloat16& x : view.span<BFloat16>()) {
      bits ^= bits << 13;
      bits ^= bits >> 7;
      bits ^= bits << 17;
      x = RoundToBFloat16(static_cast<float>(static_cast<int32_t>(bits)) *
                          scale);
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
