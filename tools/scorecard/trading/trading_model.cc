#include "tools/scorecard/trading/trading_model.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/cpu/batch_invariant.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/attention.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/model/moe.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "tools/scorecard/trading/market_feed.h"

namespace strata {
namespace {

// Ticks of a symbol after which its history begins anew.
constexpr int64_t kSession = 256;
constexpr int64_t kDecisions = 3;

ModelConfig Config() {
  ModelConfig config;
  config.set_name("trading");
  config.set_vocab_size(1);
  config.set_d_model(64);
  config.set_num_layers(2);
  config.set_max_seq_len(kSession);
  config.set_norm_eps(1e-5);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(4);
  attention.set_num_kv_heads(2);
  attention.set_head_dim(16);
  attention.set_rope_theta(10000);
  attention.set_window(64);
  config.mutable_moe()->set_expert_width(32);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  return config;
}

absl::StatusOr<Graph> BuildGraph(const TradingModelOptions& options) {
  const ModelConfig config = Config();
  const int64_t d = config.d_model();
  GraphBuilder b;
  const ValueId num_ticks = b.Input("num_tokens", DType::kI32, {});
  const Dim t = Ragged(options.max_ticks, num_ticks);
  const ValueId features =
      b.Input("features", DType::kF32, {t, Static(kNumFeatures)});
  AttentionInputs inputs;
  inputs.position = b.Input("position", DType::kI32, {t});
  inputs.cache_row = b.Input("cache_row", DType::kI32, {t});
  inputs.first_row = b.Input("first_row", DType::kI32, {t});
  inputs.cache_slots = options.num_symbols * kSession;
  ValueId h =
      Linear(b, features,
             b.Parameter("features.weight", {Static(d), Static(kNumFeatures)}));
  std::vector<RouterValues> routers;
  for (int64_t layer = 0; layer < config.num_layers(); ++layer) {
    GraphBuilder::Scope scope(b, absl::StrCat("model.layers.", layer));
    h = Add(b, h, AttentionBlock(b, config, inputs, layer, h));
    MoeOptions moe;
    moe.layer = layer;
    moe.num_tokens = num_ticks;
    h = MoeBlock(b, config, moe, h, routers);
  }
  const ValueId normed =
      RmsNorm(b, h, b.Parameter("norm.weight", {Static(d)}), config.norm_eps());
  b.Output("scores", Linear(b, normed,
                            b.Parameter("decision.weight",
                                        {Static(kDecisions), Static(d)})));
  return b.Finish();
}

}  // namespace

TradingModel::TradingModel(const TradingModelOptions& options)
    : backend_(options.num_threads, BatchInvariantCpuKernels()),
      state_(backend_),
      position_(options.num_symbols) {}

absl::StatusOr<std::unique_ptr<TradingModel>> TradingModel::Create(
    const TradingModelOptions& options) {
  auto model = std::unique_ptr<TradingModel>(new TradingModel(options));
  ASSIGN_OR_RETURN(Graph graph, BuildGraph(options));
  if (options.fuse) graph = FuseFor(graph, model->backend_, model->state_);
  Program::Options compile;
  compile.reuse_memory = options.plan;
  ASSIGN_OR_RETURN(model->program_,
                   Program::Compile(std::move(graph), model->backend_,
                                    model->state_, compile));
  InitializeParameters(Config(), /*seed=*/1, model->state_);
  return model;
}

absl::Status TradingModel::Decide(absl::Span<const TickRow> rows,
                                  Decision* decisions) {
  const auto input = [&](const char* name) {
    return program_->Input(name).as<int32_t>();
  };
  CHECK(static_cast<int64_t>(rows.size()) <= program_->Input("position").dim(0))
      << rows.size() << " ticks";
  *input("num_tokens") = static_cast<int32_t>(rows.size());
  float* const features = program_->Input("features").as<float>();
  int32_t* const position = input("position");
  int32_t* const cache_row = input("cache_row");
  int32_t* const first_row = input("first_row");
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].features.begin(), rows[i].features.end(),
              features + i * kNumFeatures);
    int32_t& next = position_[rows[i].symbol];
    position[i] = next;
    first_row[i] = static_cast<int32_t>(rows[i].symbol * kSession);
    cache_row[i] = first_row[i] + next;
    next = static_cast<int32_t>((next + 1) % kSession);
  }
  RETURN_IF_ERROR(program_->Run());
  const float* const scores = program_->Output("scores").as<float>();
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* const row = scores + i * kDecisions;
    decisions[i] =
        static_cast<Decision>(std::max_element(row, row + kDecisions) - row);
  }
  return absl::OkStatus();
}

}  // namespace strata
