#include "serving/engine/benchmark_models.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
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
#include "core/passes/quantize_weights.h"
#include "core/quant/format.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/packed_rows.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/random_bits.h"

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

absl::StatusOr<Graph> LogitsGraph(const ModelConfig& config) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kLogits;  // Without a cache.
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  return builder.Finish();
}

// Random codes, and scales that give them a variance of 1 / columns.
void FillPacked(const QuantFormat& format, int64_t columns, RandomBits& bits,
                const TensorView& view) {
  const PackedRow row(format, columns);
  // A code is uniform over 2^bits steps.
  const double steps = format.max_code() + 1;
  const BFloat16 scale = RoundToBFloat16(static_cast<float>(
      std::sqrt(12.0 / static_cast<double>(columns)) / steps));
  auto* out = view.as<uint8_t>();
  for (int64_t i = 0; i < view.num_elements(); i += row.bytes) {
    int64_t b = 0;
    for (; b + 8 <= row.code_bytes; b += 8) {
      const uint64_t word = bits.Next();
      std::memcpy(out + i + b, &word, sizeof(word));
    }
    for (int64_t g = 0; g < row.num_groups; ++g) {
      std::memcpy(out + i + row.code_bytes + 2 * g, &scale, sizeof(scale));
    }
  }
}

}  // namespace

absl::StatusOr<ModelConfig> BenchmarkModel(const std::string& name) {
  if (name == "moe_1b") return Moe1b();
  return ModelPreset(name);
}

absl::Status FillNarrow(const ModelConfig& config, StateStore& store) {
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   NarrowParameters(config, {}, {}, WeightStorage::kBF16));
  ASSIGN_OR_RETURN(const Graph graph, LogitsGraph(config));
  RETURN_IF_ERROR(store.Declare(NarrowWeights(graph, names)));
  RandomBits bits;
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
      x = RoundToBFloat16(
          static_cast<float>(static_cast<int32_t>(bits.Next())) * scale);
    }
  }
  return absl::OkStatus();
}

absl::Status FillQuantised(const ModelConfig& config, const QuantFormat& format,
                           StateStore& store) {
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   QuantizableParameters(config));
  std::map<std::string, QuantFormat> formats;
  for (const std::string& name : names) {
    if (IsOfGate(name)) continue;
    formats[name] = format;
    if (name == "lm_head.weight") formats[name].bits = 8;
  }
  ASSIGN_OR_RETURN(Graph graph, LogitsGraph(config));
  // The columns, which packed rows no longer show.
  std::map<std::string, int64_t> columns;
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter && value.type.rank() > 1) {
      columns[value.name] = value.type.dims.back().bound;
    }
  }
  ASSIGN_OR_RETURN(graph, QuantizeWeights(graph, formats));
  RETURN_IF_ERROR(
      store.Declare(NarrowWeights(graph, {"model.embed_tokens.weight"})));
  RandomBits bits;
  for (const std::string& name : store.names()) {
    if (store.role(name) != Role::kParameter) continue;
    const TensorView& view = store.Get(name);
    if (view.dtype == DType::kU8) {
      FillPacked(formats.at(name), columns.at(name), bits, view);
    } else if (view.rank() == 1) {
      std::fill_n(view.as<float>(), view.num_elements(), 1.0f);
    } else {
      const double limit = std::sqrt(3.0 / view.shape.back());
      const auto scale = static_cast<float>(std::ldexp(limit, -31));
      for (int64_t i = 0; i < view.num_elements(); ++i) {
        const float x =
            static_cast<float>(static_cast<int32_t>(bits.Next())) * scale;
        if (view.dtype == DType::kBF16) {
          view.as<BFloat16>()[i] = RoundToBFloat16(x);
        } else {
          view.as<float>()[i] = x;
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
