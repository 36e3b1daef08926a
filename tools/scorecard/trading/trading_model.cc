#include "tools/scorecard/trading/trading_model.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
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
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/model/moe.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/runtime/constants.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"
#include "tools/scorecard/trading/feature_decoder.h"

namespace strata {
namespace {

// Ticks of a symbol after which its history begins anew.
constexpr int64_t kSession = 256;
constexpr int64_t kDecisions = 3;

constexpr int64_t kBlock = 16;  // Ticks of a block of the cache.

absl::StatusOr<ModelConfig> Config() {
  ASSIGN_OR_RETURN(ModelConfig config, ModelPreset("demo"));
  config.set_name("trading");
  config.set_d_model(config.d_model() / 2);
  config.set_max_seq_len(kSession);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_head_dim(attention.head_dim() / 2);
  attention.set_window(64);
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(moe.expert_width() / 2);
  HierarchicalRouterConfig& gate = *moe.mutable_hierarchical();
  gate.set_energy_groups(gate.energy_groups() / 2);
  gate.set_fine_width(gate.fine_width() / 2);
  return config;
}

absl::StatusOr<Graph> BuildGraph(const ModelConfig& config,
                                 const TradingModelOptions& options) {
  const int64_t d = config.d_model();
  GraphBuilder b;
  const ValueId num_ticks = b.Input("num_tokens", DType::kI32, {});
  const Dim t = Ragged(options.max_ticks, num_ticks);
  const ValueId features =
      b.Input("features", DType::kF32, {t, Static(kNumFeatures)});
  AttentionInputs inputs;
  inputs.position = b.Input("position", DType::kI32, {t});
  inputs.cache_row = b.Input("cache_row", DType::kI32, {t});
  inputs.cache_slots = options.num_symbols * kSession;
  inputs.pages.block_size = kBlock;
  inputs.pages.block_table =
      b.Input("block_table", DType::kI32,
              {Static(options.num_symbols), Static(kSession / kBlock)});
  inputs.pages.sequence = b.Input("sequence", DType::kI32, {t});
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
  ASSIGN_OR_RETURN(const ModelConfig config, Config());
  ASSIGN_OR_RETURN(Graph graph, BuildGraph(config, options));
  if (options.fuse) graph = FuseFor(graph, model->backend_, model->state_);
  if (options.fold) {
    ASSIGN_OR_RETURN(model->constants_,
                     Constants::TakeOut(graph, model->backend_, model->state_));
  }
  Program::Options compile;
  compile.reuse_memory = options.plan;
  ASSIGN_OR_RETURN(model->program_,
                   Program::Compile(std::move(graph), model->backend_,
                                    model->state_, compile));
  InitializeParameters(config, /*seed=*/1, model->state_);
  if (options.fold) RETURN_IF_ERROR(model->constants_->Update());
  // A symbol's blocks lie side by side.
  const TensorView& table = model->program_->Input("block_table");
  std::iota(table.as<int32_t>(), table.as<int32_t>() + table.num_elements(), 0);
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
  int32_t* const sequence = input("sequence");
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].features.begin(), rows[i].features.end(),
              features + i * kNumFeatures);
    int32_t& next = position_[rows[i].symbol];
    position[i] = next;
    sequence[i] = rows[i].symbol;
    cache_row[i] = static_cast<int32_t>(rows[i].symbol * kSession) + next;
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
